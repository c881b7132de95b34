"""Tracking of the tokens that are routed to experts that are stored as modules in a list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from sparsedial.hook_arguments import first_argument
from sparsedial.tracing_state import is_tracing

_GATHER_OPERATORS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default)
_COPY_OPERATORS = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)


class RowTracker(TorchDispatchMode):
    """Dispatch mode that maps each row that an expert receives to the token it came from.

    A mixture-of-experts layer gathers token rows and calls each expert module with them. The token indices are not
    passed along. While this mode is active, it repeats every gather (indexing, masking, `index_select`) on a tensor
    of token indices, so that padding can be distinguished from real tokens.

    Args:
        x: Hidden states entering the layer, shape [..., hidden].

    Example:
        >>> x = torch.randn(2, 3, 4)
        >>> with RowTracker(x) as tracker:
        ...     gathered = x.view(6, 4)[torch.tensor([5, 0])].to(torch.float64)
        >>> tracker.token_indices(gathered)
        tensor([5, 0])
        >>> tracker.token_indices(x + 1) is None
        True
    """

    supports_higher_order_operators = True  # Such as flex attention. They gather no rows.

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self._width = x.shape[-1]
        # Storage address -> (tensor, token indices). The tensor is kept alive, so that its address stays unique.
        self._indices: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._record(x, torch.arange(x.numel() // self._width, device=x.device))

    def token_indices(self, x: torch.Tensor) -> torch.Tensor | None:
        """Return the token index of each row of a tensor.

        Args:
            x: Rows of the hidden states, shape [..., hidden].

        Returns:
            Token indices, int64, shape [rows], or None if they are unknown.
        """
        _, indices = self._indices.get(x.untyped_storage().data_ptr(), (None, None))
        if indices is None or indices.numel() * self._width != x.numel():
            return None
        return indices

    def _has_whole_rows(self, source: torch.Tensor, output: torch.Tensor) -> bool:
        """Return True if an operation kept the rows of the hidden states whole."""
        return source.is_contiguous() and source.shape[-1] == output.shape[-1] == self._width

    def _record(self, x: torch.Tensor, indices: torch.Tensor) -> None:
        """Record the token index of each row of a tensor."""
        self._indices[x.untyped_storage().data_ptr()] = (x, indices)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _GATHER_OPERATORS or func in _COPY_OPERATORS:
            source = args[0]
            indices = self.token_indices(source)
            if indices is not None and self._has_whole_rows(source, output):
                if func in _GATHER_OPERATORS:
                    indices = func(indices.view(source.shape[:-1]), *args[1:]).reshape(-1)
                self._record(output, indices)
        return output


class ExpertTokenTracker:
    """Tracker of the tokens that each expert in a list reads in forward passes with padding.

    Attributes:
        tokens: Maps the name of each expert to the token indices that it read last, or to None if they are unknown.
            Empty if the forward pass has no padding.
        untracked: Names of the experts whose tokens could not be tracked.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, torch.Tensor | None] = {}
        self.untracked: set[str] = set()
        self._real_tokens: torch.Tensor | None = None
        self._moe_layers: list[nn.Module] = []
        self._row_trackers: list[RowTracker | None] = []  # One per layer that is being run, outermost first.

    def attach(self, moe_layer: nn.Module, input_projection: nn.Module, name: str) -> Iterator[RemovableHandle]:
        """Track the tokens of one expert.

        Args:
            moe_layer: The mixture-of-experts layer that routes tokens to the expert.
            input_projection: The first projection of the expert.
            name: Name of the expert.

        Yields:
            RemovableHandle: The handle of each registered hook, to be removed by the caller.
        """
        if moe_layer not in self._moe_layers:
            self._moe_layers.append(moe_layer)
            yield moe_layer.register_forward_pre_hook(self._begin_layer, with_kwargs=True)
            yield moe_layer.register_forward_hook(self._end_layer, always_call=True)

        def record_tokens(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._real_tokens is None or is_tracing():
                return
            if not self._row_trackers or self._row_trackers[-1] is None:
                self.untracked.add(name)
                return
            indices = self._row_trackers[-1].token_indices(first_argument(args, kwargs))
            self.tokens[name] = indices
            if indices is None:
                self.untracked.add(name)

        yield input_projection.register_forward_pre_hook(record_tokens, with_kwargs=True)

    def begin_forward(self, real_tokens: torch.Tensor | None) -> None:
        """Set the real tokens of the forward pass that is about to begin.

        Args:
            real_tokens: Boolean mask of the real tokens, or None if all are real.
        """
        self._real_tokens = real_tokens

    def end_forward(self) -> None:
        """Clear the tokens that were recorded in the forward pass that has ended, also if Ctrl-C interrupted it."""
        self._real_tokens = None
        self.tokens.clear()
        while self._row_trackers:
            self._end_layer()

    def detach(self) -> None:
        """Clear the list of attached layers. The caller has to remove their hooks."""
        self._moe_layers.clear()

    def _begin_layer(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tracker = self._make_row_tracker(first_argument(args, kwargs))
        if tracker is not None:
            tracker.__enter__()
        self._row_trackers.append(tracker)

    def _end_layer(self, *_: Any) -> None:
        if not self._row_trackers:
            return
        tracker = self._row_trackers.pop()
        if tracker is not None:
            tracker.__exit__(None, None, None)

    def _make_row_tracker(self, x: Any) -> RowTracker | None:
        """Return a tracker for the hidden states of a layer, or None if rows need not or cannot be tracked."""
        real = self._real_tokens
        if real is None or not isinstance(x, torch.Tensor) or is_tracing() or torch.compiler.is_compiling():
            return None
        if real.numel() * x.shape[-1] != x.numel():
            return None
        return RowTracker(x)
