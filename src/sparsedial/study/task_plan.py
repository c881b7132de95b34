"""The blocks of examples into which the tasks of a study are divided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedial.tasks.base import Task
from sparsedial.tasks.example_blocks import ExampleBlock, count_requested_blocks, find_block, task_blocks

DEFAULT_MAX_EXAMPLES = 1024
"""Number of examples that a search with a requested precision may use of each task."""


@dataclass(frozen=True)
class TaskPlan:
    """The blocks of one task.

    Attributes:
        identities: Identity of the task with each block, in the order of the examples.
        requested: Number of blocks that hold the requested examples. A search may add the others.
    """

    identities: tuple[Mapping[str, Any], ...]
    requested: int

    @property
    def blocks(self) -> tuple[ExampleBlock | None, ...]:
        """The blocks. A task that cannot be divided has the single block None."""
        return tuple(map(find_block, self.identities))

    @property
    def max_extra(self) -> int:
        """Number of blocks that a search may add."""
        return len(self.identities) - self.requested

    def first_blocks(self, extra: int) -> tuple[ExampleBlock | None, ...]:
        """Return the requested blocks and some of those that a search may add.

        Args:
            extra: Number of blocks to add, if there are as many.
        """
        return self.blocks[: self.requested + extra]

    def identity(self, block: ExampleBlock | None) -> Mapping[str, Any]:
        """Return the identity of the task with one block.

        Args:
            block: One of `blocks`.
        """
        return self.identities[self.blocks.index(block)]


def plan_tasks(tasks: Iterable[Task], max_examples: int | None = None, limit: int | None = None) -> dict[str, TaskPlan]:
    """Divide tasks into blocks.

    Args:
        tasks: The tasks.
        max_examples: Number of examples that a search may use of each task. Defaults to None, which means those that
            the options of the task request.
        limit: Number of examples that no task that can be divided exceeds, whatever its options request. Defaults to
            None.

    Returns:
        The plan of each task by its name.
    """
    plans = {}
    for task in tasks:
        identities = tuple(block.identity() for block in task_blocks(task, max_examples, limit))
        plans[task.name] = TaskPlan(identities, count_requested_blocks(task, limit))
    return plans


def task_plans_to_json(plans: Mapping[str, TaskPlan]) -> dict[str, Any]:
    """Return the entries of ``resolved.json`` that `task_plans_from_json` reads back.

    Args:
        plans: The plan of each task by its name.
    """
    identities: list[dict[str, Any]] = []
    requested = {}
    for name, plan in plans.items():
        identities += map(dict, plan.identities)
        requested[name] = plan.requested
    return {"tasks": identities, "requested_blocks": requested}


def task_plans_from_json(data: Mapping[str, Any]) -> dict[str, TaskPlan]:
    """Return the plans that `task_plans_to_json` turned into ``data``.

    Args:
        data: Content of ``resolved.json``. Without the entry "tasks", there are no plans.
    """
    requested: Mapping[str, int] = data.get("requested_blocks", {})
    identities: dict[str, list[Mapping[str, Any]]] = {}
    for identity in data.get("tasks", ()):
        identities.setdefault(str(identity.get("task")), []).append(identity)
    return {name: _make_plan(blocks, requested.get(name)) for name, blocks in identities.items()}


def _make_plan(identities: Sequence[Mapping[str, Any]], requested: int | None) -> TaskPlan:
    return TaskPlan(tuple(identities), len(identities) if requested is None else requested)
