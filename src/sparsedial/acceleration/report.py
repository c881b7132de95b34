"""What an accelerated model has skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from sparsedial.acceleration.backend import ProductCounts


@dataclass(frozen=True)
class VectorCounts:
    """The counts of the projections that read one vector of an FFN.

    Attributes:
        layer: Index of the layer.
        module: Path of the FFN.
        vector: "input" or "intermediate".
        products: Counts of the products.
        prefill_calls: Number of calls with many vectors.
        calls_without_rule: Number of calls in decode steps that ran without the rule.
    """

    layer: int
    module: str
    vector: str
    products: Sequence[ProductCounts]
    prefill_calls: int
    calls_without_rule: int = 0


@dataclass(frozen=True)
class AccelerationReport:
    """Reports what an accelerated model has read and skipped in decode steps.

    A call is one multiplication with the weights of a projection, or of up and gate together. Projections that read a
    vector without a rule, such as up and gate at the site ``intermediate``, read all weights, and their calls count as
    dense.

    Attributes:
        calls: Number of calls in decode steps.
        dense_calls: How many of them read all weights.
        bytes_read: Bytes of weights that the calls have read.
        dense_bytes_read: How many of them belong to calls that read all weights.
        dense_model_bytes: Bytes of weights that the same calls of a dense model read.
        prefill_calls: Number of calls with more vectors, which read all weights. Calls in compiled code are not
            counted.
        prefill: "dense" if the rule is not applied in prefill, otherwise "sparse".
        when_slower: What a decode step runs where the kernel is not faster: "mask" or "dense".
        calls_without_rule: How many of the dense calls ran without the rule. 0 if ``when_slower`` is "mask".
        linear_layers: Number of linear layers outside of the accelerated FFNs that a dense kernel computes. Their
            weights are read completely, and are not part of the bytes above.
        table: One row per FFN and vector that projections read, with the columns layer, module, vector, calls,
            dense_calls, sparsity (of the entries of the vector, with entries that are zero without the rule) and
            read_share (of the weights).
    """

    calls: int
    dense_calls: int
    bytes_read: int
    dense_bytes_read: int
    dense_model_bytes: int
    prefill_calls: int
    prefill: str
    when_slower: str
    calls_without_rule: int
    linear_layers: int
    table: pd.DataFrame

    @property
    def dense_call_share(self) -> float:
        """Share of the calls that read all weights. NaN before the first call."""
        return _divide(self.dense_calls, self.calls)

    @property
    def dense_byte_share(self) -> float:
        """Share of the bytes that were read by such calls. NaN before the first call."""
        return _divide(self.dense_bytes_read, self.bytes_read)

    @property
    def read_share(self) -> float:
        """Share of the weights that was read, over all calls. NaN before the first call."""
        return _divide(self.bytes_read, self.dense_model_bytes)

    def __str__(self) -> str:
        if self.calls == 0:
            return f"no decode step yet; prefill: {self.prefill}, {self.prefill_calls} calls"
        without_rule = ""
        if self.when_slower == "dense":
            without_rule = f", {_divide(self.calls_without_rule, self.calls):.1%} without the rule"
        return (
            f"decode: read {self.read_share:.1%} of the FFN weights in {self.calls} calls, of which "
            f"{self.dense_call_share:.1%} ran dense ({self.dense_byte_share:.1%} of the bytes{without_rule}); prefill: "
            f"{self.prefill}, {self.prefill_calls} calls"
        )


def make_report(
    vectors: Sequence[VectorCounts], prefill: str, when_slower: str, linear_layers: int = 0
) -> AccelerationReport:
    """Add up the counts of a model.

    Args:
        vectors: Counts of all vectors.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        linear_layers: Number of linear layers outside of the accelerated FFNs that a dense kernel computes. Defaults
            to 0.

    Returns:
        The report.
    """
    rows = []
    bytes_read = dense_bytes_read = dense_model_bytes = 0
    for counts in vectors:
        rows.append(_make_row(counts))
        for product in counts.products:
            bytes_read += product.rows_read * product.row_bytes
            dense_model_bytes += product.rows * product.row_bytes
            if product.calls > 0:
                dense_bytes_read += product.dense_calls * (product.rows // product.calls) * product.row_bytes
    table = pd.DataFrame(rows)
    return AccelerationReport(
        calls=int(table["calls"].sum()),
        dense_calls=int(table["dense_calls"].sum()),
        bytes_read=bytes_read,
        dense_bytes_read=dense_bytes_read,
        dense_model_bytes=dense_model_bytes,
        prefill_calls=sum(counts.prefill_calls for counts in vectors),
        prefill=prefill,
        when_slower=when_slower,
        calls_without_rule=sum(counts.calls_without_rule for counts in vectors),
        linear_layers=linear_layers,
        table=table,
    )


def _make_row(counts: VectorCounts) -> dict[str, object]:
    calls = dense_calls = kept = entries = bytes_read = dense_bytes = 0
    for product in counts.products:
        calls += product.calls
        dense_calls += product.dense_calls
        kept += product.kept_entries
        entries += product.entries
        bytes_read += product.rows_read * product.row_bytes
        dense_bytes += product.rows * product.row_bytes
    return {
        "layer": counts.layer,
        "module": counts.module,
        "vector": counts.vector,
        "calls": calls,
        "dense_calls": dense_calls,
        "sparsity": 1 - _divide(kept, entries),
        "read_share": _divide(bytes_read, dense_bytes),
    }


def _divide(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
