"""Context of a forward pass, read from the arguments of the models that are running."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from sparsedial.hooks.cache_state import CacheState, read_cache
from sparsedial.hooks.forward_arguments import ForwardArguments, TokenInput
from sparsedial.hooks.forward_context import GENERATION, PREFILL, ForwardContext, UnknownPadding
from sparsedial.hooks.forward_override import ForwardOverride
from sparsedial.hooks.padding import UnreadableMaskError, read_packed_tokens, read_real_tokens
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved


@dataclass(frozen=True, eq=False)
class Scope:
    """A model whose forward is running.

    Attributes:
        model_index: Index of the hooked model.
        arguments: Description of its arguments.
        context: Context of the vectors that it computes itself.
        cache: State of its cache when its forward started, or None without a cache.
        starts_without_cache: True if this model, or one that calls it, was given no cache although it accepts one. A
            cache that is passed to a model inside it holds no tokens of an earlier forward pass.
    """

    model_index: int
    arguments: ForwardArguments
    context: ForwardContext
    cache: CacheState | None
    starts_without_cache: bool = False


@dataclass(frozen=True, eq=False)
class _Padding:
    real_tokens: torch.Tensor | None = None
    unknown: UnknownPadding | None = None


def open_scope(
    model_index: int,
    arguments: ForwardArguments,
    outer: Scope | None,
    override: ForwardOverride,
    finished_rows: torch.Tensor | None,
) -> Scope:
    """Return the scope of a model whose forward starts.

    Args:
        model_index: Index of the hooked model.
        arguments: Description of its arguments.
        outer: Scope of the model that calls it, or None if it is the outermost one.
        override: Values that the user stated.
        finished_rows: Boolean tensor of shape [batch] that is True for the rows whose generation has ended, or None.

    Returns:
        The scope.
    """
    if outer is not None and _describe_the_same(arguments, outer.arguments):
        return replace(outer, model_index=model_index, arguments=arguments)
    cache = _read_cache(arguments, outer, override)
    tokens = arguments.single_input
    shape = None if tokens is None else tokens.shape
    if shape is None and outer is not None and not arguments.has_tensors:
        return replace(outer, model_index=model_index, arguments=arguments, cache=cache)
    can_bypass_dispatcher = dispatcher_is_unobserved() and not _is_capturing_graph()
    phase, generation_tokens = _read_phase(arguments, outer, cache, override)
    stated = override.real_tokens
    states_real_tokens = stated is not None and not _belongs_to_other_tokens(stated, shape, outer)
    if states_real_tokens:
        padding = _Padding(stated)
    elif arguments.packed is not None and tokens is not None:
        real, generating = read_packed_tokens(arguments.packed, tokens.shape[1])
        padding = _Padding(real)
        if override.phase is None:
            generation_tokens = generating
    else:
        padding = _read_padding(arguments, outer, cache)
        if finished_rows is not None and shape is not None and padding.unknown is None:
            padding = _Padding(_exclude_rows(padding.real_tokens, finished_rows, shape))
    is_single = can_bypass_dispatcher and _is_single_cpu_token(tokens, padding.real_tokens)
    context = ForwardContext(
        phase=phase,
        step=override.step,
        real_tokens=padding.real_tokens,
        masked_tokens=override.masked_tokens,
        is_single_cpu_token=is_single and _is_uniform(generation_tokens, padding, override),
        can_bypass_dispatcher=can_bypass_dispatcher,
        token_shape=shape,
        generation_tokens=generation_tokens,
        states_real_tokens=states_real_tokens,
        unknown_padding=padding.unknown,
        thinking=override.thinking,
    )
    starts_without_cache = arguments.starts_without_cache or (outer is not None and outer.starts_without_cache)
    return Scope(model_index, arguments, context, cache, starts_without_cache)


def _describe_the_same(arguments: ForwardArguments, outer: ForwardArguments) -> bool:
    """Return True if a model passes its tokens, mask and cache on to a model inside it."""
    inner_tokens = arguments.single_input
    outer_tokens = outer.single_input
    if inner_tokens is None or outer_tokens is None or outer.is_encoder_decoder or arguments.packed is not None:
        return False
    return (
        inner_tokens.tokens is outer_tokens.tokens
        and inner_tokens.mask is outer_tokens.mask
        and arguments.cache is outer.cache
    )


def _read_cache(arguments: ForwardArguments, outer: Scope | None, override: ForwardOverride) -> CacheState | None:
    """Return the state of the cache. A cache that the outer model passed on is not read twice."""
    if arguments.cache is None:
        if outer is None or outer.arguments.is_encoder_decoder or not _has_the_same_tokens(arguments, outer):
            return None
        return outer.cache
    if outer is not None and outer.arguments.cache is arguments.cache:
        return outer.cache
    if override.phase is not None:
        return CacheState(is_filled=override.phase == GENERATION)
    return read_cache(arguments.cache)


def _has_the_same_tokens(arguments: ForwardArguments, outer: Scope) -> bool:
    """Return True if a model processes the tokens of the model that calls it, one vector per token."""
    inner_tokens = arguments.single_input
    outer_tokens = outer.arguments.single_input
    if inner_tokens is None or outer_tokens is None:
        return False
    return inner_tokens.shape == outer_tokens.shape


def _read_phase(
    arguments: ForwardArguments, outer: Scope | None, cache: CacheState | None, override: ForwardOverride
) -> tuple[str, torch.Tensor | None]:
    """Return the phase, and a boolean tensor that is True for "generation" if only the device knows the phase."""
    if override.phase is not None:
        return override.phase, None
    if cache is None or (outer is not None and outer.starts_without_cache):
        return PREFILL, None
    if isinstance(cache.is_filled, torch.Tensor):
        is_single_token = arguments.single_input is not None and arguments.single_input.shape[1] == 1
        return GENERATION if is_single_token else PREFILL, cache.is_filled
    return GENERATION if cache.is_filled else PREFILL, None


def _read_padding(arguments: ForwardArguments, outer: Scope | None, cache: CacheState | None) -> _Padding:
    tokens = arguments.single_input
    if tokens is None:
        if any(entry.mask is not None for entry in arguments.inputs):
            return _Padding(unknown=UnknownPadding("The model reads two sequences of tokens, each with its mask"))
        return _Padding()
    if tokens.mask is None:
        if outer is None:
            return _Padding()
        for entry in outer.arguments.inputs:
            if entry.tokens is not None and entry.tokens is tokens.tokens:
                return _read_mask(entry, cache)
        if outer.arguments.is_encoder_decoder or not arguments.traits.reads_text:
            return _Padding()
        if not _has_the_same_tokens(arguments, outer):
            return _Padding(unknown=_describe_derived_tokens(tokens, outer))
        return _Padding(outer.context.real_tokens, outer.context.unknown_padding)
    return _read_mask(tokens, cache)


def _describe_derived_tokens(tokens: TokenInput, outer: Scope) -> UnknownPadding | None:
    """Return the reason why it is unknown which vectors stem from padding, or None if the outer model has none.

    A model may compute another number of vectors from its tokens, such as one per patch of bytes.
    """
    real = outer.context.real_tokens
    if real is None:
        return outer.context.unknown_padding
    rows, count = tokens.shape
    return UnknownPadding(
        f"A model inside the model reads {rows} x {count} vectors without a mask, and the attention mask of the "
        f"model has the shape {list(real.shape)}",
        real,
    )


def _read_mask(tokens: TokenInput, cache: CacheState | None) -> _Padding:
    try:
        return _Padding(read_real_tokens(tokens, cache))
    except UnreadableMaskError as error:
        reason = str(error)
        mask = tokens.mask if isinstance(tokens.mask, torch.Tensor) and tokens.mask.dim() <= 2 else None
        return _Padding(unknown=UnknownPadding(reason[0].upper() + reason[1:], mask))


def _belongs_to_other_tokens(real: torch.Tensor, shape: tuple[int, int] | None, outer: Scope | None) -> bool:
    """Return True if the flags that the user stated are those of the other tokens of an encoder-decoder model."""
    if outer is None or shape is None or real.numel() == shape[0] * shape[1]:
        return False
    return outer.arguments.is_encoder_decoder


def _exclude_rows(
    real: torch.Tensor | None, finished_rows: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor | None:
    """Return the real tokens without those of rows whose generation has ended."""
    rows, count = shape
    if finished_rows.numel() != rows:
        return real
    if finished_rows.device.type == "cpu" and not finished_rows.any():
        return real
    unfinished = ~finished_rows[:, None].expand(rows, count)
    if real is None:
        return unfinished
    return real & unfinished.to(real.device)


def _is_capturing_graph() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _is_uniform(generation_tokens: torch.Tensor | None, padding: _Padding, override: ForwardOverride) -> bool:
    """Return True if the host knows that all tokens are counted, and in which phase and segment."""
    is_segment_known = not isinstance(override.thinking, torch.Tensor)
    return generation_tokens is None and padding.unknown is None and is_segment_known


def _is_single_cpu_token(tokens: TokenInput | None, real_tokens: torch.Tensor | None) -> bool:
    if tokens is None or tokens.shape != (1, 1) or tokens.tokens is None or not tokens.tokens.is_cpu:
        return False
    return real_tokens is None or (real_tokens.is_cpu and real_tokens.numel() == 1 and bool(real_tokens))
