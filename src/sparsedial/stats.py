"""Counters of dropped entries, kept on the device until someone asks.

Hooks leave one small tensor each (`add`); the end of a model's forward says what they were (`close`), and
those of many forwards are reduced together, on the device. Nothing is copied to the host before `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

PHASES = ("prefill", "generation")
WAITING = 32  # forwards that may wait to be reduced together,
SMALL = 256  # if they are no larger than this many vectors


@dataclass(frozen=True)
class Observation:
    """What is known about the forward under way: its phase, its denoising step, and which tokens are real.

    ``real`` is a boolean tensor with one entry per vector (any shape), or None where all are real.
    """

    phase: str = "prefill"
    step: int | None = None
    real: torch.Tensor | None = None


@dataclass(frozen=True)
class Counter:
    """What one counter counts: entries of one vector of one FFN."""

    layer: int
    module: str
    site: str
    expert: int | None
    width: int


class Counters:
    """Dropped and total entries (and vectors with NaN or Inf) per counter, phase and step."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = list(counters)
        self._pending: list[tuple[int, torch.Tensor]] = []
        self._closed: list[tuple[Observation, list[tuple[int, torch.Tensor]]]] = []
        self._sums: dict[tuple[torch.device, str, int | None], torch.Tensor] = {}
        self._constants: dict[tuple[torch.device, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, counter: int, kept: torch.Tensor) -> None:
        """Note one call: ``kept`` int32, one entry per vector, -1 where the vector is not finite."""
        self._pending.append((counter, kept))

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
        self._pending = []
        small = len(self._closed) < WAITING and all(kept.numel() <= SMALL for _, kept in self._closed[-1][1])
        if torch.compiler.is_compiling() or not small:
            self.reduce()

    def reduce(self) -> None:
        """Add up what was noted, on the device."""
        groups: dict[Any, list[tuple[int, torch.Tensor, torch.Tensor | None]]] = {}
        for seen, calls in self._closed:
            for counter, kept in calls:
                real = seen.real if seen.real is not None and seen.real.numel() == kept.numel() else None
                key = (kept.device, seen.phase, seen.step, kept.numel(), real is None)
                groups.setdefault(key, []).append((counter, kept, real))
        self._closed.clear()
        for (device, phase, step, _, all_real), group in groups.items():
            index, width = self._on(device, tuple(counter for counter, _, _ in group))
            kept = torch.stack([k.reshape(-1) for _, k, _ in group])
            good = kept >= 0
            bad = ~good
            if not all_real:
                masks = {id(r): r.reshape(-1).to(device, non_blocking=True) for _, _, r in group if r is not None}
                real = torch.stack([masks[id(r)] for _, _, r in group])
                good, bad = good & real, bad & real
            total = good.sum(1) * width
            dropped = total - (kept * good).sum(1)
            sums = self._sums.get((device, phase, step))
            if sums is None:
                with torch.inference_mode(False):  # so that it can be added to outside inference mode too
                    sums = torch.zeros(len(self.counters), 3, dtype=torch.int64, device=device)
                self._sums[device, phase, step] = sums
            sums.index_add_(0, index, torch.stack([dropped, total, bad.sum(1)], 1))

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
        nonfinite (vectors seen with NaN or Inf; they are in neither count). Counters that saw no real
        token in a phase have no row there.
        """
        self.reduce()
        merged: dict[tuple[str, int | None], torch.Tensor] = {}
        for (_, phase, step), sums in self._sums.items():
            merged[phase, step] = merged.get((phase, step), 0) + sums.cpu()
        rows = [
            (c.layer, c.module, c.site, c.expert, phase, step, dropped, total, bad)
            for (phase, step), sums in merged.items()
            for c, (dropped, total, bad) in zip(self.counters, sums.tolist(), strict=True)
            if total or bad
        ]
        columns = ["layer", "module", "site", "expert", "phase", "step", "dropped", "total", "nonfinite"]
        frame = pd.DataFrame(rows, columns=columns)
        frame = frame.astype(
            dict.fromkeys(("expert", "step"), "Int64") | dict.fromkeys(("layer", "dropped", "total"), "int64")
        )
        frame.insert(8, "sparsity", frame["dropped"] / frame["total"].where(frame["total"] > 0))
        return frame
