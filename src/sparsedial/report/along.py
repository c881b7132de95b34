"""The figures of diffusion models along their denoising steps: how alike kept sets are, and which tokens are sparse."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from sparsedial.report.drawing import CURVE, finish, name_panels, name_vectors, records
from sparsedial.report.theme import FAMILIES
from sparsedial.study.profiles import EVERY

ABOUT = "each site at the measured p nearest its critical sparsity; means over layers and tokens"
LINES = {"with the step before": "consecutive", "with the first step": "drift"}
STATES = ("masked", "revealed")


def overlap(likeness: pd.DataFrame) -> alt.TopLevelMixin:
    """Jaccard index of kept sets with the step before's and with the first's, a panel per site and vector.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _rows(likeness[likeness["state"] == EVERY], *LINES.values())
    told = [{**row, "of": of, "value": row[name]} for row in rows for of, name in LINES.items()]
    return _lines(told, list(LINES), "Overlap of kept sets", "Jaccard index", ".1f", [0.0, 1.0])


def revealed(likeness: pd.DataFrame) -> alt.TopLevelMixin:
    """Sparsity of tokens still masked and of those revealed, over the steps, a panel per site and vector.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = _rows(likeness[likeness["state"] != EVERY], "sparsity")
    told = [{**row, "of": row["state"], "value": row["sparsity"]} for row in rows]
    return _lines(told, list(STATES), "Sparsity of masked and revealed tokens", "sparsity (share dropped)", ".0%", None)


def _rows(likeness: pd.DataFrame, *numbers: str) -> list[dict[str, Any]]:
    rows = records(likeness, (*CURVE, "site", "vector", "state"), ("step", *numbers))
    name_vectors(rows)
    return rows


def _lines(
    rows: list[dict[str, Any]], names: list[str], heading: str, title: str, form: str, domain: list[float] | None
) -> alt.TopLevelMixin:
    rows = [row for row in rows if row["step"] is not None and row["value"] is not None]
    panels = name_panels(rows, by=(*CURVE, "line"))
    scale = alt.Scale(zero=False) if domain is None else alt.Scale(domain=domain)
    base = alt.Chart().encode(
        x=alt.X(
            "step:Q", title="denoising step", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False)
        ),
        y=alt.Y("value:Q", title=title, scale=scale, axis=alt.Axis(format=form, tickCount=6)),
        color=alt.Color(
            "of:N",
            scale=alt.Scale(domain=names, range=list(FAMILIES[: len(names)])),
            legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5),
        ),
    )
    drawn = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=18, opacity=1))
    return finish(drawn, rows, panels, heading, ABOUT, height=220)
