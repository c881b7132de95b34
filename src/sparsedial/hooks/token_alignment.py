"""Assignment of the real tokens of a forward pass to the vectors of each call of the rule.

A feed-forward layer usually processes all tokens at once. It may also process them in parts (chunked feed-forward
layers), in time-major order, or without the padding. Each of these cases is recognised by the shapes. An error is
raised if the vectors cannot be assigned to tokens and there is padding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod

import torch

from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.pending_counts import RuleCall

ADVICE = (
    "Run without padding, or state which vectors belong to real tokens: sparsifier.observe(real=...), a boolean "
    "tensor with one entry per vector."
)


def assign_real_tokens(
    context: ForwardContext, calls: Sequence[RuleCall], keys: Sequence[CounterKey]
) -> list[torch.Tensor | None]:
    """Return the real tokens for each call of the rule in one context.

    Args:
        context: Context of the calls.
        calls: Calls of the rule, in order.
        keys: Description of each counter.

    Returns:
        One boolean tensor per call, with one entry per token in row-major order of the call's vectors. None if all
        tokens are real.

    Raises:
        AttachError: There is padding, and the vectors cannot be assigned to the tokens.
        SpecError: The number of real-token flags that the user stated differs from the number of vectors.
    """
    if context.unknown_padding is not None:
        mask = context.unknown_padding.mask
        if mask is None or not _has_no_padding(mask):
            raise AttachError(f"{context.unknown_padding.reason}, so padding would be counted. {ADVICE}")
        return [None] * len(calls)
    real = context.real_tokens
    if real is None:
        return [None] * len(calls)
    tokens = _TokenMatrix(real, context)
    assigned: list[torch.Tensor | None] = [None] * len(calls)
    by_counter: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, call in enumerate(calls):
        is_selection = call.token_indices is not None or keys[call.counters[0]].moe_path is not None
        if call.routing is None and is_selection:
            # An expert in a list reads some of the tokens. `ExpertTokenTracker` reports those it could not track. The
            # output layer may also read some of them.
            assigned[index] = None if call.token_indices is None else real
        else:
            by_counter[call.counters].append(index)
    for counters, indices in by_counter.items():
        shapes = [calls[index].shape for index in indices]
        masks = tokens.assign(shapes, keys[counters[0]].is_time_major)
        if masks is None:
            _check_without_padding(context, real, shapes, keys[counters[0]].module)
            continue
        for index, mask in zip(indices, masks, strict=True):
            assigned[index] = mask
    return assigned


class _TokenMatrix:
    """Real tokens as a matrix of shape [batch, tokens]."""

    def __init__(self, real: torch.Tensor, context: ForwardContext) -> None:
        self._rows = 1
        if real.dim() >= 2:
            self._rows = real.shape[0]
        elif context.token_shape is not None and prod(context.token_shape) == real.numel():
            self._rows = context.token_shape[0]
        self._count = real.numel() // max(1, self._rows)
        self._real = real
        self._transposed: torch.Tensor | None = None

    def assign(self, shapes: Sequence[torch.Size], is_time_major: bool) -> list[torch.Tensor] | None:
        """Return the real tokens of each call of one counter, or None if the shapes do not match the tokens."""
        masks: list[torch.Tensor] = []
        while len(masks) < len(shapes):
            following = shapes[len(masks) :]
            if following[0].numel() == self._rows * self._count:
                whole = self._assign_whole(following[0], is_time_major)
                parts = None if whole is None else [whole]
            else:
                parts = self._assign_parts(following)
            if parts is None:
                return None
            masks += parts
        return masks

    def _assign_whole(self, shape: torch.Size, is_time_major: bool) -> torch.Tensor | None:
        if len(_sizes_above_one(shape)) <= 1:
            return self._real
        is_transposed = (shape[0], shape[1:].numel()) == (self._count, self._rows)
        if is_transposed and (is_time_major or self._rows != self._count):
            if self._transposed is None:
                self._transposed = self._matrix().T.reshape(-1)
            return self._transposed
        keeps_rows = shape[0] % self._rows == 0 or self._rows % shape[0] == 0
        return self._real if keeps_rows else None

    def _assign_parts(self, shapes: Sequence[torch.Size]) -> list[torch.Tensor] | None:
        """Return the real tokens of the calls that together process all tokens once, or None."""
        matrix = self._matrix()
        first = shapes[0]
        if len(first) >= 2 and first[0] == self._rows:
            return _split(matrix, 1, [shape[1:].numel() for shape in shapes])
        if len(first) >= 2 and first[1:].numel() == self._count:
            return _split(matrix, 0, [shape[0] for shape in shapes])
        if len(first) >= 2 and first[1:].numel() == self._rows:
            return _split(matrix.T, 0, [shape[0] for shape in shapes])
        if len(_sizes_above_one(first)) <= 1:
            return _split(matrix.reshape(-1), 0, [shape.numel() for shape in shapes])
        return None

    def _matrix(self) -> torch.Tensor:
        return self._real.reshape(self._rows, self._count)


def _split(matrix: torch.Tensor, dimension: int, sizes: Sequence[int]) -> list[torch.Tensor] | None:
    """Return consecutive parts of these sizes until the matrix is used up, or None if the sizes do not fit."""
    parts = []
    start = 0
    for size in sizes:
        if start + size > matrix.shape[dimension]:
            return None
        parts.append(matrix.narrow(dimension, start, size).reshape(-1))
        start += size
        if start == matrix.shape[dimension]:
            return parts
    return None


def _sizes_above_one(shape: torch.Size) -> list[int]:
    return [size for size in shape if size != 1]


def _has_no_padding(mask: torch.Tensor) -> bool:
    return bool((mask != 0).all())


def _check_without_padding(
    context: ForwardContext, real: torch.Tensor, shapes: Sequence[torch.Size], module: str
) -> None:
    """Raise an error unless the vectors belong to real tokens only. Waits for the device."""
    vectors = sum(shape.numel() for shape in shapes)
    if context.states_real_tokens:
        raise SpecError(
            f"observe(real=): {real.numel()} entries for a forward of {vectors} tokens. Expected one entry per token. "
            "In `generate`, each forward has different tokens: leave out real= and pass attention_mask."
        )
    if _has_no_padding(real):
        return
    is_unpadded = all(len(_sizes_above_one(shape)) <= 1 and shape.numel() == int(real.sum()) for shape in shapes)
    if not is_unpadded:
        described = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise AttachError(
            f"{module}: its vectors have the shape {described}, and cannot be assigned to the tokens of an attention "
            f"mask of shape {list(real.shape)}. Padding would be counted. {ADVICE}"
        )
