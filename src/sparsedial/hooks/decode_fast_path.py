"""Fast path for decoding one token on the CPU.

The function that `make_decode_function` returns calls the kernel with raw addresses, and the kernel adds up the counts
itself. It does so only if all of these hold, and otherwise calls the generic path (`RuleApplier`):

1. A forward of the model is running, and processes exactly one real token on the CPU. So no mask has to be applied
   to the counts.
2. No compiler, dispatch mode or profiler observes the operators of this forward.
3. No function was put around the rule with `Sparsifier.wrap`.
4. torch.compile is not compiling a single layer.
5. The generic path has run before at this site in such a forward, so the kernel for the dtype of x is known.
6. x is a plain tensor (no subclass), is contiguous, is on the CPU, requires no gradient, and has the width and dtype
   that the kernel expects. The kernel checks none of this.
7. The call is made by the thread that runs the forward, because the slots belong to it.
8. All vectors have a rule that the kernel can compute.
9. The rule is applied in the phase of the forward.

Counts of a forward are provisional until `commit`. `rollback` discards them if the forward failed. `drain` returns the
committed counts. `commit` also returns them when the phase, the denoising step or the segment changes.

In a decode step, reading the weights evicts all other data from the processor's caches, so the cost of each Python
frame, check and call in this module was measured (docs/performance.md). There is one Python frame between `InputPatch`
and the kernel. Set SPARSEDIAL_FAST_DECODE=0 to turn the fast path off. The variable is read when a sparsifier is
attached.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING

import torch
from torch import Tensor, empty_like
from torch.compiler import is_dynamo_compiling

from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.module_patch import Apply
from sparsedial.hooks.rule_applier import RuleApplier, RuleTable, SharedResults, take_result
from sparsedial.rules import Rule

if TYPE_CHECKING:
    import numpy as np

    from sparsedial.kernels.cpu_backend import DecodeSlots  # needs numba, which is optional

VARIABLE = "SPARSEDIAL_FAST_DECODE"

_CountedIn = tuple[str, int | None, str | None]  # phase, step and segment

KernelCall = Callable[[int, int], None]  # address of x, address of y


@dataclass(frozen=True)
class CommittedCounts:
    """Counts that the kernel added up over the forwards of one phase, step and segment.

    Attributes:
        phase: "prefill" or "generation".
        step: Denoising step, or None.
        segment: "thinking" or "answer", or None.
        totals: Dropped entries, all entries and non-finite vectors per counter, int64 of shape [counters, 3].
    """

    phase: str
    step: int | None
    segment: str | None
    totals: np.ndarray


def is_fast_decode_enabled() -> bool:
    """Return False if the environment variable SPARSEDIAL_FAST_DECODE is 0."""
    return os.environ.get(VARIABLE) != "0"


class DecodeFastPath:
    """Decode slots of one sparsifier, and the functions that use them.

    Args:
        rules: The rules with their wrappers.
        widths: Number of entries of a vector, per counter.

    Attributes:
        open_thread: Identifier of the thread that runs a forward that may take the fast path, that is, if conditions
            1, 2, 3, 8 and 9 hold, and otherwise 0. It is one number, because each further object that is read in a
            decode step costs a cache miss.
        rules: The rules with their wrappers.
        widths: Number of entries of a vector, per counter.
        was_opened: True if the fast path has been open since the last `commit` or `rollback`.
        is_blocked: True if the generic path must be taken, because it does more than to apply the rule.
    """

    def __init__(self, rules: RuleTable, widths: Sequence[int]) -> None:
        self.open_thread = 0
        self.was_opened = False
        self.rules = rules
        self.widths = list(widths)
        self.is_blocked = False
        self._can_compute_rules = True
        self._slots: DecodeSlots | None = None
        # The phase, step and segment of the committed counts that the slots hold.
        self._counted_in: _CountedIn = (ForwardContext.phase, ForwardContext.step, None)
        # Those of the provisional counts.
        self._next_counted_in: _CountedIn = self._counted_in

    @property
    def has_slots(self) -> bool:
        """True once a token was decoded with a backend that has decode slots."""
        return self._slots is not None

    def start_context(self, context: ForwardContext) -> None:
        """Open the fast path if the vectors that follow may take it.

        All of a forward belong to one phase, step and segment.

        Args:
            context: Context of the vectors.
        """
        self.open_thread = 0
        if not context.is_single_cpu_token or self.rules.wrapped is not None or self.is_blocked:
            return
        if not self._can_compute_rules or not self.rules.phases.is_sparse(context):
            return
        counted_in = (context.phase, context.step, context.segment)
        if not self.was_opened:
            self.was_opened = True
            self._next_counted_in = counted_in
        elif counted_in != self._next_counted_in:
            return
        self.open_thread = get_ident()

    def update_rules(self) -> None:
        """Write the present rules to the slots. The counts of earlier rules must have been drained."""
        self._can_compute_rules = True
        if self._slots is not None:
            self._write_rules(self._slots)

    def kernel_for(self, counter: int, dtype: torch.dtype) -> KernelCall | None:
        """Return the kernel of one counter for vectors of this dtype.

        Args:
            counter: Index of the counter.
            dtype: Dtype of the vectors.

        Returns:
            A function of the addresses of x and y, or None if the backend has no decode slots.
        """
        bound = self.rules.bound[counter]
        if self._slots is None and bound is not None:
            self._slots = bound.decode_slots(self.widths)
            if self._slots is not None:
                self._write_rules(self._slots)
        if self._slots is None or not self._can_compute_rules:
            return None
        return self._slots.slot_function(counter, dtype)

    def commit(self) -> CommittedCounts | None:
        """Keep the counts of the forward that ended.

        Returns:
            Counts of earlier forwards if they belong to another phase, step or segment. Otherwise None.
        """
        self.open_thread = 0
        was_opened = self.was_opened
        self.was_opened = False
        if self._slots is None or not was_opened:
            return None
        previous = None
        if self._next_counted_in != self._counted_in:
            previous = self.drain()
            self._counted_in = self._next_counted_in
        self._slots.commit()
        return previous

    def rollback(self) -> None:
        """Discard the counts of the forward that failed."""
        self.open_thread = 0
        self.was_opened = False
        if self._slots is not None:
            self._slots.rollback()

    def drain(self) -> CommittedCounts | None:
        """Return the committed counts and reset them.

        Returns:
            The counts, or None if there are no slots.
        """
        if self._slots is None:
            return None
        return CommittedCounts(*self._counted_in, self._slots.drain())

    def _write_rules(self, slots: DecodeSlots) -> None:
        """Write the rule of each counter to its slot, if the kernel can compute all of them."""
        rules = []
        for bound in self.rules.bound:
            if bound is None or not isinstance(bound.rule, Rule) or bound.decode_slots(self.widths[:1]) is None:
                self._can_compute_rules = False
                self.open_thread = 0
                return
            rules.append(bound.rule)
        slots.set_rules(rules)


def make_decode_function(
    fast_path: DecodeFastPath, applier: RuleApplier, results: SharedResults | None, readers: int = 1
) -> Apply:
    """Return a function that takes the fast path if all conditions hold and calls the generic path otherwise.

    The function is a closure and not a method, because reading closure variables touches less memory than reading
    attributes.

    Args:
        fast_path: Owner of the decode slots.
        applier: Generic path.
        results: Results of modules that read the same x, as in `share_result`. None if they are not shared.
        readers: Number of these modules. Defaults to 1.

    Returns:
        Function that returns x with the dropped entries set to zero.
    """
    counter = applier.counter
    width = fast_path.widths[counter]
    apply_generic = applier.__call__  # a bound method is cheaper to call than the object
    kernel: KernelCall | None = None
    kernel_dtype: torch.dtype | None = None  # None if there is no kernel

    def apply(x: Tensor) -> Tensor:
        nonlocal kernel, kernel_dtype
        thread = 0 if is_dynamo_compiling() else get_ident()
        if results:
            shared = take_result(results, (counter, thread), x)
            if shared is not None:
                return shared
        if (
            thread != 0  # checked first, so that a compiled layer does not depend on the state of the fast path
            and fast_path.open_thread == thread
            and x.dtype is kernel_dtype
            and x.numel() == width
            and x.is_contiguous()
            and x.is_cpu
            and type(x) is Tensor
            and not x.requires_grad
        ):
            y = empty_like(x)
            kernel(x.data_ptr(), y.data_ptr())  # type: ignore[misc]  # it is set together with its dtype
        else:
            y = apply_generic(x)
            if thread != 0 and fast_path.open_thread == thread and x.is_cpu:
                kernel = fast_path.kernel_for(counter, x.dtype)
                kernel_dtype = None if kernel is None else x.dtype
        if results is not None:
            results[counter, thread] = (x, y, readers - 1)
        return y

    return apply
