"""Writing of SVG elements. Every text is escaped here."""

from __future__ import annotations

import html
from typing import Any

from sparsedial.report.formatting import sanitize_text

ELLIPSIS = "…"

CHARACTER_WIDTH = 0.56
"""Mean width of a character of a sans-serif font, as a share of the font size."""


def element(name: str, content: str = "", **attributes: Any) -> str:
    """Return one SVG element.

    Args:
        name: Name of the element.
        content: Content of the element, escaped already.
        **attributes: Attributes. ``_`` in a name stands for ``-``, and an underscore at its end is removed. Numbers
            are rounded to 0.1. Attributes that are None are left out.

    Returns:
        The element as text.

    Example:
        >>> element("text", "a", x=1.25, class_="t", text_anchor="end")
        '<text x="1.2" class="t" text-anchor="end">a</text>'
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{_format_attribute(value)}"')
    start = " ".join(parts)
    if not content:
        return f"<{start}/>"
    return f"<{start}>{content}</{name}>"


def text(content: object, x: float, y: float, **attributes: Any) -> str:
    """Return a text element.

    Args:
        content: The text, not escaped.
        x: Position in pixels.
        y: Position of the base line in pixels.
        **attributes: Further attributes, see `element`.
    """
    return element("text", escape_text(content), x=x, y=y, **attributes)


def title(content: object) -> str:
    """Return a title element, which a browser shows as a tooltip.

    Args:
        content: The text, not escaped.
    """
    return element("title", escape_text(content))


def escape_text(content: object) -> str:
    """Return text without control characters and with its special characters escaped.

    Args:
        content: Text, or any other value.
    """
    return html.escape(sanitize_text(content))


def number(value: float) -> str:
    """Return a coordinate with one decimal at most.

    Args:
        value: The coordinate in pixels.

    Example:
        >>> number(12.04), number(3.25)
        ('12', '3.2')
    """
    if abs(value) < 0.05:
        return "0"
    return f"{value:.1f}".removesuffix(".0")


def text_width(content: str, font_size: float) -> float:
    """Estimate the width of a text in pixels.

    Args:
        content: The text.
        font_size: Size of the font in pixels.

    Returns:
        The width.
    """
    return CHARACTER_WIDTH * font_size * len(content)


def fit_text(content: object, width: float, font_size: float) -> str:
    """Return a text that fits into a width. The middle of a longer text is replaced by an ellipsis.

    Args:
        content: The text.
        width: Width in pixels.
        font_size: Size of the font in pixels.

    Example:
        >>> fit_text("a-very-long-name-of-a-model", 80, 12)
        'a-ver…model'
    """
    cleaned = sanitize_text(content)
    count = max(3, int(width / (CHARACTER_WIDTH * font_size)))
    if len(cleaned) <= count:
        return cleaned
    half = (count - 1) // 2
    return f"{cleaned[: count - 1 - half]}{ELLIPSIS}{cleaned[len(cleaned) - half :]}"


def _format_attribute(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return escape_text(value)
