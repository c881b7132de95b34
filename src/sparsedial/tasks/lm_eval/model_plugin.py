"""Sparsified models in lm-eval's own command line, as the model ``sparsedial``.

lm-eval finds a model class only after the module that registers it has been imported, and it does not load entry
points. Therefore lm-eval's command line is started from this module, with the same arguments::

    python -m sparsedial.tasks.lm_eval.model_plugin run --model sparsedial \
        --model_args pretrained=smollm2-135m,site=input,rule=top_p,p=0.9 --tasks piqa
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from sparsedial.errors import NonFiniteOutputError, SparsedialError, SpecError, TaskError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.hooks.forward_context import PHASES
from sparsedial.hooks.sparsifier import Sparsifier, sparsify
from sparsedial.inference.backend import WindowScore
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.denoising_config import LOW_CONFIDENCE, DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext
from sparsedial.inference.sampling import SampleSeeds
from sparsedial.models.kind import CAUSAL, check_kind_name, detect_kind, find_mask_token
from sparsedial.models.loading import LanguageModel
from sparsedial.models.masked_diffusion_llama import register_masked_diffusion_llama
from sparsedial.models.sources import Source, resolve_source
from sparsedial.rules import Calibration, Rule, calibrates_vectors, make_rule
from sparsedial.tasks.lm_eval.answering import EMPTY_TEXT_SCORE
from sparsedial.tasks.lm_eval.encoder import limit_length
from sparsedial.tasks.option_parsing import option_field_names


@dataclass(frozen=True)
class SparsedialArguments:
    """Arguments of `SparsedialLM` in addition to those of lm-eval's `HFLM`.

    Attributes:
        site: Where the rule is applied: ``input``, ``up``, ``gate``, ``intermediate``, ``all_inputs``,
            ``attention_input``, ``attention_output``, ``lm_head_input``, or the name of a registered site.
        rule: Name or family of a rule (docs/rules.md) that needs no calibration on vectors.
        p: Parameter of the rule. None means the dense model.
        value: Alias of ``p``.
        fraction: Alias of ``p``.
        phases: ``prefill`` or ``generation``, to apply the rule in this phase only. None means both.
        batch_tokens: Tokens per forward pass. lm-eval's ``batch_size`` applies to generation only.
        kind: Kind of the model. None means that it is detected.
        mask_token: Mask token id of a diffusion model. None means that it is read from the configuration or
            tokenizer.
        diffusion_steps: Denoising steps. The default is one per token.
        block_length: Tokens per block of semi-autoregressive denoising. None means that all tokens are one block.
        remasking: ``low_confidence`` or ``random``.
        guidance: Weight of classifier-free guidance.
        mc_samples: Monte Carlo samples per log-likelihood of a masked diffusion model.
        greedy: Whether log-likelihoods also tell if the continuation is greedy. Only tasks such as LAMBADA need
            this, and it requires one forward pass per token of a masked diffusion model.
    """

    site: str = "input"
    rule: str = "top_p"
    p: float | None = None
    value: float | None = None
    fraction: float | None = None
    phases: str | None = None
    batch_tokens: int = 4096
    kind: str | None = None
    mask_token: int | None = None
    diffusion_steps: int | None = None
    block_length: int | None = None
    remasking: str = LOW_CONFIDENCE
    guidance: float = 0.0
    mc_samples: int = 128
    greedy: bool = True

    def make_rule(self) -> Rule | None:
        """Create the rule.

        Returns:
            The rule, or None for the dense model.

        Raises:
            SpecError: The rule is unknown, or its parameter is out of range.
        """
        for parameter in (self.p, self.value, self.fraction):
            if parameter is not None:
                return make_rule(self.rule, parameter)
        return None

    def diffusion_options(self) -> DiffusionOptions:
        """Collect the options of a diffusion model.

        Returns:
            The options.

        Raises:
            SpecError: A number is out of range.
        """
        denoising = DenoisingConfig(
            self.diffusion_steps, self.block_length, self.remasking, guidance=float(self.guidance)
        )
        return DiffusionOptions(denoising, int(self.mc_samples))


@register_model("sparsedial")
class SparsedialLM(HFLM):
    """lm-eval's Hugging Face model with a sparsifier. lm-eval makes prompts and tokens; sparsedial runs forward passes.

    Args:
        pretrained: A loaded model, or a name that `resolve_source` accepts, for example an alias
            (``smollm2-135m``), a directory or a GGUF file.
        device: Device, as in `HFLM`.
        **kwargs: Arguments of `SparsedialArguments`. All others go to `HFLM`.

    Raises:
        SpecError: The rule, its parameter, the site or another argument is wrong.
        ModelError: The model is of another kind, or has no mask token although it needs one.
    """

    def __init__(self, pretrained: Any, device: str | None = None, **kwargs: Any) -> None:
        arguments = _pop_arguments(kwargs)
        check_kind_name(arguments.kind)
        diffusion = arguments.diffusion_options()
        rule = arguments.make_rule()
        source = Source("given", Path(), "given", "")  # placeholder for a model that the caller has loaded
        if isinstance(pretrained, str):
            source = resolve_source(pretrained, trust_remote_code=bool(kwargs.get("trust_remote_code", False)))
            pretrained = str(source.path)
            if source.tokenizer_path is not None:
                kwargs.setdefault("tokenizer", str(source.tokenizer_path))
        register_masked_diffusion_llama()
        super().__init__(pretrained=pretrained, device=device, **kwargs)
        limit_length(self, self.model)
        self.batch_tokens = int(arguments.batch_tokens)
        lm = self._language_model(source, arguments)
        self.sparsifier: Sparsifier | None = None
        self._rule = rule
        if rule is not None:
            self.sparsifier = _make_sparsifier(lm, arguments, rule)
        self._backend = make_backend(lm, diffusion)
        self._need_greedy = arguments.greedy
        self._documents: Sequence[Any] = ()
        self._sample_seeds = SampleSeeds(DEFAULT_RUN.seed)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answer requests as `HFLM` does. Every sampled text has random numbers of its own.

        Args:
            requests: lm-eval's requests.
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            The texts.
        """
        self._sample_seeds = SampleSeeds(DEFAULT_RUN.seed)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Answer requests as `HFLM` does. Requests about one document share the computation of common prefixes.

        Args:
            requests: lm-eval's requests.
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            For each request, the log-likelihood, and whether the continuation is greedy.
        """
        self._documents = [(request.task_name, request.doc_id) for request in requests]
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        finally:
            self._documents = ()

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse lm-eval's cache of answers, which does not distinguish between values of p.

        Args:
            cache_hook: Not used.

        Raises:
            TaskError: Always.
        """
        raise TaskError("lm-eval's cache of answers ignores the rule and its parameter: leave --use_cache out")

    def get_model_info(self) -> dict[str, Any]:
        """Return and print the measured sparsity, together with what `HFLM` returns."""
        info: dict[str, Any] = super().get_model_info()
        sparsifier = self.sparsifier
        if sparsifier is None or self._rule is None:
            return info
        totals = sparsifier.stats().groupby("phase")[["dropped", "total"]].sum()
        info["sparsedial"] = {
            "site": sparsifier.site,
            "rule": self._rule.to_json(),
            "sparsity": sparsifier.sparsity(),
            "by_phase": (totals["dropped"] / totals["total"]).to_dict(),
        }
        print(f"sparsedial: {sparsifier.rule} at {sparsifier.site}: sparsity {sparsifier.sparsity():.4f}")
        return info

    def _language_model(self, source: Source, arguments: SparsedialArguments) -> LanguageModel:
        """Return the model that `HFLM` has loaded, with its kind and mask token."""
        kind = detect_kind(self.model, arguments.kind)
        mask_token = None
        if kind != CAUSAL:
            mask_token = find_mask_token(self.model, self.tokenizer, arguments.mask_token)
        lm = LanguageModel(self.model, self.tokenizer, source, str(self.model.dtype), self.device, kind, mask_token)
        if kind != CAUSAL:
            lm.require_mask_token()
        return lm

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Answer requests in tokens: (text, context, continuation)."""
        groups: dict[Any, list[int]] = defaultdict(list)
        documents = self._documents or range(len(requests))  # windows of rolling requests are not grouped by document
        answers: dict[int, tuple[float, bool]] = {}
        for index, document in enumerate(documents):
            if not requests[index][2]:
                answers[index] = (EMPTY_TEXT_SCORE.loglikelihood, EMPTY_TEXT_SCORE.is_greedy)
                continue
            self._check_request(index, requests[index])
            groups[document].append(index)
        windows = [_make_windows(requests, indices) for indices in groups.values()]
        max_shared_length = self._backend.max_shared_length(
            windows, max_length=self.max_length, batch_tokens=self.batch_tokens
        )
        with self._sparsified():
            group_scores = self._score_windows(windows, max_shared_length)
            for indices, scores in zip(groups.values(), group_scores, strict=True):
                for index, score in zip(indices, scores, strict=True):
                    if math.isnan(score.loglikelihood):
                        repeat = partial(self._score_windows, [_make_windows(requests, [index])], 0)
                        description = describe_nonfinite_logits(self.model, repeat)
                        raise NonFiniteOutputError(f"request {index}: {description}")
                    answers[index] = (score.loglikelihood, score.is_greedy)
        return [answers[index] for index in range(len(requests))]

    def _check_request(self, index: int, request: Any) -> None:
        """Raise an error if the model cannot score a request in tokens."""
        text, context, continuation = request
        where = f"request {index} ({text!r:.200})"
        if not context and self._backend.kind == CAUSAL:
            raise TaskError(
                f"{where}: the context has no token, so the model cannot predict what follows. Expected an empty "
                "context or one with text: lm-eval removes spaces at its end"
            )
        if len(continuation) > self.max_length:
            raise TaskError(
                f"{where}: the continuation has {len(continuation)} tokens, expected at most the {self.max_length} "
                "tokens that the model can read. Remove the document, or use a model with a longer context"
            )

    def _score_windows(self, groups: Sequence[Sequence[Window]], max_shared_length: int) -> list[list[WindowScore]]:
        return self._backend.loglikelihoods(
            groups,
            max_length=self.max_length,
            max_shared_length=max_shared_length,
            need_greedy=self._need_greedy,
            run=RunContext(self.sparsifier, batch_tokens=self.batch_tokens),
        )

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        """Continue a batch of prompts; `HFLM.generate_until` calls it in place of the model's ``generate``."""
        attention_mask = options.pop("attention_mask")
        if not options.get("do_sample") and not options.get("temperature"):
            options.pop("temperature", None)
            options["do_sample"] = False
        limit = max_length - context.shape[1]
        prompts = []
        for tokens, real in zip(context, attention_mask, strict=True):
            prompt = tokens[real.bool()].tolist()
            prompts.append(Prompt(prompt, tuple(stop), limit, options, seed=self._sample_seeds.next_seed(prompt)))
        with self._sparsified():
            texts = self._backend.generate(prompts, RunContext(self.sparsifier, batch_tokens=sys.maxsize))
        return _append_texts(context, texts, self.tokenizer.pad_token_id)

    def _sparsified(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.sparsifier is None else self.sparsifier


def _make_sparsifier(lm: LanguageModel, arguments: SparsedialArguments, rule: Rule) -> Sparsifier:
    """Return a sparsifier, whose rule is calibrated for the model if it needs that."""
    ffns = find_ffns(lm.model)
    calibration = None
    if calibrates_vectors(type(rule)):
        raise SpecError(
            f"rule {rule!r}: it is calibrated on the vectors of a model, which is not possible inside lm-eval. Run the "
            "task with sparsedial run --tasks, or choose another rule."
        )
    if rule.needs_calibration:
        calibration = Calibration(rule.calibrate(lm, ffns))
    phases = arguments.phases or PHASES
    return sparsify(lm.model, arguments.site, rule, ffns=ffns, calibration=calibration, phases=phases)


def _pop_arguments(kwargs: dict[str, Any]) -> SparsedialArguments:
    """Remove the arguments of `SparsedialArguments` from ``kwargs``, and return them."""
    arguments: dict[str, Any] = {}
    for name in option_field_names(SparsedialArguments):
        if name in kwargs:
            arguments[name] = kwargs.pop(name)
    return SparsedialArguments(**arguments)


def _make_windows(requests: Sequence[Any], indices: Sequence[int]) -> list[Window]:
    """Return the windows of the requests about one document."""
    windows = []
    for index in indices:
        _, context, continuation = requests[index]
        windows.append(Window(context, continuation))
    return windows


def _append_texts(context: Any, texts: Sequence[GeneratedTokens], pad_token: int) -> Any:
    """Return the prompts and generated texts as one padded tensor, like the model's ``generate``."""
    start = context.shape[1]
    longest = max(len(text.tokens) for text in texts)
    output = context.new_full((len(texts), start + longest), pad_token)
    output[:, :start] = context
    for row, text in enumerate(texts):
        output[row, start : start + len(text.tokens)] = context.new_tensor(text.tokens)
    return output


def main() -> None:
    """Run lm-eval's command line, with ``sparsedial`` among its models."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except SparsedialError as error:
        sys.exit(f"sparsedial: {error}")


if __name__ == "__main__":
    main()
