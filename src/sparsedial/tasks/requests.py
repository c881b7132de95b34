"""What a task asks of a model, as plain JSON: lm-eval's own prompts in lm-eval's own tokens.

The prompts come from the task (`lm_eval`), the tokens from lm-eval's Hugging Face model (`HFLM`), which is
given the tokenizer and the configuration but no weights. So both are the same here and there by construction.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.models import LanguageModel
from sparsedial.tasks.base import Progress, no_progress

TOGETHER = 32
KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@contextmanager
def quietly() -> Iterator[None]:
    """lm-eval and datasets draw bars and warn about what is meant: not on our user's terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def encoder(lm: LanguageModel) -> Any:
    """lm-eval's `HFLM` as far as it turns text into tokens.

    Raises:
        TaskError: the model has no tokenizer, or is not a decoder.
    """
    if lm.tokenizer is None:
        raise TaskError(
            f"model {lm.source.name!r} has no tokenizer: lm-eval's tasks need one (self_prediction does not)"
        )
    tokenizer = copy.deepcopy(lm.tokenizer)  # it is given a padding token
    shell = SimpleNamespace(config=lm.model.config, device=lm.device, name_or_path=lm.source.name)
    with quietly():
        made = _encoder_class()(pretrained=shell, tokenizer=tokenizer)
    if made.backend != "causal":
        raise TaskError(f"model {lm.source.name!r} is an encoder-decoder: expected a decoder-only language model")
    return made


@lru_cache(maxsize=1)
def _encoder_class() -> type:
    with quietly():
        from lm_eval.models.huggingface import HFLM

    class Encoder(HFLM):
        """Keeps the tokens it is asked to score."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._encoded = lru_cache(maxsize=64)(super().tok_encode)

        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
            """As it does; a question's text comes again with every option."""
            return list(self._encoded(string, *args, **kwargs))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self.asked = [(context, continuation) for _, context, continuation in requests]
            return [(0.0, False)] * len(self.asked)

        def windows(self, request: Any) -> list[tuple[list[int], list[int]]]:
            """The windows whose log-likelihoods answer a request, summed."""
            if request.request_type == "loglikelihood_rolling":
                self.batch_size_per_gpu = 1 << 30  # all windows at once
            getattr(self, request.request_type)([request], disable_tqdm=True)
            return list(self.asked)

    return Encoder


def encode(name: str, instances: list[Any], coder: Any, progress: Progress = no_progress) -> dict[str, Any]:
    """The requests of a task as plain JSON.

    Returns:
        ``max_length``; ``contexts``, each distinct token list once; ``requests``, each with ``doc``, ``idx``,
        ``repeats``, ``kind`` and either ``windows`` (pairs of a context's index and a continuation) or
        ``context`` (an index) with ``until``, ``limit`` and ``options`` of the generation.

    Raises:
        TaskError: a kind of request, or a generation, that cannot be done.
    """
    for instance in instances:
        if instance.request_type not in KINDS:
            raise TaskError(f"task {name!r} asks for {instance.request_type!r}: expected one of {', '.join(KINDS)}")
    contexts: dict[tuple[int, ...], int] = {}
    requests: list[dict[str, Any]] = []
    for instance, windows in zip(instances, _windows(instances, coder), strict=True):
        request = {"doc": instance.doc_id, "idx": instance.idx, "repeats": instance.repeats or 1}
        request["kind"] = instance.request_type
        if instance.request_type == "generate_until":
            context, request["until"], request["limit"], request["options"] = _generation(name, instance, coder)
            request["context"] = contexts.setdefault(tuple(context), len(contexts))
        else:
            request["windows"] = []
            for context, continuation in windows:
                if not continuation:
                    raise TaskError(
                        f"task {name!r}, document {instance.doc_id}: nothing to score: {instance.args!r:.200}"
                    )
                if len(continuation) > coder.max_length:
                    raise TaskError(
                        f"task {name!r}, document {instance.doc_id}: {len(continuation)} tokens to score, more than "
                        f"the model's {coder.max_length}"
                    )
                index = contexts.setdefault(tuple(context), len(contexts))
                request["windows"].append([index, list(continuation)])
        requests.append(request)
        progress(len(requests), len(instances))
    return {"max_length": coder.max_length, "contexts": [list(c) for c in contexts], "requests": requests}


def _windows(instances: list[Any], coder: Any) -> Iterator[list[tuple[list[int], list[int]]]]:
    """What each is to score (nothing where it is to generate), some at a time: `quietly` takes as long as a request."""
    for start in range(0, len(instances), TOGETHER):
        with quietly():
            some = [
                [] if i.request_type == "generate_until" else coder.windows(i)
                for i in instances[start : start + TOGETHER]
            ]
        yield from some


def _generation(name: str, instance: Any, coder: Any) -> tuple[list[int], list[str], int, dict[str, Any]]:
    """The context's tokens, stop strings, token limit and sampling options, as `HFLM.generate_until` makes them."""
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

    text, asked = instance.args[:2]
    with quietly():
        options = dict(normalize_gen_kwargs(asked, coder.max_gen_toks))
        eos = coder.tok_decode(coder.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(options.pop("until", None), eos=eos)
        limit = int(options.pop("max_gen_toks"))
        room = coder.max_length - limit
        if room < 1:
            raise TaskError(
                f"task {name!r} may generate {limit} tokens, which leaves no room for a prompt in the model's "
                f"{coder.max_length}"
            )
        tokens, _ = coder.tok_batch_encode([text], left_truncate_len=room)
    if not options.get("do_sample") and options.get("temperature") == 0.0:
        options.pop("temperature", None)
    return tokens[0].tolist(), list(until), limit, options


def filters(task: Any) -> list[str]:
    """The names of an lm-eval task's filters, in order; each gives its own numbers."""
    return [f.name for f in task._filters]
