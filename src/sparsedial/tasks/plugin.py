"""lm-eval's command line with our dial: ``--model sparsedial --model_args pretrained=...,site=input,rule=top_p,p=0.9``.

lm-eval knows a model class once the module that registers it has been imported; it looks for no entry points.
So its command line is started from here, and takes the same arguments:

    python -m sparsedial.tasks.plugin run --model sparsedial --model_args pretrained=...,site=input,p=0.9 --tasks ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

import sparsedial.diffusion.model  # noqa: F401  # makes its architecture known to transformers
from sparsedial.diffusion.kinds import CAUSAL, check_kind, kind_of, mask_token_of
from sparsedial.diffusion.sampler import LOW_CONFIDENCE, Denoising
from sparsedial.errors import SparsedialError, TaskError
from sparsedial.models import LanguageModel
from sparsedial.rules import make_rule
from sparsedial.sources import Source, find_model
from sparsedial.sparsify import sparsify
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.generation import Prompt, generate
from sparsedial.tasks.loglikelihood import loglikelihoods, sharing
from sparsedial.tasks.packing import Window


@register_model("sparsedial")
class SparsedialLM(HFLM):
    """lm-eval's Hugging Face model under a dial; its prompts and tokens are lm-eval's, the forwards are ours.

    Takes every argument of `HFLM`, and:

    Args:
        pretrained: also a short name (``smollm2-135m``) or a GGUF file.
        site: ``input``, ``up``, ``gate``, ``intermediate`` or ``all_inputs``; rule: ``top_p``, ``top_k`` or ``max_p``.
        p: the rule's value (also called ``value`` or ``fraction``); the model is dense without it.
        batch_tokens: tokens per forward; lm-eval's ``batch_size`` decides for generation only.
        kind, mask_token: as `load_model` has them. For a masked diffusion model also diffusion_steps, block_length,
            remasking, guidance (see `Denoising`), mc_samples, and greedy: whether log-likelihoods also say if the model
            would say it by itself (lambada asks; a forward per token).
    """

    def __init__(
        self,
        pretrained: Any,
        site: str = "input",
        rule: str = "top_p",
        p: float | None = None,
        value: float | None = None,
        fraction: float | None = None,
        batch_tokens: int = 4096,
        device: str | None = None,
        kind: str | None = None,
        mask_token: int | None = None,
        diffusion_steps: int | None = None,
        block_length: int | None = None,
        remasking: str = LOW_CONFIDENCE,
        guidance: float = 0.0,
        mc_samples: int = 128,
        greedy: bool = True,
        **kwargs: Any,
    ) -> None:
        check_kind(kind)
        how = Denoising(diffusion_steps, block_length, remasking, guidance=float(guidance))
        self._diffusion, self._greedy = DiffusionAnswers(how, int(mc_samples)), greedy
        given = next((x for x in (p, value, fraction) if x is not None), None)
        dial = None if given is None else make_rule(rule, given)  # a mistake is told before the model loads
        if isinstance(pretrained, str):
            trust = bool(kwargs.get("trust_remote_code", False))
            source = find_model(pretrained, trust_remote_code=trust)
            pretrained = str(source.path)
        else:
            source = Source("given", Path(), "given", "")
        super().__init__(pretrained=pretrained, device=device, **kwargs)
        self.batch_tokens = int(batch_tokens)
        self.dial = None if dial is None else sparsify(self.model, site, dial)
        found = kind_of(self.model, kind)
        token = None if found == CAUSAL else mask_token_of(self.model, self.tokenizer, mask_token)
        self._lm = LanguageModel(self.model, self.tokenizer, source, str(self.model.dtype), self.device, found, token)
        if found != CAUSAL:
            self._lm.fills_in()  # or say what is missing
        self._share_up_to = sharing(self.model) if found == CAUSAL else 0

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As `HFLM`; the requests of one document share what they begin with."""
        self._documents = [(r.task_name, r.doc_id) for r in requests]
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._documents = []

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's cache of answers: it would give those of one dial value to another.

        Raises:
            TaskError: always.
        """
        raise TaskError("lm-eval's cache of answers does not know the dial: leave --use_cache out")

    _documents: Sequence[Any] = ()

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        documents = self._documents or range(len(requests))  # rolling windows belong to nobody
        groups: dict[Any, list[int]] = {}
        for index, document in enumerate(documents):
            groups.setdefault(document, []).append(index)
        windows = [[Window(*requests[i][1:]) for i in indices] for indices in groups.values()]
        same: dict[str, Any] = {"max_length": self.max_length, "batch_tokens": self.batch_tokens, "dial": self.dial}
        with self._dialled():
            if self._lm.kind == CAUSAL:
                found = loglikelihoods(self.model, windows, share_up_to=self._share_up_to, **same)
            else:
                found = self._diffusion.loglikelihoods(self._lm, windows, greedy=self._greedy, **same)
        answers: list[Any] = [None] * len(requests)
        for indices, group in zip(groups.values(), found, strict=True):
            for i, answer in zip(indices, group, strict=True):
                if answer[0] != answer[0]:
                    raise SparsedialError(f"the log-likelihood of request {i} is NaN: use a wider dtype")
                answers[i] = answer
        return answers

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        mask = options.pop("attention_mask")
        if not options.get("do_sample") and not options.get("temperature"):
            options.pop("temperature", None)
            options["do_sample"] = False
        size = context.shape[1]
        prompts = [
            Prompt(tokens[real.bool()].tolist(), tuple(stop), max_length - size, options)
            for tokens, real in zip(context, mask, strict=True)
        ]
        with self._dialled():
            if self._lm.kind == CAUSAL:
                made = generate(self.model, self.tokenizer, prompts, batch_tokens=sys.maxsize, dial=self.dial)
            else:
                made = self._diffusion.generate(self._lm, prompts, batch_tokens=sys.maxsize, dial=self.dial)
        width = max(len(m.tokens) for m in made)
        out = context.new_full((len(made), size + width), self.tokenizer.pad_token_id)
        out[:, :size] = context
        for row, answer in enumerate(made):
            out[row, size : size + len(answer.tokens)] = context.new_tensor(answer.tokens)
        return out

    def _dialled(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dial is None else self.dial

    def get_model_info(self) -> dict[str, Any]:
        """As `HFLM`, and what the dial dropped; printed as well, since lm-eval prints none of it."""
        info: dict[str, Any] = super().get_model_info()
        if self.dial is not None:
            sums = self.dial.stats().groupby("phase")[["dropped", "total"]].sum()
            info["sparsedial"] = {
                "site": self.dial.site,
                "rule": self.dial.rule.to_json(),
                "sparsity": self.dial.sparsity(),
                "by_phase": (sums["dropped"] / sums["total"]).to_dict(),
            }
            print(f"sparsedial: {self.dial.rule} at {self.dial.site}: sparsity {self.dial.sparsity():.4f}")
        return info


def main() -> None:
    """lm-eval's command line, with ``sparsedial`` among its models."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except SparsedialError as error:
        sys.exit(f"sparsedial: {error}")


if __name__ == "__main__":
    main()
