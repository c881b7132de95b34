"""Table of the counts of all counters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pandas as pd
import torch

from sparsedial.rules import Rule


class SumsKey(NamedTuple):
    """Key of one tensor of sums.

    Attributes:
        assignment: Index of the assignment of rules.
        phase: "prefill" or "generation".
        step: Denoising step, or None.
        segment: "thinking" or "answer", or None if the text is not divided into segments.
    """

    assignment: int
    phase: str
    step: int | None
    segment: str | None = None


_COLUMNS = (
    "layer", "module", "vector", "expert", "phase", "segment", "step", "dropped", "total", "tokens", "weight",
    "nonfinite",
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
    segment: str | None
    step: int | None
    dropped: int
    total: int
    tokens: int
    weight: float | None
    nonfinite: int
    rule: str


@dataclass
class _Sums:
    """Sums of one counter with one rule in one phase and step. Weights are in units of `ROUTING_WEIGHT_QUANTUM`.

    ``layer_weight`` is the weight of all experts of the layer in the same forward passes, and ``is_layer_active`` is
    True if a token was routed to any of them.
    """

    key: CounterKey
    dropped: int = 0
    total: int = 0
    nonfinite: int = 0
    weight: int = 0
    layer_weight: int = 0
    is_layer_active: bool = False

    @property
    def has_tokens(self) -> bool:
        return self.total > 0 or self.nonfinite > 0

    @property
    def experts(self) -> tuple[str | None, str]:
        """Key that the experts of one mixture-of-experts layer share: the path of the layer, and the vector."""
        return self.key.moe_path, self.key.vector


def make_count_table(
    keys: Sequence[CounterKey], assignments: Sequence[Sequence[Rule | None]], sums: Mapping[SumsKey, torch.Tensor]
) -> pd.DataFrame:
    """Return a table with one row per counter, rule, phase, segment and step.

    Args:
        keys: Description of each counter.
        assignments: Rule of each counter, by index of the assignment.
        sums: int64 tensor of shape [counters, 4] per assignment, phase, step and segment, on the host. The columns are
            dropped entries, all entries, non-finite vectors and routing weight.

    Returns:
        Table with the columns layer, module, vector, expert (or <NA>), phase, step (or <NA>), dropped, total,
        sparsity, tokens, weight (or <NA>) and nonfinite, segment (or None) after the phase if texts are divided into
        segments, and rule if there are rows of different rules. nonfinite is
        the number of vectors with a NaN or Inf, which are excluded from all other columns. A counter without real
        tokens in a phase and step has no row for it. The only exception is an expert if another expert of the same
        layer has a row.
    """
    merged: dict[SumsKey, dict[tuple[Rule, int], _Sums]] = {}
    for key, tensor in sums.items():
        _merge(keys, assignments[key.assignment], tensor, merged.setdefault(key._replace(assignment=0), {}))
    rows: list[_CountRow] = []
    for key, by_rule in merged.items():
        for (rule, _), counted in by_rule.items():
            if counted.has_tokens or (counted.key.expert is not None and counted.is_layer_active):
                rows.append(_make_row(key, rule, counted))
    table = pd.DataFrame([asdict(row) for row in rows], columns=[*_COLUMNS, "rule"]).astype(_DTYPES)
    table.insert(_COLUMNS.index("tokens"), "sparsity", table["dropped"] / table["total"].where(table["total"] > 0))
    unused = []
    if table["segment"].isna().all():
        unused.append("segment")
    if table["rule"].nunique() <= 1:
        unused.append("rule")
    return table.drop(columns=unused)


def _merge(
    keys: Sequence[CounterKey],
    rules: Sequence[Rule | None],
    tensor: torch.Tensor,
    merged: dict[tuple[Rule, int], _Sums],
) -> None:
    """Add the sums of one assignment to those of earlier assignments that gave a counter the same rule."""
    counted = [_Sums(key, *row) for key, row in zip(keys, tensor.tolist(), strict=True)]
    layer_weights: dict[tuple[str | None, str], int] = defaultdict(int)  # of the layers with a token
    for sums in counted:
        if sums.key.moe_path is not None and sums.has_tokens:
            layer_weights[sums.experts] += sums.weight
    for counter, (sums, rule) in enumerate(zip(counted, rules, strict=True)):
        if rule is None:
            continue
        total = merged.setdefault((rule, counter), _Sums(sums.key))
        total.dropped += sums.dropped
        total.total += sums.total
        total.nonfinite += sums.nonfinite
        total.weight += sums.weight
        total.layer_weight += layer_weights.get(sums.experts, 0)
        total.is_layer_active |= sums.experts in layer_weights


def _make_row(counted_in: SumsKey, rule: Rule, sums: _Sums) -> _CountRow:
    key = sums.key
    weight = None
    if key.expert is not None and sums.layer_weight != 0:
        weight = sums.weight / sums.layer_weight
    return _CountRow(
        layer=key.layer,
        module=key.module,
        vector=key.vector,
        expert=key.expert,
        phase=counted_in.phase,
        segment=counted_in.segment,
        step=counted_in.step,
        dropped=sums.dropped,
        total=sums.total,
        tokens=sums.total // key.width,
        weight=weight,
        nonfinite=sums.nonfinite,
        rule=repr(rule),
    )
