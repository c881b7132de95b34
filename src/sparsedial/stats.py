"""Counters of dropped entries, kept on the device until someone asks.

Hooks leave one small tensor each (`add`); the end of a model's forward says what they were (`close`), and
those of many forwards are reduced together, on the device. A kernel may have added some up itself (`tally`).
Nothing is copied to the host before `table`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch

if TYPE_CHECKING:
    import numpy as np

    from sparsedial.experts import Routed

PHASES = ("prefill", "generation")
WAITING = 32  # forwards that may wait to be reduced together,
SMALL = 256  # if they are no larger than this many vectors
ROOM = 64  # counts of so many calls, at most, get their memory together
PAIRS = 1 << 20  # and of those that were routed to experts, if they are no more than this together
UNIT = 2.0**-32  # routing weights are added up as multiples of this: exact, and in any order the same


class Observation(NamedTuple):
    """What is known about the forward under way: its phase, its denoising step, and which tokens are real.

    ``real`` is a boolean tensor with one entry per vector (any shape), or None where all are real. ``masked``,
    likewise, says which tokens a diffusion model is still to fill in; it is not counted apart here.
    """

    phase: str = "prefill"
    step: int | None = None
    real: torch.Tensor | None = None
    masked: torch.Tensor | None = None


@dataclass(frozen=True)
class Counter:
    """What one counter counts: entries of one vector of one FFN."""

    layer: int
    module: str
    site: str
    expert: int | None
    width: int
    mixture: str | None = None  # of an expert, the module that holds it and the layer's others


class Call(NamedTuple):
    """One call of the op: ``kept`` int32, one entry per vector, -1 where the vector is not finite.

    The vectors are one counter's, or, where they were ``routed``, the experts' of a layer: ``counters`` by expert.
    ``tokens``, where it is known, is the number of each vector's token; by default they are in order.
    """

    counters: tuple[int, ...]
    kept: torch.Tensor
    tokens: torch.Tensor | None = None
    routed: Routed | None = None


class Counters:
    """Dropped and total entries, vectors with NaN or Inf, and routing weight; per counter, phase and step."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = list(counters)
        self._pending: list[Call] = []
        self._closed: list[tuple[Observation, list[Call]]] = []
        self._room: list[torch.Tensor] = []
        self._room_for: tuple[Any, ...] = ()
        self._alike = 0
        self._pairs = 0  # noted and not yet added up
        self._sums: dict[tuple[torch.device, str, int | None], torch.Tensor] = {}
        self._constants: dict[tuple[torch.device, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {}

    def room(self, x: torch.Tensor) -> torch.Tensor:
        """Memory for the counts of one call with the vectors of ``x``: int32, one dimension, uninitialised.

        Making it is a good part of what a call costs in a decode step, so it is made for several calls at a time:
        for as many as there were alike in a row, up to ``ROOM``.
        """
        vectors, device = x.numel() // (x.size(-1) or 1), x.device
        # Another stream's memory would be given back to that stream while this one still writes to it.
        wanted = (vectors, device, torch._C._cuda_getCurrentRawStream(x.get_device()) if x.is_cuda else None)
        if wanted != self._room_for:
            self._room_for, self._room, self._alike = wanted, [], 0
        self._alike += 1
        if not self._room:
            made = x.new_empty((min(self._alike, ROOM), vectors), dtype=torch.int32)
            self._room = list(made.unbind())
        return self._room.pop()

    def add(self, call: Call) -> None:
        """Note one call."""
        self._pending.append(call)

    def tally(self, seen: Observation, added: np.ndarray) -> None:
        """Add what was counted already: of each counter, dropped and total entries and vectors that are not finite."""
        self._sums_of(torch.device("cpu"), seen.phase, seen.step)[:, :3] += torch.from_numpy(added)

    def forget(self) -> None:
        """Drop what was noted since the last forward (this one failed)."""
        self._pending.clear()

    def close(self, seen: Observation) -> None:
        """Say what the calls noted since the last forward were: no host synchronisation.

        A decoding step notes little and is over soon, so small forwards wait to be reduced together. A
        compiled one does not: its list would be of another length every time.
        """
        if not self._pending:
            return
        self._closed.append((seen, self._pending))
        self._pairs += sum(call.kept.numel() for call in self._pending if call.routed is not None)
        self._pending = []
        few = len(self._closed) < WAITING and self._pairs <= PAIRS
        small = few and all(call.kept.numel() <= SMALL for call in self._closed[-1][1] if call.routed is None)
        if torch.compiler.is_compiling() or not small:
            self.reduce()

    def reduce(self) -> None:
        """Add up what was noted, on the device."""
        calls = [(seen, call) for seen, calls in self._closed for call in calls]
        self._closed.clear()
        self._pairs = 0
        self._reduce_plain([(seen, call) for seen, call in calls if call.routed is None])
        self._reduce_routed([(seen, call, call.routed) for seen, call in calls if call.routed is not None])

    def _reduce_plain(self, calls: Sequence[tuple[Observation, Call]]) -> None:
        groups: dict[Any, list[tuple[int, torch.Tensor, torch.Tensor | None]]] = {}
        for seen, call in calls:
            kept, real = call.kept, seen.real
            if real is not None and call.tokens is not None:
                real = real.reshape(-1).to(kept.device, non_blocking=True)[call.tokens]
            elif real is not None and real.numel() != kept.numel():
                real = None
            key = (kept.device, seen.phase, seen.step, kept.shape, real is None)
            groups.setdefault(key, []).append((call.counters[0], kept, real))
        for (device, phase, step, _, all_real), group in groups.items():
            index, width = self._on(device, tuple(counter for counter, _, _ in group))
            kept = torch.stack([k for _, k, _ in group]).reshape(len(group), -1)
            good = kept >= 0
            bad = ~good
            if not all_real:
                real = _masks([r for _, _, r in group if r is not None], device)
                good, bad = good & real, bad & real
            total = good.sum(1) * width
            dropped = total - (kept * good).sum(1)
            sums = self._sums_of(device, phase, step)[:, :3]
            sums.index_add_(0, index, torch.stack([dropped, total, bad.sum(1)], 1))

    def _reduce_routed(self, calls: Sequence[tuple[Observation, Call, Routed]]) -> None:
        """As above, by expert: no loop over experts, and no look at which of them were used."""
        groups: dict[Any, dict[tuple[int, ...], list[tuple[torch.Tensor, ...]]]] = {}
        for seen, call, routed in calls:
            kept = call.kept
            counts = routed.weight != 0  # a pair that does not count reached no expert (ZAYA's skipped tokens)
            if seen.real is not None and seen.real.numel() == routed.tokens:
                counts &= seen.real.reshape(-1).to(kept.device, non_blocking=True)[routed.token]
            group = groups.setdefault((kept.device, seen.phase, seen.step), {})
            group.setdefault(call.counters, []).append((routed.expert, kept, counts, routed.weight.float()))
        for (device, phase, step), layers in groups.items():
            rows = []
            for counters, pieces in layers.items():
                expert, kept, counts, weight = (torch.cat(piece) for piece in zip(*pieces, strict=True))
                index, width = self._on(device, counters)
                rows.append((index[expert], kept, counts, weight, width[expert]))
            index, kept, counts, weight, width = (torch.cat(row) for row in zip(*rows, strict=True))
            good = counts & (kept >= 0)
            total = width * good
            columns = [total - kept * good, total, counts & ~good, (weight / UNIT).to(torch.int64) * good]
            self._sums_of(device, phase, step).index_add_(0, index, torch.stack(columns, 1))

    def _sums_of(self, device: torch.device, phase: str, step: int | None) -> torch.Tensor:
        """Dropped, total, not finite, routing weight; int64, one row per counter."""
        if (device, phase, step) not in self._sums:
            with torch.inference_mode(False):  # so that it can be added to outside inference mode too
                zeros = torch.zeros(len(self.counters), 4, dtype=torch.int64, device=device)
            self._sums[device, phase, step] = zeros
        return self._sums[device, phase, step]

    def _on(self, device: torch.device, counters: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if (device, counters) not in self._constants:
            width = [self.counters[c].width for c in counters]
            with torch.inference_mode(False):
                self._constants[device, counters] = (
                    torch.tensor(counters, dtype=torch.int64).to(device, non_blocking=True),
                    torch.tensor(width, dtype=torch.int64).to(device, non_blocking=True),
                )
        return self._constants[device, counters]

    def table(self) -> pd.DataFrame:
        """Everything counted so far, one row per counter, phase and step: the one host synchronisation.

        Columns: layer, module, site, expert (or <NA>), phase, step (or <NA>), dropped, total, sparsity,
        tokens, weight (or <NA>), nonfinite (vectors seen with NaN or Inf; they are in neither count).
        Counters that saw no real token in a phase have no row there, but for experts of a layer that did.
        """
        self.reduce()
        merged: dict[tuple[str, int | None], torch.Tensor] = {}
        for (_, phase, step), sums in self._sums.items():
            merged[phase, step] = merged.get((phase, step), 0) + sums.cpu()
        rows = []
        for (phase, step), sums in merged.items():
            counted = list(zip(self.counters, sums.tolist(), strict=True))
            ran, weights = set(), Tally[tuple[str | None, str]]()
            for c, (_, total, bad, weight) in counted:
                if c.mixture is not None and (total or bad):
                    ran.add((c.mixture, c.site))
                    weights[c.mixture, c.site] += weight
            for c, (dropped, total, bad, weight) in counted:
                if total or bad or (c.expert is not None and (c.mixture, c.site) in ran):
                    tokens, whole = total // c.width, weights[c.mixture, c.site] if c.expert is not None else 0
                    share = weight / whole if whole else None
                    rows.append((c.layer, c.module, c.site, c.expert, phase, step, dropped, total, tokens, share, bad))
        names = [
            "layer",
            "module",
            "site",
            "expert",
            "phase",
            "step",
            "dropped",
            "total",
            "tokens",
            "weight",
            "nonfinite",
        ]
        frame = pd.DataFrame(rows, columns=names)
        frame = frame.astype(
            dict.fromkeys(("expert", "step"), "Int64")
            | dict.fromkeys(("layer", "dropped", "total", "tokens"), "int64")
            | {"weight": "Float64"}
        )
        frame.insert(8, "sparsity", frame["dropped"] / frame["total"].where(frame["total"] > 0))
        return frame


def _masks(real: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """One row per call, or, where all are of one forward's tokens, one for all."""
    found = {id(r): r for r in real}
    rows = {i: r.reshape(-1).to(device, non_blocking=True) for i, r in found.items()}
    return torch.stack([rows[id(r)] for r in real]) if len(rows) > 1 else next(iter(rows.values()))
