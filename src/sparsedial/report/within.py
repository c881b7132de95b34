"""The figures of where in a model the sparsity is: by layer, by expert and by denoising step."""

from __future__ import annotations

from math import log10
from typing import Any

import altair as alt
import pandas as pd

from sparsedial.ffn import SITES
from sparsedial.report.drawing import CURVE, finish, name_panels, name_vectors, records
from sparsedial.report.theme import COLOURS, INK, SHADES, SPARE, of_sites, site_scale
from sparsedial.report.words import ordered
from sparsedial.study.profiles import OUTLIER

NAMED = 6  # outliers in a panel that get their name


def layer_profile(layers: pd.DataFrame) -> alt.TopLevelMixin:
    """Sparsity over layers, at the measured p nearest the critical one: a line per site and vector.

    One panel per combination of model, rule, task and phase. ``all_inputs`` has two vectors, told apart
    by the dash.

    Raises:
        ValueError: no row can be drawn.
    """
    by = (*CURVE, "phase")
    rows = records(layers, (*by, "site", "vector"), ("layer", "sparsity"))
    rows = [row for row in rows if row["layer"] is not None and row["sparsity"] is not None]
    panels = name_panels(rows, by=by)
    name_vectors(rows)
    lines = {row["line"]: (row["site"], row["vector"]) for row in rows}
    sites = ordered((row["site"] for row in rows), SITES)
    names = sorted(lines, key=lambda name: (sites.index(lines[name][0]), ordered([lines[name][1]], SITES)))
    colours = dict(zip(sites, of_sites(sites, COLOURS, SPARE), strict=True))
    vectors = {site: ordered((lines[name][1] for name in names if lines[name][0] == site), SITES) for site in sites}
    dashes = [
        ([1, 0], [5, 3], [2, 2])[vectors[site].index(vector) % 3] for site, vector in map(lines.__getitem__, names)
    ]
    numbers = sorted({row["layer"] for row in rows})
    alone = 0.5 if len(numbers) == 1 else 0
    # One legend for both: colour and dash share a domain, so Vega-Lite merges them.
    colour = alt.Color(
        "line:N",
        scale=alt.Scale(domain=names, range=[colours[lines[name][0]] for name in names]),
        legend=alt.Legend(symbolType="stroke", symbolSize=400, symbolStrokeWidth=2.5),
    )
    dash = alt.StrokeDash("line:N", scale=alt.Scale(domain=names, range=dashes))
    base = alt.Chart().encode(
        x=alt.X(
            "layer:Q",
            title="layer",
            scale=alt.Scale(domain=[numbers[0] - alone, numbers[-1] + alone], nice=False),
            axis=alt.Axis(format="d", **({"values": numbers} if len(numbers) == 1 else {"tickMinStep": 1})),
        ),
        y=alt.Y(
            "sparsity:Q",
            title="sparsity (share dropped)",
            scale=alt.Scale(zero=True),
            axis=alt.Axis(format=".0%", tickCount=6),
        ),
        color=colour,
    )
    drawn = alt.layer(
        base.mark_line(strokeWidth=2).encode(strokeDash=dash), base.mark_point(filled=True, size=22, opacity=1)
    )
    about = "each site at the measured p nearest its critical sparsity"
    return finish(drawn, rows, panels, "Sparsity by layer", about, height=280)


def expert_band(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Least, mean and greatest sparsity over the experts of each layer, a panel per site and vector.

    Raises:
        ValueError: no row can be drawn.
    """
    rows, panels, empty = _experts(experts)
    layer = alt.X("layer:Q", title="layer", axis=alt.Axis(format="d", tickMinStep=1), scale=alt.Scale(nice=False))
    base = alt.Chart().encode(x=layer, color=_site_colour(rows))
    sparsity = "sparsity (share dropped)"
    y = alt.Y("mean(sparsity):Q", title=sparsity, axis=alt.Axis(format=".0%", tickCount=6), scale=alt.Scale(zero=True))
    drawn = alt.layer(
        base.mark_area(opacity=0.22, line=False).encode(
            y=alt.Y("min(sparsity):Q", title=sparsity), y2="max(sparsity):Q", color=_site_colour(rows)
        ),
        base.mark_line(strokeWidth=2).encode(y=y),
    )
    if len({row["layer"] for row in rows}) == 1:  # neither an area nor a line has a width
        drawn = alt.layer(
            base.mark_rule(strokeWidth=6, opacity=0.22).encode(
                y=alt.Y("min(sparsity):Q", title=sparsity), y2="max(sparsity):Q"
            ),
            base.mark_point(filled=True, size=60, opacity=1).encode(y=y),
        )
    about = f"line: mean over the experts; band: from the least to the greatest; {empty}"
    return finish(drawn, rows, panels, "Sparsity over the experts of each layer", about, height=220)


def expert_histogram(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """How many experts (of all layers) have which sparsity, a panel per site and vector.

    Raises:
        ValueError: no row can be drawn.
    """
    rows, panels, empty = _experts(experts)
    drawn = alt.layer(
        alt.Chart()
        .mark_bar(opacity=0.85, binSpacing=1)
        .encode(
            x=alt.X(
                "sparsity:Q",
                bin=alt.Bin(maxbins=24),
                title="sparsity (share dropped)",
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            y=alt.Y("count():Q", title="experts of all layers", axis=alt.Axis(tickMinStep=1, tickCount=5)),
            color=_site_colour(rows),
        )
    )
    return finish(drawn, rows, panels, "Experts by sparsity", empty, height=180)


def expert_routing(experts: pd.DataFrame) -> alt.TopLevelMixin:
    """Each expert's sparsity over its share of the layer's tokens, a panel per site and vector; outliers named.

    Raises:
        ValueError: no row can be drawn.
    """
    rows, panels, empty = _experts(experts, "share", "robust_z", "outlier")
    rows = [row for row in rows if row["share"]]
    if not rows:
        raise ValueError("nothing to draw: no counts of tokens routed to each expert")
    far = sorted((row for row in rows if row["outlier"]), key=lambda row: -abs(row["robust_z"]))
    for panel in panels:
        for row in [row for row in far if row["panel"] == panel][:NAMED]:
            row["name"] = f"layer {row['layer']:.0f}, expert {row['expert']:.0f}"
    x = alt.X(
        "share:Q",
        title="share of the layer's routed tokens",
        scale=alt.Scale(type="log", nice=False, padding=14),
        axis=alt.Axis(format=".1~%", tickCount=4, labelOverlap="greedy"),
    )
    y = alt.Y(
        "sparsity:Q",
        title="sparsity (share dropped)",
        scale=alt.Scale(zero=False, padding=14),
        axis=alt.Axis(format=".0%", tickCount=6),
    )
    base = alt.Chart().encode(x=x, y=y, color=_site_colour(rows))
    # Points that the eye could not tell apart are drawn once: a page holds thousands of experts.
    rows = list({(row["panel"], row.get("name"), row["outlier"], round(40 * log10(row["share"])),
                  round(200 * row["sparsity"])): row for row in rows}.values())  # fmt: skip
    outliers = base.transform_filter("datum.outlier")
    drawn = alt.layer(
        base.transform_filter("!datum.outlier").mark_point(filled=True, size=26, opacity=0.55),
        outliers.mark_point(filled=False, size=70, strokeWidth=2, opacity=1),
        outliers.transform_filter("isValid(datum.name)")
        .mark_text(align="left", dx=8, dy=-5, fontSize=10.5)
        .encode(text="name:N", color=alt.value(INK)),
    )
    about = [f"rings: more than {OUTLIER:g} robust standard deviations (1.4826 MAD) from the layer's median", empty]
    return finish(drawn, rows, panels, "Experts: sparsity over routing frequency", about, height=240, widest=2)


def step_map(steps: pd.DataFrame) -> alt.TopLevelMixin:
    """Sparsity of each layer at each denoising step, a panel per site and vector.

    Raises:
        ValueError: no row can be drawn.
    """
    rows = records(steps, (*CURVE, "site", "vector"), ("step", "layer", "sparsity"))
    rows = [row for row in rows if None not in (row["step"], row["layer"], row["sparsity"])]
    name_vectors(rows)
    panels = name_panels(rows, by=(*CURVE, "line"))
    drawn = alt.layer(
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X("step:O", title="denoising step", axis=alt.Axis(format="d", labelAngle=0, labelOverlap="parity")),
            y=alt.Y("layer:O", title="layer", axis=alt.Axis(format="d", labelOverlap="parity")),
            color=alt.Color(
                "sparsity:Q", scale=alt.Scale(range=list(SHADES)), legend=alt.Legend(format=".0%", title="sparsity")
            ),
        )
    )
    about = "each site at the measured p nearest its critical sparsity"
    return finish(drawn, rows, panels, "Sparsity by denoising step and layer", about, height=220)


def _site_colour(rows: list[dict[str, Any]]) -> alt.Color:
    sites = ordered((row["site"] for row in rows), SITES)
    return alt.Color("site:N", scale=site_scale(sites, COLOURS, SPARE), legend=None)


def _experts(experts: pd.DataFrame, *more: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """Rows of experts with data, their panels, and in words how many have none."""
    rows = records(experts, (*CURVE, "phase", "site", "vector"), ("layer", "expert", "sparsity", *more))
    sites = ordered((row["site"] for row in rows), SITES)
    seen = sorted((r for r in rows if r["sparsity"] is not None), key=lambda row: sites.index(row["site"]))
    name_vectors(seen)
    panels = name_panels(seen, by=(*CURVE, "phase", "line"))
    without = len(rows) - len(seen)
    empty = f"experts that saw no token have no data and are left out ({without} of {len(rows)})"
    return seen, panels, empty if without else "every expert saw tokens"
