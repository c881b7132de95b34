"""Test of whether a causal model gives the same logits with a `SlotCache` as without a cache.

A model that is not made of ordinary attention layers keeps another state than keys and values, or computes positions
and masks by itself. There is no reliable list of such models, so the kind of their cache is read, and a few tokens are
decoded and compared.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.cache_arguments import cache_argument
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.inference.model_limits import count_embedding_rows, max_positions
from sparsedial.inference.run_context import DEFAULT_RUN
from sparsedial.inference.slot_decoder import FULL_ATTENTION, SLIDING_ATTENTION, AttentionKinds, SlotDecoder

MAX_ERRORS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
"""Maximum error of the logits by data type, relative to their norm."""
MAX_SHARE_OF_WRONG_ERROR = 1 / 2
"""Maximum error, as a fraction of the error of a text whose first token is missing."""
TEST_PROMPTS = (9, 5, 7)
"""Lengths of the test prompts."""
TEST_STEPS = 3
MAX_TESTED_WINDOW = 1024
"""Largest window of sliding attention whose effect is tested. Longer windows may not be shorter than the texts."""
REQUIRED_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", "use_cache")
LENGTH_DEPENDENT_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary position embeddings that depend on the length of the longest text of a batch."""
CACHE_LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")
"""Classes of transformers that hold the keys and values of ordinary attention layers."""


@dataclass(frozen=True)
class SlotSupport:
    """Result of `check_slot_support`.

    Attributes:
        obstacle: Why the model cannot be run with a `SlotCache`. None if it can.
        bytes_per_token: Size of the keys and values of one token.
    """

    obstacle: str | None
    bytes_per_token: int = 0


_results: WeakKeyDictionary[Any, dict[tuple[int, ...], SlotSupport]] = WeakKeyDictionary()
"""Results by model and lengths of the test prompts."""


def check_slot_support(model: Any, max_length: int) -> SlotSupport:
    """Return whether a model can be run with a `SlotCache`. Attached sparsifiers count nothing.

    Args:
        model: Causal language model.
        max_length: Maximum number of tokens of a text with its prompt.
    """
    window = None
    obstacle = _describe_structure(model) or _describe_rotation(model, max_length)
    if obstacle is None:
        window = AttentionKinds.from_config(model.config.get_text_config(decoder=True)).window
    lengths = TEST_PROMPTS
    if window is not None and window < max_length:
        if window > MAX_TESTED_WINDOW:
            obstacle = f"its attention window of {window} tokens is shorter than the texts, and too long to be tested"
        lengths = (window + TEST_PROMPTS[0], *TEST_PROMPTS[1:])
    if obstacle is not None:
        return SlotSupport(obstacle)
    known = _results.setdefault(model, {})
    if lengths not in known:
        known[lengths] = _test_model(model, lengths)
    return known[lengths]


def _describe_structure(model: Any) -> str | None:
    """Return what makes the model unsuitable according to its class and configuration, or None."""
    from transformers import DynamicCache, GenerationMixin, PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder:
        return f"{name} is no decoder of transformers"
    kind = type(model)
    if getattr(kind, "generate", None) is not GenerationMixin.generate:
        return f"{name} has a method generate of its own"
    if getattr(model, "_is_stateful", False):
        return f"{name} has a recurrent state"
    parameters = inspect.signature(kind.forward).parameters
    required = (*REQUIRED_ARGUMENTS, cache_argument(kind.forward))
    missing = [argument for argument in required if argument not in parameters]
    if missing:
        return f"the forward of {name} has no argument {', '.join(missing)}"
    config = model.config.get_text_config(decoder=True)
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"transformers has no ordinary cache for {name}: {error}"
    others = {type(layer).__name__ for layer in layers} - {*CACHE_LAYERS}
    others |= {*AttentionKinds.from_config(config).names} - {FULL_ATTENTION, SLIDING_ATTENTION}
    if others:
        return f"{name} has layers with another cache or mask: {', '.join(sorted(others))}"
    return None


def _describe_rotation(model: Any, max_length: int) -> str | None:
    """Return why the position embeddings of one text depend on the length of the others, or None if they do not."""
    config = model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    by_layer_type = [entry for entry in parameters.values() if isinstance(entry, Mapping)]
    for rotation in by_layer_type or [parameters]:
        kind = rotation.get("rope_type", rotation.get("type"))
        if kind not in LENGTH_DEPENDENT_ROTATIONS:
            continue
        limit = rotation.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", config.max_position_embeddings
        )
        if limit < max_length:
            return f"its position embeddings ({kind}) change when one text of a batch is longer than {limit} tokens"
    return None


@torch.inference_mode()
def _test_model(model: Any, lengths: tuple[int, ...]) -> SlotSupport:
    """Compare the logits of a few test texts with those of forward passes without a cache."""
    name = type(model).__name__
    longest = max(lengths) + TEST_STEPS
    limit = max_positions(model)
    if limit is not None and limit < longest:
        return SlotSupport(f"{name} has {limit} positions, fewer than the {longest} tokens of a test text")
    vocabulary = count_embedding_rows(model)
    texts = []
    for row, length in enumerate(lengths):
        texts.append([(3 + 7 * index + 31 * row) % vocabulary for index in range(length + TEST_STEPS)])
    try:
        with pause_sparsifiers():
            actual, bytes_per_token = _decode_test_texts(model, texts, lengths)
            is_right = _are_right(model, texts, lengths, actual)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model may reject the cache, the mask or the positions with any kind of error
        return SlotSupport(f"{name} cannot be run with a cache of slots: {type(error).__name__}: {error}")
    if not is_right:
        return SlotSupport(f"{name} gives other logits with a cache of slots")
    return SlotSupport(None, bytes_per_token)


def _decode_test_texts(
    model: Any, texts: list[list[int]], lengths: tuple[int, ...]
) -> tuple[dict[tuple[int, int], torch.Tensor], int]:
    """Return the logits after each token of the texts by text and length, and the bytes per token of the cache.

    The first text ends early, so that another one moves into its slot, and the last one begins late.
    """
    decoder = SlotDecoder(model, len(texts), max(lengths) + TEST_STEPS)
    logits: dict[tuple[int, int], torch.Tensor] = {}
    first = decoder.read_prompts([texts[0][: lengths[0]], texts[1][: lengths[1]]], 0, DEFAULT_RUN)
    logits[0, lengths[0]], logits[1, lengths[1]] = first
    sizes = [lengths[0], lengths[1]]
    active = [0, 1]
    for step in range(TEST_STEPS):
        if step == 1:
            decoder.cache.move(1, 0, sizes[1])
            active = [1, 2]
            sizes = [sizes[1], lengths[2]]
            [logits[2, lengths[2]]] = decoder.read_prompts([texts[2][: lengths[2]]], 1, DEFAULT_RUN)
        decoder.set_tokens([texts[text][size] for text, size in zip(active, sizes, strict=True)], sizes, 2)
        outputs = decoder.decode(2, max(sizes) + 1)
        sizes = [size + 1 for size in sizes]
        for text, size, output in zip(active, sizes, outputs, strict=True):
            logits[text, size] = output
    return logits, decoder.cache.count_bytes_per_token()


def _are_right(
    model: Any, texts: list[list[int]], lengths: tuple[int, ...], actual: dict[tuple[int, int], torch.Tensor]
) -> bool:
    """Return True if the logits are those of forward passes without a cache, except for rounding errors."""
    max_error = MAX_ERRORS.get(model.dtype, MAX_ERRORS[torch.bfloat16])
    for text, tokens in enumerate(texts):
        expected = _center(model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0])
        shorter = torch.tensor([tokens[1:]], device=model.device)
        wrong = _center(model(input_ids=shorter, use_cache=False).logits[0])
        for size in range(lengths[text], len(tokens) + 1):
            if (text, size) not in actual:
                continue
            right = expected[size - 1]
            if not right.isfinite().all():  # the generation itself reports this
                continue
            error = (_center(actual[text, size]) - right).norm() / right.norm()
            wrong_error = (wrong[size - 2] - right).norm() / right.norm()
            if not error <= min(max_error, float(wrong_error) * MAX_SHARE_OF_WRONG_ERROR):  # False for NaN
                return False
    return True


def _center(logits: torch.Tensor) -> torch.Tensor:
    """Subtract the mean over the vocabulary, which changes no probability."""
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise - precise.mean(-1, keepdim=True)
