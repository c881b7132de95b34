"""The JSON format for references that are written by hand, such as the numbers of a publication.

The format is described in docs/paper.md. Files are parsed strictly: unknown keys, text in place of numbers and numbers
outside of their range are errors, and one message lists all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sparsedial.analysis.references.records import Reference, ReferenceModel, ReferenceValue
from sparsedial.curves.critical import RETAIN
from sparsedial.errors import SpecError
from sparsedial.study.dataclass_parsing import STRICT, parse_dataclass, raise_problems

FORMAT = "sparsedial-reference"
VERSION = 1


@dataclass(frozen=True)
class ReferenceFile:
    """Content of a reference file.

    Attributes:
        format: `FORMAT`.
        version: `VERSION`.
        name: Short name of the reference.
        description: What the reference is.
        models: The models.
        values: The numbers.
        retain: Share of the dense score that its critical sparsities keep.
        task_names: Names that a task has here, by its name in the reference.
    """

    __pydantic_config__ = STRICT

    format: str
    version: int
    name: str
    description: str
    models: tuple[ReferenceModel, ...]
    values: tuple[ReferenceValue, ...]
    retain: float = RETAIN
    task_names: dict[str, tuple[str, ...]] | None = None


def is_reference_file(data: object) -> bool:
    """Return True if JSON data state the format of a reference file.

    Args:
        data: Parsed JSON.
    """
    return isinstance(data, dict) and "format" in data


def parse_reference_file(data: dict[str, Any], source: str) -> Reference:
    """Read a reference from the content of a reference file.

    Args:
        data: Parsed JSON.
        source: Path of the file, for error messages.

    Returns:
        The reference.

    Raises:
        SpecError: The content is not that of a reference file of this version. There is one line per problem.
    """
    if data["format"] != FORMAT or data.get("version") != VERSION:
        stated = f"format {data['format']!r}, version {data.get('version')!r}"
        raise SpecError(f"{source}: {stated}; expected format {FORMAT!r}, version {VERSION}")
    content = parse_dataclass(ReferenceFile, data, source)
    problems = _find_problems(content)
    raise_problems([f"{source}: {problem}" for problem in problems])
    return Reference(
        name=content.name,
        description=content.description,
        retain=content.retain,
        models=content.models,
        values=content.values,
        task_names=content.task_names or {},
    )


def _find_problems(content: ReferenceFile) -> list[str]:
    problems = []
    if not 0.0 < content.retain <= 1.0:
        problems.append(f"retain: expected a share in (0, 1], got {content.retain:g}")
    if not content.values:
        problems.append("values: expected at least one value")
    names = Counter(map(attrgetter("name"), content.models))
    for name, count in names.items():
        if count > 1:
            problems.append(f"models: {name!r} is listed {count} times. List it once.")
    counts: Counter[tuple[object, ...]] = Counter()
    for index, value in enumerate(content.values):
        where = f"values[{index}]"
        for problem in value.problems():
            problems.append(f"{where}: {problem}")
        if value.model not in names:
            listed = ", ".join(names) or "none"
            problems.append(f"{where}: model {value.model!r} is not among the models: {listed}")
        key = (value.quantity, value.model, value.site, value.task, value.rule)
        counts[key] += 1
        if counts[key] == 2:
            problems.append(f"{where}: a second value for the same model, site and task. Give one.")
    return problems
