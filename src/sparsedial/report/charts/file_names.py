"""Names of the files of figures."""

from __future__ import annotations

import re

MAX_SLUG_LENGTH = 60


def name_with_number(name: str, index: int, subject: str) -> str:
    """Return the name of one of several figures of a kind, without a suffix. It is safe as the name of a file.

    Args:
        name: Name of the kind of figures.
        index: Number of the figure, from 1.
        subject: What the figure is about, such as a model.

    Returns:
        The name, the number and the subject in lower case, joined by hyphens.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")[:MAX_SLUG_LENGTH]
    return f"{name}-{index}-{slug}".rstrip("-")
