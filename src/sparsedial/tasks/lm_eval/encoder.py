"""lm-eval's Hugging Face model without weights, which turns text into tokens exactly as lm-eval does."""

from __future__ import annotations

import copy
import io
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sparsedial.errors import TaskError
from sparsedial.inference.model_limits import max_positions
from sparsedial.models.loading import LanguageModel

PYTHON_SEED = 0
NUMPY_SEED = 1234
TORCH_SEED = 1234
"""The seed of torch's generator and the seeds before are the defaults of lm-eval's `simple_evaluate`."""
MAX_CACHED_TEXTS = 64
UNLIMITED_BATCH_SIZE = 1 << 30


@contextmanager
def silence_lm_eval() -> Iterator[None]:
    """Suppress the progress bars and warnings of lm-eval and datasets inside the ``with`` block."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def seed_random_generators() -> Iterator[None]:
    """Seed the global random number generators as lm-eval does, and restore them after the ``with`` block.

    Some tasks draw random numbers without a seed of their own while they load data or make prompts.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(PYTHON_SEED)
        np.random.seed(NUMPY_SEED)
        torch.default_generator.manual_seed(TORCH_SEED)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def make_weightless_hflm(lm: LanguageModel) -> Any:
    """Return lm-eval's `HFLM` for the tokenizer of a model, without its weights.

    Args:
        lm: Model whose tokenizer and configuration are used.

    Returns:
        An `HFLM` with one more method: ``windows(request)`` returns the pairs of context and continuation whose
        log-likelihoods add up to the answer to a request. The list is empty if there is no token to score.

    Raises:
        TaskError: The model has no tokenizer, or one without BOS and EOS token, or is not a decoder-only model.
    """
    if lm.tokenizer is None:
        raise TaskError(
            f"model {lm.source.name!r} has no tokenizer, which lm-eval tasks need: use the task self_prediction"
        )
    tokenizer = copy.deepcopy(lm.tokenizer)  # HFLM adds a padding token
    shell = SimpleNamespace(config=lm.model.config, device=lm.device, name_or_path=lm.source.name)
    with silence_lm_eval():
        encoder = _encoder_class()(pretrained=shell, tokenizer=tokenizer)
    limit_length(encoder, lm.model)
    if encoder.prefix_token_id is None:
        raise TaskError(
            f"the tokenizer of {lm.source.name!r} has neither a BOS nor an EOS token, one of which lm-eval puts before "
            "a text without a context: set bos_token or eos_token of the tokenizer, or use the task self_prediction"
        )
    if encoder.backend != "causal":
        raise TaskError(f"model {lm.source.name!r} is an encoder-decoder: expected a decoder-only language model")
    return encoder


def limit_length(hflm: Any, model: Any) -> None:
    """Limit the length of what lm-eval's `HFLM` reads to the positions of a model, unless the user has set a length.

    lm-eval itself does not know about reserved positions.

    Args:
        hflm: The `HFLM`, which is changed.
        model: Model with the positions.
    """
    limit = max_positions(model)
    if limit is not None and not hflm._max_length:
        hflm._max_length = min(limit, hflm.max_length)


@lru_cache(maxsize=1)
def _encoder_class() -> type:
    """Define and return the class `Encoder`, on first use because importing lm-eval is slow."""
    with silence_lm_eval():
        from lm_eval.models.huggingface import HFLM

    class Encoder(HFLM):
        """Variant of `HFLM` that records the windows that lm-eval would score, instead of scoring them."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._cached_encode = lru_cache(maxsize=MAX_CACHED_TEXTS)(super().tok_encode)
            self._windows: list[tuple[list[int], list[int]]] = []

        def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
            """Encode a text as `HFLM` does. A context that several requests share is encoded once."""
            return list(self._cached_encode(string, *args, **kwargs))

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            self._windows = [(context, continuation) for _, context, continuation in requests]
            return [(0.0, False)] * len(self._windows)

        def windows(self, request: Any) -> list[tuple[list[int], list[int]]]:
            """Return the pairs of context and continuation whose log-likelihoods are summed.

            A pair without a token to score is omitted, because the log-likelihood of an empty text is 0.
            """
            if request.request_type == "loglikelihood_rolling":
                self.batch_size_per_gpu = UNLIMITED_BATCH_SIZE  # lm-eval then passes all windows in one call
            elif request.args[0] == "" and not self.tok_encode(request.args[1], add_special_tokens=False):
                return []  # lm-eval raises an error
            self._windows = []  # lm-eval passes no windows for an empty document
            getattr(self, request.request_type)([request], disable_tqdm=True)
            return [window for window in self._windows if window[1]]

    return Encoder
