"""Counters of dropped entries, kept on the device until a table is requested.

Each call of the rule records one small tensor. At the end of a forward pass, its calls are assigned to a phase, a step
and the real tokens. The calls of several forwards are added up together on their device. Only `SparsityCounters.table`
copies counts to the host.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from sparsedial.hooks.count_buffer_pool import CountBufferPool
from sparsedial.hooks.count_table import CounterKey, SumsKey, make_count_table
from sparsedial.hooks.counted_vectors import counted_pairs, counted_vectors, real_vectors, stack_masks
from sparsedial.hooks.entry_usage import EntryUsage, VectorUsage
from sparsedial.hooks.forward_context import GENERATION, SEGMENTS, ForwardContext
from sparsedial.hooks.pending_counts import AssignedCall, CallGroup, PendingCalls, RuleCall
from sparsedial.hooks.phase_selection import ALL_PHASES, PhaseSelection
from sparsedial.hooks.token_alignment import assign_real_tokens
from sparsedial.hooks.token_division import TokenPart, divide_tokens, unite_parts
from sparsedial.rules import Rule

if TYPE_CHECKING:
    import numpy as np

# Routing weights are added up as integer multiples of this, so that the sum does not depend on the order.
ROUTING_WEIGHT_QUANTUM = 2.0**-32

_ContextKey = tuple[torch.device, SumsKey]


class _CounterConstants(NamedTuple):
    """Indices and vector widths of some counters, int64 tensors of shape [counters] on one device."""

    indices: torch.Tensor
    widths: torch.Tensor


@dataclass
class _EqualCalls:
    """Calls with the same device, phase, step and shape, whose counts can be stacked."""

    counters: list[int] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    real: list[torch.Tensor] = field(default_factory=list)  # empty if every vector belongs to a real token


class SparsityCounters:
    """Counters of dropped and total entries, non-finite vectors and routing weight per counter, rule, phase and step.

    Args:
        keys: Description of each counter. A counter is identified by its index in this sequence.
        rules: Rule of each counter.
        usage: Counters of single entries. Defaults to None: they are not counted.
        phases: Phases in which the rules are applied. Tokens in another phase are not counted. Defaults to all.

    Attributes:
        keys: Description of each counter.
        usage: Counters of single entries, or None.
        buffers: Pool of memory for the counts of a call.
        pending: Calls that have not been added up.
        reached: Counters that were called.
    """

    def __init__(
        self,
        keys: Sequence[CounterKey],
        rules: Sequence[Rule | None],
        usage: EntryUsage | None = None,
        phases: PhaseSelection = ALL_PHASES,
    ) -> None:
        self._phases = phases
        self.keys = list(keys)
        self.usage = usage
        self.buffers = CountBufferPool()
        self.pending = PendingCalls()
        self.reached: set[int] = set()
        # One row per counter: dropped entries, all entries, non-finite vectors, routing weight. int64.
        self._sums: dict[_ContextKey, torch.Tensor] = {}
        self._constants: dict[tuple[torch.device, tuple[int, ...]], _CounterConstants] = {}
        self._assignments = [tuple(rules)]  # rule of each counter, for each assignment so far
        self._assignment = 0  # index of the present one
        self._devices: list[torch.device] = []
        self._has_segments = False
        self._lock = threading.RLock()  # calls outside of a forward pass are counted by any thread

    def prepare(self, devices: Iterable[torch.device]) -> None:
        """Allocate the sums of forward passes, because compiled code cannot allocate memory that is kept.

        Args:
            devices: Devices on which the rule is applied.
        """
        self._devices = list(devices)
        self._allocate()

    def prepare_segments(self) -> None:
        """Allocate the sums of the segments of generated texts, which most models do not have.

        A graph of a decoding step cannot allocate memory that is kept.
        """
        if not self._has_segments:
            self._has_segments = True
            self._allocate()

    def start_rules(self, rules: Sequence[Rule | None]) -> None:
        """Count the calls that follow for other rules.

        Args:
            rules: Rule of each counter.
        """
        self.reduce()
        assignment = tuple(rules)
        if assignment not in self._assignments:
            self._assignments.append(assignment)
        self._assignment = self._assignments.index(assignment)
        self._allocate()

    def reset(self) -> None:
        """Set all counts to zero."""
        self.pending.discard_current()
        self.pending.pop_all()
        self.reached.clear()
        for sums in self._sums.values():
            sums.zero_()
        if self.usage is not None:
            self.usage.reset()

    def record(self, call: RuleCall) -> None:
        """Record one call of the rule in the current forward.

        Args:
            call: The call.
        """
        self.pending.current.append(call)

    def discard_pending(self) -> None:
        """Discard the calls of the current forward, because it failed."""
        self.pending.discard_current()

    def add_calls(self, groups: Sequence[CallGroup]) -> None:
        """Assign the calls of a forward pass to phases and real tokens, without waiting for the device.

        Args:
            groups: Calls of the rule, grouped by context.

        Raises:
            AttachError: There is padding, and the vectors cannot be assigned to the tokens.
            SpecError: The number of real-token flags that the user stated differs from the number of vectors.
        """
        assigned: list[AssignedCall] = []
        for context, calls in groups:
            assigned += self._assign(context, calls)
        with self._exclusively():
            if self.pending.queue(assigned):
                self.reduce()

    def record_outside(self, context: ForwardContext, call: RuleCall) -> None:
        """Record one call of the rule outside of a forward pass.

        Args:
            context: Context that the user stated.
            call: The call.

        Raises:
            SpecError: The number of real-token flags that the user stated differs from the number of vectors.
        """
        with self._exclusively():
            if self.pending.queue(self._assign(context, [call])):
                self.reduce()

    def _assign(self, context: ForwardContext, calls: Sequence[RuleCall]) -> list[AssignedCall]:
        """Assign calls to the phase, segment, step and real tokens of their context. A call may belong to several."""
        assigned = []
        divided: dict[tuple[int, int, torch.device], list[TokenPart]] = {}  # most calls have the same tokens
        for call, real in zip(calls, assign_real_tokens(context, calls, self.keys), strict=True):
            self.reached.update(call.counters)
            key = (id(real), call.shape.numel(), call.kept.device)
            if key not in divided:
                module = self.keys[call.counters[0]].module
                divided[key] = divide_tokens(context, call, real, self._phases, module)
            parts = divided[key]
            if self.usage is not None:
                counted = real
                if not self._phases.is_complete:  # tokens in a phase without the rule are not counted
                    counted = unite_parts(parts)
                self.usage.add(call, counted_vectors(call, counted), self._assignment)
                call = call._replace(is_kept=None)
            for part in parts:
                assigned.append(AssignedCall(part.phase, context.step, part.real, call, part.segment))
        return assigned

    def add_totals(self, phase: str, step: int | None, totals: np.ndarray, segment: str | None = None) -> None:
        """Add counts that the decode fast path has added up.

        Args:
            phase: "prefill" or "generation".
            step: Denoising step, or None.
            totals: Dropped entries, all entries and non-finite vectors per counter, int64 of shape [counters, 3].
            segment: "thinking" or "answer". Defaults to None.
        """
        key = SumsKey(self._assignment, phase, step, segment)
        self._get_sums((torch.device("cpu"), key))[:, :3] += torch.from_numpy(totals)

    def reduce(self) -> None:
        """Add up the calls of all forwards that ended, on their devices."""
        with self._exclusively():
            calls = self.pending.pop_all()
            self._reduce_unrouted_calls([assigned for assigned in calls if assigned.call.routing is None])
            self._reduce_routed_calls([assigned for assigned in calls if assigned.call.routing is not None])

    def table(self) -> pd.DataFrame:
        """Return the table of all counts so far. Only this method makes the host wait for the device.

        Returns:
            One row per counter, rule, phase and step: see `make_count_table`.
        """
        self.reduce()
        sums_on_host: dict[SumsKey, torch.Tensor] = {}
        for (_, key), sums in self._sums.items():
            sums_on_host[key] = sums_on_host.get(key, 0) + sums.cpu()
        return make_count_table(self.keys, self._assignments, sums_on_host)

    def list_usage(self) -> list[VectorUsage]:
        """Return how often each entry was kept. Empty if entries are not counted one by one."""
        if self.usage is None:
            return []
        return self.usage.list_usage(self._assignments)

    def _allocate(self) -> None:
        """Allocate the sums of the present rules."""
        for device in self._devices:
            for phase in self._phases.phases:
                self._get_sums((device, SumsKey(self._assignment, phase, None)))
            if self._has_segments and GENERATION in self._phases.phases:
                for segment in SEGMENTS:
                    self._get_sums((device, SumsKey(self._assignment, GENERATION, None, segment)))
        if self.usage is not None and len(self._devices) == 1:
            self.usage.prepare(self._assignment, self._devices)

    def _exclusively(self) -> AbstractContextManager[object]:
        """Return a context manager that lets only one thread queue and add up counts. Compiled code does not wait."""
        if torch.compiler.is_compiling():
            return nullcontext()
        return self._lock

    def _reduce_unrouted_calls(self, calls: Sequence[AssignedCall]) -> None:
        groups: dict[tuple[_ContextKey, torch.Size, bool], _EqualCalls] = {}
        for assigned in calls:
            call = assigned.call
            real = real_vectors(call, assigned.real)
            key = (self._context_key(assigned), call.kept.shape, real is None)
            if key not in groups:
                groups[key] = _EqualCalls()
            groups[key].counters.append(call.counters[0])
            groups[key].kept.append(call.kept)
            if real is not None:
                groups[key].real.append(real)
        for (context_key, _, _), group in groups.items():
            device = context_key[0]
            constants = self._get_constants(device, tuple(group.counters))
            kept = torch.stack(group.kept).reshape(len(group.kept), -1)
            finite = kept >= 0
            nonfinite = ~finite
            if group.real:
                is_real = stack_masks(group.real, device)
                finite = finite & is_real
                nonfinite = nonfinite & is_real
            total = finite.sum(1) * constants.widths
            dropped = total - (kept * finite).sum(1)
            columns = torch.stack([dropped, total, nonfinite.sum(1)], 1)
            self._get_sums(context_key)[:, :3].index_add_(0, constants.indices, columns)

    def _reduce_routed_calls(self, calls: Sequence[AssignedCall]) -> None:
        """Add up the calls of stacked experts without a loop over experts and without copying to the host."""
        groups: dict[_ContextKey, dict[tuple[int, ...], list[Sequence[torch.Tensor]]]] = {}
        for assigned in calls:
            call = assigned.call
            routing = call.routing
            if routing is None:
                continue
            is_counted = counted_pairs(routing, assigned.real)
            layers = groups.setdefault(self._context_key(assigned), {})
            pairs = (routing.expert, call.kept, is_counted, routing.weight.float())
            layers.setdefault(call.counters, []).append(pairs)
        for key, layers in groups.items():
            rows: list[Sequence[torch.Tensor]] = []
            for counters, pieces in layers.items():
                expert, kept, is_counted, weight = _concatenate(pieces)
                constants = self._get_constants(key[0], counters)
                rows.append((constants.indices[expert], kept, is_counted, weight, constants.widths[expert]))
            index, kept, is_counted, weight, width = _concatenate(rows)
            finite = is_counted & (kept >= 0)
            total = width * finite
            dropped = total - kept * finite
            quanta = (weight / ROUTING_WEIGHT_QUANTUM).to(torch.int64) * finite
            columns = torch.stack([dropped, total, is_counted & ~finite, quanta], 1)
            self._get_sums(key).index_add_(0, index, columns)

    def _context_key(self, assigned: AssignedCall) -> _ContextKey:
        """Return the key of the sums that a call is added to."""
        key = SumsKey(self._assignment, assigned.phase, assigned.step, assigned.segment)
        return assigned.call.kept.device, key

    def _get_sums(self, key: _ContextKey) -> torch.Tensor:
        if key not in self._sums:
            with torch.inference_mode(False):  # so that the sums can also be changed outside of inference mode
                self._sums[key] = torch.zeros(len(self.keys), 4, dtype=torch.int64, device=key[0])
        return self._sums[key]

    def _get_constants(self, device: torch.device, counters: tuple[int, ...]) -> _CounterConstants:
        if torch.compiler.is_compiling():  # memory of compiled code is reused, so it must not be kept
            return self._make_constants(device, counters)
        if (device, counters) not in self._constants:
            with torch.inference_mode(False):
                self._constants[device, counters] = self._make_constants(device, counters)
        return self._constants[device, counters]

    def _make_constants(self, device: torch.device, counters: tuple[int, ...]) -> _CounterConstants:
        widths = [self.keys[counter].width for counter in counters]
        return _CounterConstants(
            torch.tensor(counters, dtype=torch.int64).to(device, non_blocking=True),
            torch.tensor(widths, dtype=torch.int64).to(device, non_blocking=True),
        )


def _concatenate(rows: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Return the columns of these rows, each concatenated to one tensor."""
    return [torch.cat(column) for column in zip(*rows, strict=True)]
