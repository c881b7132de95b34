"""Table of the counts of all counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch

_COLUMNS = (
    "layer", "module", "vector", "expert", "phase", "step", "dropped", "total", "tokens", "weight", "nonfinite"
)  # fmt: skip
_DTYPES = {
    "layer": "int64",
    "expert": "Int64",
    "step": "Int64",
    "dropped": "int64",
    "total": "int64",
    "tokens": "int64",
    "weight": "Float64",
    "nonfinite": "int64",
}


@dataclass(frozen=True)
class CounterKey:
    """Description of one counter, which counts the entries of one vector of one FFN.

    Attributes:
        layer: Index of the layer.
        module: Name of the FFN.
        vector: "input", "up", "gate" or "intermediate".
        expert: Index of the expert in its mixture-of-experts layer, or None.
        width: Number of entries of one vector.
        moe_path: Path of the module that contains all experts of the layer, or None.
        is_time_major: True if the module reads tokens in the order [tokens, batch].
    """

    layer: int
    module: str
    vector: str
    expert: int | None
    width: int
    moe_path: str | None = None
    is_time_major: bool = False


@dataclass(frozen=True)
class _CountRow:
    layer: int
    module: str
    vector: str
    expert: int | None
    phase: str
    step: int | None
    dropped: int
    total: int
    tokens: int
    weight: float | None
    nonfinite: int


@dataclass(frozen=True)
class _Sums:
    """Sums of one counter in one phase and step. ``weight`` is in units of `ROUTING_WEIGHT_QUANTUM`."""

    key: CounterKey
    dropped: int
    total: int
    nonfinite: int
    weight: int

    @property
    def has_tokens(self) -> bool:
        return self.total > 0 or self.nonfinite > 0

    @property
    def experts(self) -> tuple[str | None, str]:
        """Key that the experts of one mixture-of-experts layer share: the path of the layer, and the vector."""
        return self.key.moe_path, self.key.vector


def make_count_table(keys: Sequence[CounterKey], sums: Mapping[tuple[str, int | None], torch.Tensor]) -> pd.DataFrame:
    """Return a table with one row per counter, phase and step.

    Args:
        keys: Description of each counter.
        sums: int64 tensor of shape [counters, 4] per phase and step, on the host. The columns are dropped entries,
            all entries, non-finite vectors and routing weight.

    Returns:
        Table with the columns layer, module, vector, expert (or <NA>), phase, step (or <NA>), dropped, total,
        sparsity, tokens, weight (or <NA>) and nonfinite. The last one is the number of vectors with a NaN or Inf,
        which are excluded from all other columns. A counter without real tokens in a phase and step has no row for
        it. The only exception is an expert if another expert of the same layer has a row.
    """
    rows: list[_CountRow] = []
    for (phase, step), tensor in sums.items():
        counted = [_Sums(key, *row) for key, row in zip(keys, tensor.tolist(), strict=True)]
        rows += _make_rows(phase, step, counted)
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(_COLUMNS)).astype(_DTYPES)
    table.insert(_COLUMNS.index("tokens"), "sparsity", table["dropped"] / table["total"].where(table["total"] > 0))
    return table


def _make_rows(phase: str, step: int | None, counted: Sequence[_Sums]) -> list[_CountRow]:
    active_layers = {sums.experts for sums in counted if sums.key.moe_path is not None and sums.has_tokens}
    layer_weight = Counter[tuple[str | None, str]]()
    for sums in counted:
        if sums.experts in active_layers and sums.has_tokens:
            layer_weight[sums.experts] += sums.weight
    rows = []
    for sums in counted:
        key = sums.key
        is_expert = key.expert is not None
        if not sums.has_tokens and not (is_expert and sums.experts in active_layers):
            continue
        weight = None
        if is_expert and layer_weight[sums.experts] != 0:
            weight = sums.weight / layer_weight[sums.experts]
        rows.append(
            _CountRow(
                layer=key.layer,
                module=key.module,
                vector=key.vector,
                expert=key.expert,
                phase=phase,
                step=step,
                dropped=sums.dropped,
                total=sums.total,
                tokens=sums.total // key.width,
                weight=weight,
                nonfinite=sums.nonfinite,
            )
        )
    return rows
