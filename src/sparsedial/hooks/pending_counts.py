"""Queue of the rule's calls whose counts have not been added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from sparsedial.hooks.forward_context import ForwardContext

if TYPE_CHECKING:
    from sparsedial.moe.routing import Routing

MAX_PENDING_FORWARDS = 32  # forwards that may be added up together
SMALL_FORWARD_VECTORS = 256  # a forward with more vectors per call is added up at once
MAX_PENDING_PAIRS = 1 << 20  # (token, expert) pairs that may wait, over all pending forwards


class RuleCall(NamedTuple):
    """Counts of one call of the rule.

    Attributes:
        counters: Index of the counter. If the vectors were routed to stacked experts, the counters of all experts.
        kept: Number of entries kept in each vector, int32. It is -1 for a vector with a NaN or Inf.
        shape: Shape of the tokens that the vectors belong to. It may be that of ``kept`` or have more dimensions.
        token_indices: Index of each vector's token, int64. None means that the vectors are the tokens, in order.
        routing: Routing of the vectors to stacked experts, or None.
        is_kept: Boolean tensor of shape [vectors, D] that is True for the kept entries. None if they are not counted
            one by one.
    """

    counters: tuple[int, ...]
    kept: torch.Tensor
    shape: torch.Size
    token_indices: torch.Tensor | None = None
    routing: Routing | None = None
    is_kept: torch.Tensor | None = None


class AssignedCall(NamedTuple):
    """A call of the rule, assigned to a phase and to the real tokens of its forward pass.

    Attributes:
        phase: "prefill" or "generation".
        step: Denoising step, or None.
        real: Boolean tensor with one entry per token that the call was made for. None if all of them are counted.
        call: The call.
        segment: "thinking" or "answer". Defaults to None: the text is not divided, or the phase is "prefill".
    """

    phase: str
    step: int | None
    real: torch.Tensor | None
    call: RuleCall
    segment: str | None = None


class CallGroup(NamedTuple):
    """Calls that were made in the same context, in order."""

    context: ForwardContext
    calls: list[RuleCall]


class PendingCalls:
    """Calls of the current forward, and queue of the calls of earlier forwards until they are added up.

    Attributes:
        current: Calls in the present context of the current forward.
        pending_pairs: Number of (token, expert) pairs in the queue.
    """

    def __init__(self) -> None:
        self.current: list[RuleCall] = []
        self.pending_pairs = 0
        self._context: ForwardContext | None = None
        self._groups: list[CallGroup] = []  # of the current forward
        self._queue: list[AssignedCall] = []
        self._queued_forwards = 0

    def start_context(self, context: ForwardContext | None) -> None:
        """Set the context of the calls that follow.

        Args:
            context: The context, or None between forward passes.
        """
        if context is self._context:
            return
        if self.current and self._context is not None:
            self._groups.append(CallGroup(self._context, self.current))
            self.current = []
        self._context = context

    def take_forward(self) -> list[CallGroup]:
        """Return the calls of the current forward and start a new one. Calls in the same context are one group."""
        self.start_context(None)
        groups = self._groups
        self._groups = []
        if len(groups) < 2:
            return groups
        merged: dict[int, CallGroup] = {}
        for group in groups:
            if id(group.context) in merged:
                merged[id(group.context)].calls.extend(group.calls)
            else:
                merged[id(group.context)] = group
        return list(merged.values())

    def discard_current(self) -> None:
        """Discard the calls of the current forward."""
        self._context = None
        self._groups.clear()
        self.current.clear()

    def queue(self, calls: Sequence[AssignedCall]) -> bool:
        """Queue the calls of a forward that ended.

        A decode step makes few and small calls, so small forwards wait to be added up together. A compiled forward
        does not wait, because the compiled code would depend on the length of the queue.

        Args:
            calls: The calls.

        Returns:
            True if the queued calls should be added up now.
        """
        if not calls:
            return False
        self._queue += calls
        self._queued_forwards += 1
        is_small = True
        for assigned in calls:
            if assigned.call.routing is not None:
                self.pending_pairs += assigned.call.kept.numel()
            elif assigned.call.kept.numel() > SMALL_FORWARD_VECTORS:
                is_small = False
        is_full = self._queued_forwards >= MAX_PENDING_FORWARDS or self.pending_pairs > MAX_PENDING_PAIRS
        return torch.compiler.is_compiling() or is_full or not is_small

    def pop_all(self) -> list[AssignedCall]:
        """Return the queued calls and empty the queue."""
        calls = self._queue
        self._queue = []
        self._queued_forwards = 0
        self.pending_pairs = 0
        return calls
