"""Counters of dropped entries, kept on the device until someone asks.

Hooks leave one small tensor each (`add`); at the end of a model's forward they are reduced together
(`flush`). Nothing is copied to the host before `table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

PHASES = ("prefill", "generation")


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
        self._sums: dict[tuple[torch.device, str, int | None], torch.Tensor] = {}
        self._constants: dict[tuple[torch.device, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {}

    def add(self, counter: int, kept: torch.Tensor) -> None:
        """Note one call: ``kept`` int32, one entry per vector, -1 where the vector is not finite."""
        self._pending.append((counter, kept))

    def forget(self) -> None:
        """Drop what was noted since the last flush (the forward failed)."""
        self._pending.clear()

    def flush(self, seen: Observation) -> None:
        """Reduce what was noted, on the device: no host synchronisation."""
        pending, self._pending = self._pending, []
        groups: dict[tuple[torch.device, int], list[tuple[int, torch.Tensor]]] = {}
        for counter, kept in pending:
            groups.setdefault((kept.device, kept.numel()), []).append((counter, kept))
        for (device, vectors), group in groups.items():
            index, width = self._on(device, tuple(counter for counter, _ in group))
            kept = torch.stack([k.reshape(-1) for _, k in group])
            good = kept >= 0
            bad = ~good
            if seen.real is not None and seen.real.numel() == vectors:
                real = seen.real.reshape(-1).to(device, non_blocking=True)
                good, bad = good & real, bad & real
            total = good.sum(1) * width
            dropped = total - (kept * good).sum(1)
            sums = self._sums.get((device, seen.phase, seen.step))
            if sums is None:
                with torch.inference_mode(False):  # so that it can be added to outside inference mode too
                    sums = torch.zeros(len(self.counters), 3, dtype=torch.int64, device=device)
                self._sums[device, seen.phase, seen.step] = sums
            sums.index_add_(0, index, torch.stack([dropped, total, bad.sum(1)], 1))

    def _on(self, device: torch.device, counters: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if (device, counters) not in self._constants:
            width = [self.counters[c].width for c in counters]
            with torch.inference_mode(False):
                self._constants[device, counters] = (
                    torch.tensor(counters, dtype=torch.int64).to(device),
                    torch.tensor(width, dtype=torch.int64).to(device),
                )
        return self._constants[device, counters]

    def table(self) -> pd.DataFrame:
        """Everything counted so far, one row per counter, phase and step: the one host synchronisation.

        Columns: layer, module, site, expert (or <NA>), phase, step (or <NA>), dropped, total, sparsity,
        nonfinite (vectors seen with NaN or Inf; they are in neither count). Counters that saw no real
        token in a phase have no row there.
        """
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
