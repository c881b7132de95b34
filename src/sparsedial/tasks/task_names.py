"""Names that a task can have. The tables of a report use names of their own for averages over tasks."""

from __future__ import annotations

from typing import Any

from sparsedial.errors import SpecError

AVERAGE = "average"
"""Display name of the paper's average over all tasks. It is used in place of the name of a task."""


def check_task_name(name: Any, source: str) -> None:
    """Check that a name can be told from that of an average over tasks.

    Args:
        name: Name of a task or of a group of tasks.
        source: What has this name, for the error message.

    Raises:
        SpecError: The name is empty, is no text, or is that of an average.
    """
    if not isinstance(name, str) or not name.strip():
        raise SpecError(f"{source}: name {name!r}: expected text as the name of the task")
    if name == AVERAGE or name.startswith(f"{AVERAGE} of "):
        raise SpecError(
            f"{source}: name {name!r}: reports use this name for the average over tasks. Choose another name."
        )
