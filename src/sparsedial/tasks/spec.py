"""The name of a task and its options, as a study declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsedial.errors import SpecError


@dataclass(frozen=True)
class TaskSpec:
    """Name of a task and the options that apply to it alone.

    The names and types of the options are checked by `sparsedial.tasks.registry.make_tasks`.

    Attributes:
        name: Name of a built-in task, or of a task, group, tag or pattern of lm-eval.
        options: Options of this task by name, as plain JSON. They override the options that all tasks share.

    Example:
        >>> TaskSpec("arc_easy").to_json()
        'arc_easy'
        >>> TaskSpec("arc_easy", {"limit": 100}).to_json()
        {'name': 'arc_easy', 'limit': 100}
        >>> TaskSpec.from_json({"name": "arc_easy", "limit": 100})
        TaskSpec(name='arc_easy', options={'limit': 100})
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str | dict[str, Any]:
        """Return the name alone, or a dictionary of the name and the options; `from_json` reads both."""
        if not self.options:
            return self.name
        return {"name": self.name, **self.options}

    @classmethod
    def from_json(cls, data: Any) -> TaskSpec:
        """Read a task from plain JSON or YAML.

        Args:
            data: A name, or a dictionary with the key ``name`` and one key for each option.

        Returns:
            The task, with its options unchecked.

        Raises:
            SpecError: The data is neither a name nor a dictionary with the key ``name``.
        """
        if isinstance(data, str):
            return cls(data)
        if isinstance(data, Mapping) and isinstance(data.get("name"), str):
            options = {str(key): value for key, value in data.items() if key != "name"}
            return cls(data["name"], options)
        raise SpecError(
            f"task {data!r}: expected a name, or a mapping of a name and options such as {{name: arc_easy, limit: 100}}"
        )
