"""Blocks of examples: a trial scores one block, so that examples can be added later without repeating a trial.

The examples of a task have fixed indices. They are divided at `FIRST_BLOCK`, 2 · `FIRST_BLOCK`, 4 · `FIRST_BLOCK` and
so on. A study of 128 examples thus has the same blocks whether or not 64 of them were scored earlier, and gives the
same numbers. The last block ends at the requested number of examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from sparsedial.tasks.base import Task
from sparsedial.tasks.batch_option import copy_with

FIRST_BLOCK = 64
"""Number of examples in the first block. The second block is of the same size, and each later one is twice as large."""

EXAMPLES = "examples"
"""Key of the range of examples in the identity of a task."""


@dataclass(frozen=True)
class ExampleBlock:
    """A range of examples.

    Attributes:
        first: Index of the first example.
        end: Index after the last example.

    Example:
        >>> len(ExampleBlock(64, 128))
        64
    """

    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first

    def __str__(self) -> str:
        return f"examples {self.first} to {self.end - 1}"

    def to_json(self) -> list[int]:
        """Return the two indices."""
        return [self.first, self.end]


class SelectableExamples:
    """Base class of frozen dataclasses with a field ``block``. It implements a part of `DivisibleTask`.

    Attributes:
        block: Range of examples to score. None means all.
    """

    is_divisible: ClassVar[bool] = True

    block: ExampleBlock | None

    def select_examples(self, block: ExampleBlock) -> Self:
        """Return the task with these examples only.

        Args:
            block: Range of examples.
        """
        return copy_with(self, block=block)


class SampledExamples(SelectableExamples):
    """Base class of frozen dataclasses whose examples are sampled from the model. It implements `DivisibleTask`.

    Attributes:
        sequences: Number of examples.
        block: Range of examples to score. None means all.
    """

    sequences: int

    @property
    def example_block(self) -> ExampleBlock:
        """Range of examples to score."""
        return self.block or ExampleBlock(0, self.sequences)

    def count_examples(self) -> int:
        """Return the number of examples that the options request."""
        return self.sequences

    def count_available(self) -> int | None:
        """Return None, because there is no limit."""
        return None


@runtime_checkable
class DivisibleTask(Protocol):
    """Interface of tasks whose examples can be scored in blocks.

    Example ``i`` is the same in every block.
    """

    @property
    def is_divisible(self) -> bool:
        """False if the score of an example depends on the other examples. It is then scored in one block."""
        ...

    def count_examples(self) -> int:
        """Return the number of examples that the options of the task request."""
        ...

    def count_available(self) -> int | None:
        """Return the number of examples that exist. None if there is no limit, because examples are sampled."""
        ...

    def select_examples(self, block: ExampleBlock) -> Self:
        """Return the task with these examples only. Its identity has the entry `EXAMPLES`.

        Args:
            block: Range of examples.
        """
        ...


def block_ends(count: int) -> list[int]:
    """Return the index after the last example of each block.

    Args:
        count: Number of examples, at least 1.

    Example:
        >>> block_ends(64), block_ends(200)
        ([64], [64, 128, 200])
    """
    ends = []
    end = FIRST_BLOCK
    while end < count:
        ends.append(end)
        end *= 2
    return [*ends, count]


def divide_examples(count: int, available: int | None = None) -> list[ExampleBlock]:
    """Divide examples into blocks.

    Args:
        count: Number of requested examples, at least 1.
        available: Number of examples that may be added to, at least ``count``. Defaults to None, which means that no
            examples are added.

    Returns:
        Consecutive blocks from the first example on. The requested examples end at the end of a block.

    Example:
        >>> [block.to_json() for block in divide_examples(96, available=200)]
        [[0, 64], [64, 96], [96, 128], [128, 200]]
    """
    ends = block_ends(count)
    if available is not None:
        ends += [end for end in block_ends(available) if end > count]
    firsts = [0, *ends]
    return [ExampleBlock(first, end) for first, end in zip(firsts, ends, strict=False)]


def task_blocks(task: Task, max_examples: int | None = None, limit: int | None = None) -> list[Task]:
    """Return the tasks that score the blocks of a task.

    Args:
        task: Any task.
        max_examples: Number of examples that the task may grow to. Defaults to None, which means the number that its
            options request.
        limit: Number of examples that the task must not exceed, although its options may request more. Defaults to
            None.

    Returns:
        One task per block. The task itself if it cannot be divided.
    """
    if not isinstance(task, DivisibleTask) or not task.is_divisible:
        return [task]
    count = count_first_examples(task, limit)
    most = max(count, max_examples or 0)
    available = task.count_available()
    if available is not None:
        most = min(most, available)
    return [task.select_examples(block) for block in divide_examples(count, most)]


def count_requested_blocks(task: Task, limit: int | None = None) -> int:
    """Return the number of blocks that hold the examples that the options of a task request.

    Args:
        task: Any task.
        limit: Number of examples that the task must not exceed. Defaults to None.
    """
    if not isinstance(task, DivisibleTask) or not task.is_divisible:
        return 1
    return len(block_ends(count_first_examples(task, limit)))


def count_first_examples(task: DivisibleTask, limit: int | None = None) -> int:
    """Return the number of examples that every point is measured with.

    Args:
        task: The task.
        limit: Number of examples that the task must not exceed, if it can be divided. Defaults to None.
    """
    count = task.count_examples()
    if limit is None or not task.is_divisible:
        return count
    return min(count, limit)


def without_examples(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity of a task without the range of its examples.

    Args:
        identity: Identity of a task, or of one of its blocks.
    """
    return {name: value for name, value in identity.items() if name != EXAMPLES}


def find_block(identity: Mapping[str, Any]) -> ExampleBlock | None:
    """Return the range of examples in the identity of a task, or None if the task is not divided.

    Args:
        identity: Identity of a task, or of one of its blocks.

    Example:
        >>> find_block({"task": "arc_easy", "examples": [0, 64]})
        ExampleBlock(first=0, end=64)
    """
    examples = identity.get(EXAMPLES)
    if examples is None:
        return None
    return ExampleBlock(*examples)
