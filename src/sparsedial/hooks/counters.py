"""Counters of dropped entries, kept on the device until a table is requested.

Each call of the rule records one small tensor. At the end of a forward pass, its calls are assigned to a phase, a step
and the real tokens. The calls of several forwards are added up together on their device. Only `SparsityCounters.table`
copies counts to the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch

from sparsedial.errors import AttachError
from sparsedial.hooks.count_buffer_pool import CountBufferPool
from sparsedial.hooks.count_table import CounterKey, make_count_table
from sparsedial.hooks.forward_context import GENERATION, PHASES, PREFILL, ForwardContext
from sparsedial.hooks.pending_counts import AssignedCall, CallGroup, PendingCalls, RuleCall
from sparsedial.hooks.token_alignment import assign_real_tokens

if TYPE_CHECKING:
    import numpy as np

    from sparsedial.moe.routing import Routing

# Routing weights are added up as integer multiples of this, so that the sum does not depend on the order.
ROUTING_WEIGHT_QUANTUM = 2.0**-32

_ContextKey = tuple[torch.device, str, int | None]  # device, phase, step


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
    """Counters of dropped and total entries, non-finite vectors and routing weight per counter, phase and step.

    Args:
        keys: Description of each counter. A counter is identified by its index in this sequence.

    Attributes:
        keys: Description of each counter.
        buffers: Pool of memory for the counts of a call.
        pending: Calls that have not been added up.
        reached: Counters that were called.
    """

    def __init__(self, keys: Sequence[CounterKey]) -> None:
        self.keys = list(keys)
        self.buffers = CountBufferPool()
        self.pending = PendingCalls()
        self.reached: set[int] = set()
        # One row per counter: dropped entries, all entries, non-finite vectors, routing weight. int64.
        self._sums: dict[_ContextKey, torch.Tensor] = {}
        self._constants: dict[tuple[torch.device, tuple[int, ...]], _CounterConstants] = {}

    def prepare(self, devices: Iterable[torch.device]) -> None:
        """Allocate the sums of forward passes, because compiled code cannot allocate memory that is kept.

        Args:
            devices: Devices on which the rule is applied.
        """
        for device in devices:
            for phase in PHASES:
                self._get_sums((device, phase, None))

    def record(
        self, counter: int, kept: torch.Tensor, shape: torch.Size, token_indices: torch.Tensor | None = None
    ) -> None:
        """Record one call of the rule in the current forward.

        Args:
            counter: Index of the counter.
            kept: Number of entries kept in each vector, int32. It is -1 for a vector with a NaN or Inf.
            shape: Shape of the vectors without their last dimension.
            token_indices: Index of each vector's token, int64. Defaults to None: the vectors are the
                tokens, in order.
        """
        self.pending.current.append(RuleCall((counter,), kept, shape, token_indices))

    def record_routed(self, counters: tuple[int, ...], kept: torch.Tensor, routing: Routing) -> None:
        """Record one call of the rule for all stacked experts of a layer.

        Args:
            counters: Index of each expert's counter.
            kept: Number of entries kept in the vector of each (token, expert) pair, int32.
            routing: Expert, token and weight of each pair.
        """
        self.pending.current.append(RuleCall(counters, kept, torch.Size([routing.tokens]), routing=routing))

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
        if self.pending.queue(self._assign(context, [call])):
            self.reduce()

    def _assign(self, context: ForwardContext, calls: Sequence[RuleCall]) -> list[AssignedCall]:
        """Assign calls to the phase, step and real tokens of their context. A call may belong to two phases."""
        assigned = []
        for call, real in zip(calls, assign_real_tokens(context, calls, self.keys), strict=True):
            self.reached.update(call.counters)
            if context.generation_tokens is None:
                assigned.append(AssignedCall(context.phase, context.step, real, call))
                continue
            generating = context.generation_tokens
            if real is None:
                real = torch.ones(call.shape.numel(), dtype=torch.bool, device=call.kept.device)
            real = real.reshape(-1).to(call.kept.device)
            generating = generating.reshape(-1).to(call.kept.device)
            if generating.numel() not in (1, real.numel()):
                raise AttachError(
                    f"{self.keys[call.counters[0]].module}: its {real.numel()} vectors cannot be assigned to the "
                    f'phases of {generating.numel()} tokens. State the phase: sparsifier.observe(phase="prefill") or '
                    '(phase="generation").'
                )
            assigned.append(AssignedCall(PREFILL, context.step, real & ~generating, call))
            assigned.append(AssignedCall(GENERATION, context.step, real & generating, call))
        return assigned

    def add_totals(self, phase: str, step: int | None, totals: np.ndarray) -> None:
        """Add counts that the decode fast path has added up.

        Args:
            phase: "prefill" or "generation".
            step: Denoising step, or None.
            totals: Dropped entries, all entries and non-finite vectors per counter, int64 of shape [counters, 3].
        """
        self._get_sums((torch.device("cpu"), phase, step))[:, :3] += torch.from_numpy(totals)

    def reduce(self) -> None:
        """Add up the calls of all forwards that ended, on their devices."""
        calls = self.pending.pop_all()
        self._reduce_unrouted_calls([assigned for assigned in calls if assigned.call.routing is None])
        self._reduce_routed_calls([assigned for assigned in calls if assigned.call.routing is not None])

    def table(self) -> pd.DataFrame:
        """Return the table of all counts so far. Only this method makes the host wait for the device.

        Returns:
            One row per counter, phase and step: see `make_count_table`.
        """
        self.reduce()
        sums_on_host: dict[tuple[str, int | None], torch.Tensor] = {}
        for (_, phase, step), sums in self._sums.items():
            sums_on_host[phase, step] = sums_on_host.get((phase, step), 0) + sums.cpu()
        return make_count_table(self.keys, sums_on_host)

    def _reduce_unrouted_calls(self, calls: Sequence[AssignedCall]) -> None:
        groups: dict[tuple[torch.device, str, int | None, torch.Size, bool], _EqualCalls] = {}
        for assigned in calls:
            call = assigned.call
            real = _real_vectors(assigned)
            key = (call.kept.device, assigned.phase, assigned.step, call.kept.shape, real is None)
            if key not in groups:
                groups[key] = _EqualCalls()
            groups[key].counters.append(call.counters[0])
            groups[key].kept.append(call.kept)
            if real is not None:
                groups[key].real.append(real)
        for (device, phase, step, _, _), group in groups.items():
            constants = self._get_constants(device, tuple(group.counters))
            kept = torch.stack(group.kept).reshape(len(group.kept), -1)
            finite = kept >= 0
            nonfinite = ~finite
            if group.real:
                real_vectors = _stack_masks(group.real, device)
                finite = finite & real_vectors
                nonfinite = nonfinite & real_vectors
            total = finite.sum(1) * constants.widths
            dropped = total - (kept * finite).sum(1)
            columns = torch.stack([dropped, total, nonfinite.sum(1)], 1)
            self._get_sums((device, phase, step))[:, :3].index_add_(0, constants.indices, columns)

    def _reduce_routed_calls(self, calls: Sequence[AssignedCall]) -> None:
        """Add up the calls of stacked experts without a loop over experts and without copying to the host."""
        groups: dict[_ContextKey, dict[tuple[int, ...], list[Sequence[torch.Tensor]]]] = {}
        for assigned in calls:
            call = assigned.call
            routing = call.routing
            if routing is None:
                continue
            is_counted = routing.weight != 0  # a pair without weight reached no expert (ZAYA's skipped tokens)
            if assigned.real is not None:
                is_counted &= assigned.real.reshape(-1).to(call.kept.device, non_blocking=True)[routing.token]
            layers = groups.setdefault((call.kept.device, assigned.phase, assigned.step), {})
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


def _real_vectors(assigned: AssignedCall) -> torch.Tensor | None:
    """Return a boolean tensor that is True for the vectors of real tokens, or None if all of them are counted."""
    if assigned.real is None or assigned.call.token_indices is None:
        return assigned.real
    return assigned.real.reshape(-1).to(assigned.call.kept.device, non_blocking=True)[assigned.call.token_indices]


def _stack_masks(masks: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Return one row per call. If all calls belong to the same forward, return one row that is valid for all."""
    rows: dict[int, torch.Tensor] = {}
    for mask in masks:
        if id(mask) not in rows:
            rows[id(mask)] = mask.reshape(-1).to(device, non_blocking=True)
    if len(rows) == 1:
        return rows[id(masks[0])]
    return torch.stack([rows[id(mask)] for mask in masks])


def _concatenate(rows: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Return the columns of these rows, each concatenated to one tensor."""
    return [torch.cat(column) for column in zip(*rows, strict=True)]
