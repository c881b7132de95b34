"""Sentences about what generated texts cost: where sparsity costs more than it saves."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.analysis.breakdowns import Row
from sparsedial.analysis.generation_cost import UNCLEAR, costly_points
from sparsedial.ffn.projection_input import OUTER_SITES

MAX_COST_NOTES = 12


def note_costs(curves: Sequence[Sequence[Row]]) -> list[str]:
    """Return one sentence for each curve at which sparsity costs more than it saves, or may do so.

    Args:
        curves: For each curve, its rows of `generation_cost_rows`.

    Returns:
        At most `MAX_COST_NOTES` sentences.
    """
    notes = list(filter(None, map(_note_cost, curves)))
    if len(notes) > MAX_COST_NOTES:
        hidden = len(notes) - MAX_COST_NOTES
        notes = [*notes[:MAX_COST_NOTES], f"Sparsity costs more than it saves, or may do so, in {hidden} more curves."]
    return notes


def _note_cost(rows: Sequence[Row]) -> str | None:
    costly = costly_points(rows)
    if costly:
        first = costly[0]
        others = ""
        if len(costly) > 1:
            others = f" The same holds at {len(costly) - 1} sparser measured point(s)."
        return (
            f"{_name_curve(first)}: at p = {first['p']:g} (sparsity {first['sparsity']:.0%}), sparsity costs more than "
            f"it saves. {_describe_work(first, rows[0])}{others}"
        )
    doubtful = [row for row in rows if row["net_work"] > 1 and row["verdict"] in (UNCLEAR, None)]
    doubtful = [row for row in doubtful if row["p"] == row["p"]]  # not the dense model, whose p is NaN
    if not doubtful:
        return None
    first = min(doubtful, key=lambda row: float(row["sparsity"]))
    return (
        f"{_name_curve(first)}: at p = {first['p']:g} (sparsity {first['sparsity']:.0%}), sparsity may cost more than "
        f"it saves. {_describe_work(first, rows[0])} More examples would decide it."
    )


def _name_curve(row: Row) -> str:
    return f"{row['model']}, {row['site']}, {row['task']}"


def _describe_work(row: Row, dense: Row) -> str:
    work = "FFN work"
    if row["site"] in OUTER_SITES:
        work = "work of the projections that read the vector"
    text = (
        f"The model generates {row['token_ratio']:.2f} times as many tokens as the dense model, and "
        f"{row['skippable_decoding']:.0%} of the {work} in decoding can be skipped, so that {row['net_work']:.2f} "
        "times the work of the dense model remains"
    )
    if row["verdict"] is not None:
        text += f" (95% interval: {row['net_work_low']:.2f} to {row['net_work_high']:.2f})"
    text += "."
    if row["limit_hit"] > dense["limit_hit"]:
        text += (
            f" The length limit ended {row['limit_hit']:.0%} of these texts and {dense['limit_hit']:.0%} of those of "
            "the dense model, so it may be more without a limit."
        )
    return text
