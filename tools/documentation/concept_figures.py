"""Draw the pictures of the page of concepts from the activations of a model of the zoo.

    python -m tools.documentation.concept_figures docs/figures

The first two pictures show the vectors of one token in one FFN. The other two show a measurement: self-prediction at
the five sites in FFNs. It is kept in ``runs/concepts`` and takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch

import sparsedial as sd
from sparsedial.report.charts.rendering import to_svg
from tools.documentation.site_drawing import draw_sites

MODEL = "zoo:dense-5m"
TEXT = "Once upon a time there was a small river that ran through the"
LAYER = 2
P = 0.9
SITE = "intermediate"
KEPT, DROPPED, LINE = "#2f6fb0", "#d9a441", "#b03a2e"
DASHED = {"color": LINE, "strokeDash": [4, 4]}
COLORS = alt.Scale(domain=["kept", "dropped"], range=[KEPT, DROPPED])


def main() -> None:
    """Draw all pictures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the SVG files")
    parser.add_argument("--model", default=MODEL, help="model of the zoo")
    parser.add_argument("--study", type=Path, default=Path("runs/concepts"), help="folder of the measurement")
    parser.add_argument("--sequences", type=int, help="measure five values of p on so many sequences")
    arguments = parser.parse_args()
    vectors = record_vectors(arguments.model)
    result = measure(arguments.model, arguments.study, arguments.sequences)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "concepts-site.svg": draw_sites(vectors, {name: keep(vectors[name]) for name in ("x", "i")}),
        "concepts-top-p.svg": to_svg(draw_top_p(vectors["i"])),
        "concepts-critical.svg": to_svg(draw_critical(result)),
        "concepts-decoding.svg": to_svg(draw_weights(result.critical)),
    }
    for name, picture in pictures.items():
        (arguments.folder / name).write_text(picture, encoding="utf-8")
        print(arguments.folder / name)


def measure(model: str, folder: Path, sequences: int | None) -> sd.Measurement:
    """Measure a model at all sites in FFNs, or take the finished measurement of the folder.

    Args:
        model: Name of the model.
        folder: Directory of the study.
        sequences: Number of sequences of a quick measurement at five values of p. None measures to ±2 points.
    """
    if sequences is not None:
        return sd.measure(
            model, out=folder, p=[0.99, 0.97, 0.95, 0.93, 0.9], sequences=sequences, length=24, progress=False
        )
    return sd.measure(model, out=folder, precision=2.0)


def record_vectors(model_name: str) -> dict[str, np.ndarray]:
    """Return the vectors that the FFN of one layer computes for the last token of a text.

    Args:
        model_name: Name of the model.

    Returns:
        The vectors x (shape [hidden]), u, g and i (shape [width]), float32.
    """
    model, tokenizer = sd.load_model(model_name, device="cpu", dtype="float32")
    ffn = sd.find_ffns(model)[min(LAYER, model.config.num_hidden_layers - 1)]
    up, down = model.get_submodule(ffn.names["up"]), model.get_submodule(ffn.names["down"])
    recorded = {}

    def record(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        recorded[module] = inputs[0][0, -1]

    handles = [projection.register_forward_pre_hook(record) for projection in (up, down)]
    with torch.inference_mode():
        model(**tokenizer(TEXT, return_tensors="pt"))
    for handle in handles:
        handle.remove()
    x, intermediate = recorded[up], recorded[down]
    with torch.inference_mode():
        product = up(x)
    gate = torch.where(product == 0, torch.zeros_like(product), intermediate / product)
    vectors = {"x": x, "u": product, "g": gate, "i": intermediate}
    return {name: vector.detach().numpy() for name, vector in vectors.items()}


def keep(vector: np.ndarray) -> np.ndarray:
    """Return a boolean mask of the entries that top-p keeps."""
    kept, _ = sd.apply_rule(torch.from_numpy(vector.copy()), sd.TopP(P))
    return (kept != 0).numpy()


def draw_top_p(vector: np.ndarray) -> alt.VConcatChart:
    """Draw the sorted magnitudes of a vector and the share of the L1 norm that the largest ones hold.

    Args:
        vector: One token's vector, shape [width].
    """
    magnitudes = np.sort(np.abs(vector))[::-1]
    kept = int(keep(vector).sum())
    table = pd.DataFrame({
        "entry": np.arange(1, len(magnitudes) + 1),
        "magnitude": magnitudes,
        "share": np.cumsum(magnitudes) / magnitudes.sum(),
        "fate": np.where(np.arange(len(magnitudes)) < kept, "kept", "dropped"),
    })  # fmt: skip
    entries = alt.X("entry:Q", title="entries, largest first", scale=alt.Scale(domain=[0, len(magnitudes)], nice=False))
    color = alt.Color("fate:N", scale=COLORS, title=None)
    bars = (
        alt.Chart(table)
        .mark_area(interpolate="step")
        .encode(x=entries, y=alt.Y("magnitude:Q", title="|entry|"), color=color)
    )
    share = alt.Y("share:Q", title="share of the L1 norm", axis=alt.Axis(format="%"))
    shares = alt.Chart(table).mark_line(strokeWidth=3).encode(x=entries, y=share, color=color)
    limit = alt.Chart(pd.DataFrame({"share": [P]})).mark_rule(**DASHED).encode(y="share:Q")
    sparsity = 1 - kept / len(magnitudes)
    title = f"top-p with p = {P} keeps {kept} of {len(magnitudes)} entries: a sparsity of {sparsity:.0%}"
    size = {"width": 620, "height": 150}
    return alt.vconcat(bars.properties(**size), (shares + limit).properties(**size)).properties(title=title)


def draw_critical(result: sd.Measurement) -> alt.LayerChart:
    """Draw the retention at one site, with the critical sparsity and its interval.

    Args:
        result: The measurement.
    """
    points = result.points[result.points["site"] == SITE]
    row = result.critical[result.critical["site"] == SITE].iloc[0]
    dense = pd.DataFrame({"sparsity": [0.0], "retention": [1.0]})
    line_table = pd.concat([dense, points[["sparsity", "retention"]]]).sort_values("sparsity")
    sparsity = alt.X("sparsity:Q", title=f"sparsity at {SITE} (share dropped)", axis=alt.Axis(format="%"))
    retention = alt.Y("retention:Q", title="retention", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False))
    band_table = pd.DataFrame({"low": [row["low"]], "high": [row["high"]]})
    band = alt.Chart(band_table).mark_rect(color=KEPT, opacity=0.2).encode(x="low:Q", x2="high:Q")
    line = alt.Chart(line_table).mark_line(color=KEPT).encode(x=sparsity, y=retention)
    marks = alt.Chart(points).mark_point(filled=True, size=60, color=KEPT).encode(x=sparsity, y=retention)
    bars = alt.Chart(points).mark_rule(color=KEPT).encode(x=sparsity, y="low:Q", y2="high:Q")
    limit = (
        alt.Chart(pd.DataFrame({"retention": [0.99]})).mark_rule(color=LINE, strokeDash=[4, 4]).encode(y="retention:Q")
    )
    estimate = alt.Chart(pd.DataFrame({"sparsity": [row["sparsity"]]})).mark_rule(color=LINE).encode(x="sparsity:Q")
    title = f"critical sparsity {row['sparsity']:.1%}, 95% interval {row['low']:.1%} to {row['high']:.1%}"
    layers = alt.layer(band, line, bars, marks, limit, estimate)
    return layers.properties(width=620, height=280, title=title)


def draw_weights(critical: pd.DataFrame) -> alt.Chart:
    """Draw which share of all weights a token reads, and which of them can be skipped, at each site.

    Args:
        critical: The table `Measurement.critical`.
    """
    rows = []
    for row in critical.itertuples():
        rows.append({"site": row.site, "part": "skipped", "share": row.skippable_weights})
        rows.append({"site": row.site, "part": "read", "share": 1 - row.skippable_weights})
    parts = alt.Color("part:N", scale=alt.Scale(domain=["read", "skipped"], range=[KEPT, DROPPED]), title=None)
    share = alt.X("share:Q", title="weights that a decode step reads, of all", axis=alt.Axis(format="%"))
    order = list(critical["site"])
    bars = (
        alt.Chart(pd.DataFrame(rows)).mark_bar().encode(x=share, y=alt.Y("site:N", sort=order, title=None), color=parts)
    )
    return bars.properties(width=520, height=150, title="at the critical sparsity of each site")


if __name__ == "__main__":
    main()
