"""The report: one self-contained HTML page, with its figures and its numbers as files beside it.

The page needs no network and runs no script (its content security policy forbids both). Every text that
comes from the results goes through `_text` before it meets HTML.
"""

from __future__ import annotations

import html
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from sparsedial.report import figures
from sparsedial.report.answer import answer
from sparsedial.report.files import to_csv, to_json, write_atomically
from sparsedial.report.style import CSS
from sparsedial.report.table import MEANING, SAID_ONCE, SITE, critical_cells
from sparsedial.report.theme import COLOURS, SPARE
from sparsedial.report.words import goal, number, ordered, plain, with_numbers

if TYPE_CHECKING:
    from sparsedial.study.results import Results

SCHEMA = 1  # of results.json
SVG = "http://www.w3.org/2000/svg"
NUMBERS = ("critical.csv", "points.csv", "layers.csv", "results.json")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

TERMS = {
    "site": "the activation vector that is made sparse. input: what the FFN reads; up and gate: its two projections; "
    "intermediate: their product; all_inputs: input and intermediate, which is all that its matrices read.",
    "top-p": "keep the fewest entries, largest first, whose magnitudes add up to p times the vector's total. "
    "Sparsity is the share of entries dropped; p = 1 is the dense model.",
    "retention": "the sparse model's score divided by the dense model's, on the same examples.",
    "critical sparsity": "the highest sparsity with retention of at least {goal}, read off straight lines through "
    "dense and the measured points. Its 95% interval resamples the examples.",
    "skippable": "the share of the FFN's multiplications that a runtime can leave out at the critical sparsity, since "
    "one factor is zero.",
}


def write_report(results: Results, folder: Path | str) -> Path:
    """Write the report into ``folder`` (made where missing) and return the path of its ``report.html``.

    Beside the page: ``figures/*.svg`` and ``*.png``, ``critical.csv``, ``points.csv``, ``layers.csv`` and
    ``results.json``. Every file is moved into place whole, the page last.

    Raises:
        StoreError: a file cannot be written; the message names it.
    """
    target = Path(folder)
    for name in ("critical", "points", "layers"):
        write_atomically(target / f"{name}.csv", to_csv(getattr(results, name)))
    content = {field.name: getattr(results, field.name) for field in fields(results)}
    write_atomically(target / "results.json", to_json({"schema": SCHEMA, **content}))
    drawn = [
        _figure(name, text, figures.save(chart, target / "figures" / name)) for name, text, chart in _charts(results)
    ]
    page = target / "report.html"
    write_atomically(page, _page(results, drawn).encode())
    return page


def _charts(results: Results) -> Iterator[tuple[str, str, alt.TopLevelMixin]]:
    """Name, text alternative and chart of each figure; what would be crowded is drawn model by model."""
    retain = results.retain
    critical = with_numbers(results.critical, "value")
    if not critical.empty:
        together = critical["model"].nunique() == 1 or critical["task"].nunique() == 1
        for name, of, rows in [("critical", "", critical)] if together else _by_model("critical", critical, ("value",)):
            about = f"Critical sparsity of each site{of} with its 95% interval; the table has the numbers."
            yield name, about, figures.critical_sparsities(rows, retain)
    for name, of, points in _by_model("retention", results.points, ("sparsity", "retention")):
        about = f"Share of the dense score that is retained{of}, as more activations are dropped, for each site."
        yield name, about, figures.retention(points, _of_models(critical, points), retain)
    for name, of, layers in _by_model("layers", results.layers, ("layer", "sparsity")):
        about = f"Sparsity of each layer{of}, at the measured p nearest the critical sparsity of the site."
        yield name, about, figures.layer_profile(layers)


def _by_model(name: str, frame: pd.DataFrame, needed: tuple[str, ...]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """File name, `` of MODEL`` (empty for the only one) and rows of each model that has something to draw."""
    drawable = with_numbers(frame, *needed)
    if drawable.empty:
        return
    models = ordered(drawable["model"])
    for index, model in enumerate(models, start=1):
        rows = drawable[drawable["model"].astype(str) == model]
        slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:60]
        yield (
            (name, "", rows)
            if len(models) == 1
            else (f"{name}-{index}-{slug}".rstrip("-"), f" of {plain(model)}", rows)
        )


def _of_models(critical: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    return critical if critical.empty else critical[critical["model"].isin(points["model"])]


def _figure(name: str, about: str, svg: str) -> str:
    """The SVG inside a figure, with its text alternative; ids are made the figure's own, as all share one page."""
    ET.register_namespace("", SVG)
    root = ET.fromstring(svg)
    for element in root.iter():
        for key, value in element.attrib.items():
            element.set(key, f"{name}-{value}" if key == "id" else value.replace("url(#", f"url(#{name}-"))
    root.set("role", "img")
    root.set("aria-label", about)
    inline = ET.tostring(root, encoding="unicode")
    return f'<figure id="{name}"><div class="wide">{inline}</div></figure>'


def _page(results: Results, drawn: list[str]) -> str:
    title = _text(results.title)
    sections: list[tuple[str, Callable[[], str]]] = [
        ("Problems", lambda: _problems(results.problems)),
        ("Critical sparsity", lambda: _table(results)),
        ("Figures", lambda: "".join(drawn) or "<p>Nothing could be drawn: there are no valid points.</p>"),
        ("How to read it", lambda: _terms(results.retain)),
        ("Where it comes from", lambda: _provenance(results.provenance)),
    ]
    body = "".join(
        f"<section><h2>{heading}</h2>{content}</section>" for heading, make in sections if (content := make())
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        f"<body><main><h1>{title}</h1>{_answer(results)}{body}</main></body></html>\n"
    )


def _answer(results: Results) -> str:
    first, *rest = (_text(sentence) for sentence in answer(results))
    return f'<p class="answer">{first}</p>' + (f"<ul>{''.join(f'<li>{s}</li>' for s in rest)}</ul>" if rest else "")


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    heading = "<p>Not everything that was asked for is in this report:</p>"
    return f'<div class="problems" role="note">{heading}<ul>{items}</ul></div>'


def _table(results: Results) -> str:
    cells = critical_cells(results)
    if not cells.rows:
        return "<p>No critical sparsity is known: no trial gave valid points.</p>"
    about = " · ".join(f"{_text(name)}: <b>{_text(text)}</b>" for name, text in cells.common.items())
    shown = [name for name in cells.columns if name not in SAID_ONCE]
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in shown)
    body = ""
    for shared, rows in groupby(
        cells.rows, key=lambda row: [(name, row[name]) for name in cells.columns if name in SAID_ONCE]
    ):
        group = " · ".join(f"{_text(name)}: <b>{_text(text)}</b>" for name, text in shared)
        heading = f'<tr><th scope="rowgroup" colspan="{len(shown)}">{group}</th></tr>' if group else ""
        lines = "".join(f"<tr>{''.join(_cell(name, row[name]) for name in shown)}</tr>" for row in rows)
        body += f"<tbody>{heading}{lines}</tbody>"
    files = " ".join(f'<a href="{name}">{name}</a>' for name in NUMBERS)
    return (
        f'<div class="wide"><table class="critical"><caption>{about}</caption>'
        f'<thead><tr>{head}</tr></thead>{body}</table></div><p class="files">All numbers: {files}</p>'
    )


def _cell(column: str, text: str) -> str:
    if column == SITE:
        return f'<th scope="row"><i style="background:{COLOURS.get(text, SPARE[-1])}"></i>{_text(text)}</th>'
    kind = ' class="warn"' if "⚠" in text else ' class="said"' if column == MEANING else ""
    return f"<td{kind}>{_text(text)}</td>"


def _terms(retain: float) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{t}</dt><dd>{d.replace('{goal}', goal(retain))}</dd>" for t, d in TERMS.items())
        + "</dl>"
    )


def _provenance(provenance: dict[str, Any]) -> str:
    """The command, and everything else as rows of path and value in a block that can be folded away."""
    command = provenance.get("command")
    line = shlex.join(map(str, command)) if isinstance(command, list | tuple) else command
    rows = "".join(
        f'<tr><th scope="row">{_text(path)}</th><td>{_text(value)}</td></tr>' for path, value in _flat(provenance)
    )
    made = f"<p>Made by</p><pre><code>{_text(line)}</code></pre>" if line else ""
    return f"{made}<details><summary>Provenance</summary><table>{rows}</table></details>"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """Every leaf of nested dictionaries and lists with its path; short lists of plain values stay on one line."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{path} · {key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        for index, item in enumerate(value, start=1):
            yield from _flat(item, f"{path} {index}")
    elif isinstance(value, list | tuple | dict):
        yield path, ", ".join(map(str, value)) or "none"
    else:
        missing = value is None or (isinstance(value, float) and number(value) is None)
        yield path, "none" if missing else value


def _text(value: object) -> str:
    return html.escape(plain(value))
