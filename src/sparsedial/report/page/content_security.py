"""The content security policy of the page, and the style sheet and the script that it allows.

The policy allows exactly one style sheet and one script, by their SHA-256, and images that are part of the page.
Nothing can be loaded from elsewhere, and no other script can run.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from sparsedial.report.plots.chart_style import chart_css, page_colours
from sparsedial.report.plots.palette import SITE_COLOURS, SPARE_COLOURS, colour_variables

FOLDER = Path(__file__).parent


@cache
def page_script() -> str:
    """Return the script of the page, without indentation and lines of comments."""
    lines = map(str.strip, (FOLDER / "page.js").read_text(encoding="utf-8").splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


@cache
def page_style() -> str:
    """Return the style sheet of the page. It prints, and is shown by light preference, in light colours."""
    light = colour_variables(page_colours(is_dark=False))
    dark = colour_variables(page_colours(is_dark=True))
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"{chart_css()}{_site_marks()}{(FOLDER / 'page.css').read_text(encoding='utf-8')}"
    )


def _site_marks() -> str:
    """Return the rules for the coloured marks in front of the names of sites in tables."""
    return "".join(f"i.c-{name} {{ background: var(--{name}); }}\n" for name in (*SITE_COLOURS, *SPARE_COLOURS))


def content_security_policy() -> str:
    """Return the content of the meta element with the policy."""
    return (
        f"default-src 'none'; style-src '{_hash(page_style())}'; script-src '{_hash(page_script())}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
