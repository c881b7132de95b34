"""Queue of the rule's calls whose counts have not been added up."""

from __future__ import annotations

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
        token_indices: Index of each vector's token, int64. None means that the vectors are the tokens, in order.
        routing: Routing of the vectors to stacked experts, or None.
    """

    counters: tuple[int, ...]
    kept: torch.Tensor
    token_indices: torch.Tensor | None = None
    routing: Routing | None = None


class PendingCalls:
    """Queue of the calls of the current forward, and of earlier forwards until they are added up.

    Attributes:
        current: Calls since the end of the last forward.
        pending_pairs: Number of (token, expert) pairs in the forwards that ended.
    """

    def __init__(self) -> None:
        self.current: list[RuleCall] = []
        self.pending_pairs = 0
        self._forwards: list[tuple[ForwardContext, list[RuleCall]]] = []

    def discard_current(self) -> None:
        """Discard the calls of the current forward."""
        self.current.clear()

    def end_forward(self, context: ForwardContext) -> bool:
        """Queue the calls of the current forward.

        A decode step makes few and small calls, so small forwards wait to be added up together. A compiled forward
        does not wait, because the compiled code would depend on the length of the queue.

        Args:
            context: Context of the forward that ended.

        Returns:
            True if the queued calls should be added up now.
        """
        if not self.current:
            return False
        calls = self.current
        self.current = []
        self._forwards.append((context, calls))
        is_small = True
        for call in calls:
            if call.routing is not None:
                self.pending_pairs += call.kept.numel()
            elif call.kept.numel() > SMALL_FORWARD_VECTORS:
                is_small = False
        is_full = len(self._forwards) >= MAX_PENDING_FORWARDS or self.pending_pairs > MAX_PENDING_PAIRS
        return torch.compiler.is_compiling() or is_full or not is_small

    def pop_all(self) -> list[tuple[ForwardContext, RuleCall]]:
        """Return the calls of all forwards that ended, with their contexts, and empty the queue."""
        calls = []
        for context, forward_calls in self._forwards:
            for call in forward_calls:
                calls.append((context, call))
        self._forwards.clear()
        self.pending_pairs = 0
        return calls
