"""The report: one self-contained HTML page, with its figures and its numbers as files beside it.

The page needs no network and runs no script (its content security policy forbids both). Every text that
comes from the results goes through `_text` before it meets HTML.
"""

from __future__ import annotations

import html
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsedial.report.answer import answer
from sparsedial.report.charts import comparisons, details
from sparsedial.report.drawing import save
from sparsedial.report.files import to_csv, to_json, write_atomically
from sparsedial.report.style import CSS
from sparsedial.report.table import MEANING, SAID_ONCE, SITE, critical_cells, split
from sparsedial.report.tables import Listed, tables
from sparsedial.report.theme import COLOURS, SPARE
from sparsedial.report.words import goal, number, plain

if TYPE_CHECKING:
    from sparsedial.study.results import Results

LONG = 40  # rows, beyond which a table is folded away
SCHEMA = 1  # of results.json
SVG = "http://www.w3.org/2000/svg"
ALWAYS = ("critical", "points", "layers")  # tables that are written even where they are empty
SOMETIMES = ("trends", "experts", "steps", "likeness", "generated")
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

    Beside the page: ``figures/*.svg`` and ``*.png``, a CSV file for each table (``critical.csv``, ``points.csv``,
    ``layers.csv``, ...) and ``results.json``. Every file is moved into place whole, the page last.

    Raises:
        StoreError: a file cannot be written; the message names it.
    """
    target = Path(folder)
    for name in _files(results):
        write_atomically(target / f"{name}.csv", to_csv(getattr(results, name)))
    content = {field.name: getattr(results, field.name) for field in fields(results)}
    write_atomically(target / "results.json", to_json({"schema": SCHEMA, **content}))
    compared, drawn = (
        "".join(_figure(name, text, save(chart, target / "figures" / name)) for name, text, chart in charts)
        for charts in (comparisons(results), details(results))
    )
    page = target / "report.html"
    write_atomically(page, _page(results, compared, drawn).encode())
    return page


def _files(results: Results) -> list[str]:
    """The tables that are files of their own."""
    return [*ALWAYS, *(name for name in SOMETIMES if not getattr(results, name).empty)]


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


def _page(results: Results, compared: str, drawn: str) -> str:
    title = _text(results.title)
    sections: list[tuple[str, Callable[[], str]]] = [
        ("At a glance", lambda: compared),
        ("Critical sparsity", lambda: _tables(results)),
        *((table.heading, partial(_listed, table)) for table in tables(results)),
        ("Curves and layers", lambda: drawn or "<p>Nothing could be drawn: there are no valid points.</p>"),
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
        f"<body><main><h1>{title}</h1>{_problems(results.problems)}{_answer(results)}{_notes(results)}{body}</main></body></html>\n"
    )


def _answer(results: Results) -> str:
    first, *rest = (_text(sentence) for sentence in answer(results))
    return f'<p class="answer">{first}</p>' + (f"<ul>{''.join(f'<li>{s}</li>' for s in rest)}</ul>" if rest else "")


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    heading = "<h2>Problems</h2><p>Not everything that was asked for is in this report:</p>"
    return f'<section class="problems" role="note">{heading}<ul>{items}</ul></section>'


def _notes(results: Results) -> str:
    return "".join(f'<p class="note">{_text(note)}</p>' for note in results.notes)


def _tables(results: Results) -> str:
    """The critical sparsities; of several models the averages first, and the tasks one by one folded away."""
    main, others = split(results)
    names = [*(f"{name}.csv" for name in _files(results)), "results.json"]
    files = " ".join(f'<a href="{name}">{name}</a>' for name in names)
    shown = _table(main) if len(main.critical) else "<p>No critical sparsity is known: no trial gave valid points.</p>"
    if len(others.critical):
        shown += f"<details><summary>Task by task</summary>{_table(others)}</details>"
    return f'{shown}<p class="files">All numbers: {files}</p>'


def _table(results: Results) -> str:
    cells = critical_cells(results)
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
    return (
        f'<div class="wide"><table class="critical"><caption>{about}</caption>'
        f"<thead><tr>{head}</tr></thead>{body}</table></div>"
    )


def _listed(table: Listed) -> str:
    """A table whose rows are grouped under what they have in common."""
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in table.columns)
    body = ""
    for group, rows in groupby(zip(table.groups, table.rows, strict=True), key=lambda pair: pair[0]):
        heading = f'<tr><th scope="rowgroup" colspan="{len(table.columns)}">{_text(group)}</th></tr>' if group else ""
        lines = "".join(
            f"<tr>{''.join(_cell(n, t) for n, t in zip(table.columns, row, strict=True))}</tr>" for _, row in rows
        )
        body += f"<tbody>{heading}{lines}</tbody>"
    shown = f'<div class="wide"><table class="critical"><thead><tr>{head}</tr></thead>{body}</table></div>'
    folded = f"<details><summary>{len(table.rows)} rows</summary>{shown}</details>" if len(table.rows) > LONG else shown
    return f"<p>{_text(table.about)}</p>{folded}"


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
    commands = provenance.get("commands") or [provenance.get("command")]
    line = "\n".join(shlex.join(map(str, c)) if isinstance(c, list | tuple) else str(c) for c in commands if c)
    rows = "".join(
        f'<tr><th scope="row">{_text(path)}</th><td>{_text(value)}</td></tr>' for path, value in _flat(provenance)
    )
    made = f"<p>Made by</p><pre><code>{'<br>'.join(map(_text, line.splitlines()))}</code></pre>" if line else ""
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
