"""The data that the page holds for its script: tables as CSV, layers and experts at every p, and the chart style."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sparsedial.analysis.results import Results
from sparsedial.report.csv_and_json import to_csv
from sparsedial.report.figures.profile_data import Profiles
from sparsedial.report.plots.chart_style import standalone_css

NOT_EMBEDDED = ("layers", "changed_examples")
"""Tables whose numbers the page holds in another form: the layers at every p, and a table with all its columns."""

MAX_TABLE_BYTES = 1_500_000
"""A table that is larger as CSV is not part of the page. It is a file beside it."""


def render_embedded_data(results: Results, profiles: Profiles, tables: Iterable[str]) -> str:
    """Return the element with the data of the page.

    Args:
        results: The results of one or several studies.
        profiles: The numbers of layers and experts at every measured p.
        tables: Names of the tables to embed as CSV.

    Returns:
        A script element that holds JSON, which is never executed.
    """
    csv = {}
    for name in tables:
        if name in NOT_EMBEDDED:
            continue
        text = to_csv(getattr(results, name)).decode()
        if len(text) <= MAX_TABLE_BYTES:
            csv[name] = text
    return render_json(
        "data",
        {
            "csv": csv,
            "layers": profiles.layers.to_json(),
            "experts": profiles.experts.to_json(),
            "style": standalone_css(),
        },
    )


def render_json(identifier: str, value: Any) -> str:
    r"""Return a script element that holds JSON.

    Args:
        identifier: ID of the element.
        value: Plain data. Texts may hold anything, also ``</script>``.

    Returns:
        HTML.

    Example:
        >>> render_json("a", {"b": "</script>"})
        '<script type="application/json" id="a">{"b":"\\u003c/script>"}</script>'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("&", "\\u0026")
    return f'<script type="application/json" id="{identifier}">{text}</script>'
