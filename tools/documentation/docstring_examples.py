"""Show the examples of docstrings as code.

The docstrings of this repository have sections named ``Example``, which the site generator takes for text. It shows
those named ``Examples`` as code.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Renames the sections while the source is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the sections in the docstring of one object.

        Args:
            obj: Module, class, function or attribute.
        """
        if obj.docstring is not None:
            obj.docstring.value = name_examples(obj.docstring.value)


def name_examples(docstring: str) -> str:
    r"""Return a docstring whose examples are in a section ``Examples``.

    Args:
        docstring: A docstring without indentation.

    Example:
        >>> name_examples("Add.\n\n>>> 1 + 1\n2")
        'Add.\n\nExamples:\n    >>> 1 + 1\n    2'
    """
    named = re.sub(r"^Example:$", "Examples:", docstring, flags=re.MULTILINE)
    bare = re.search(r"^>>> ", named, flags=re.MULTILINE)
    if bare is None:
        return named
    return f"{named[: bare.start()]}Examples:\n{textwrap.indent(named[bare.start() :], '    ')}"
