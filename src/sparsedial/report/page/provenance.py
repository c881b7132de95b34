"""The section of the page with the provenance of the numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from sparsedial.analysis.estimates import finite_number
from sparsedial.analysis.study_provenance import find_origins
from sparsedial.report.page.html_elements import escape, fold, render_list

EMPTY_VALUE = "none"

REPORT_COMMAND = "report command"
"""Entry of the provenance with the command that combined several studies."""


def render_provenance(provenance: Mapping[str, Any]) -> str:
    """Return the models, the commands and, collapsed, the full record of the provenance.

    Args:
        provenance: ``Results.provenance``: nested dictionaries and lists.

    Returns:
        HTML.
    """
    origins = render_list([model.description for model in find_origins(provenance)])
    if origins:
        origins = f"<h3>Models</h3>{origins}"
    rows = []
    for path, value in _leaves(provenance):
        rows.append(f'<tr><th scope="row">{escape(path)}</th><td>{escape(value)}</td></tr>')
    record = fold("Full record", f'<table class="record">{"".join(rows)}</table>')
    return f"{origins}{_render_versions(provenance)}{_render_commands(provenance)}{record}"


def render_model_line(provenance: Mapping[str, Any]) -> str:
    """Return the line below the title with the name and the origin of the model.

    Args:
        provenance: ``Results.provenance``.

    Returns:
        HTML. Empty if there are several models, or if their origin is not known.
    """
    origins = find_origins(provenance)
    if len(origins) != 1:
        return ""
    return f'<p class="model">Model: {escape(origins[0].description)}</p>'


def _render_commands(provenance: Mapping[str, Any]) -> str:
    commands = provenance.get("commands") or [provenance.get("command")]
    lines: list[str] = []
    for command in filter(None, [*commands, provenance.get(REPORT_COMMAND)]):
        if isinstance(command, list | tuple):
            command = shlex.join(map(str, command))
        lines.extend(str(command).splitlines())
    if not lines:
        return ""
    return f"<h3>Command</h3><pre><code>{'<br>'.join(map(escape, lines))}</code></pre>"


def _render_versions(provenance: Mapping[str, Any]) -> str:
    """Return the versions of the software, one line for each machine or environment."""
    environments = provenance.get("made by", provenance)
    if isinstance(environments, Mapping):
        environments = [environments]
    lines = []
    for environment in environments:
        texts = []
        for name, version in (environment.get("versions") or {}).items():
            texts.append(f"{name} {version}")
        if "python" in environment:
            texts.append(f"Python {environment['python']}")
        lines.append(", ".join(texts))
    items = render_list(filter(None, dict.fromkeys(lines)))
    if not items:
        return ""
    return f"<h3>Versions</h3>{items}"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the path and the value of every leaf. A list of plain values is one leaf."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path} · {key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list | tuple) for item in value):
        for index, item in enumerate(value, start=1):
            yield from _leaves(item, f"{path} {index}")
    elif isinstance(value, list | tuple | dict):
        yield path, ", ".join(map(str, value)) or EMPTY_VALUE
    else:
        is_missing = value is None or (isinstance(value, float) and finite_number(value) is None)
        yield path, EMPTY_VALUE if is_missing else value
