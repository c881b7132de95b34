"""Models and tasks of a study that are objects of this process. A study on disk holds only their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sparsedial.models.in_memory import ModelInMemory
from sparsedial.tasks.base import Task


@dataclass(frozen=True)
class ObjectsInMemory:
    """Models and tasks that were passed as objects, by their names in the study.

    Attributes:
        models: The models. Defaults to none.
        tasks: The tasks. Defaults to none.
    """

    models: Mapping[str, ModelInMemory] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models and tasks."""
        return (*self.models, *self.tasks)

    def describe_missing_tokenizers(self, tasks: Sequence[Task]) -> Iterator[str]:
        """Describe the tasks that need a tokenizer, if a model has none.

        Args:
            tasks: All tasks of the study.

        Yields:
            str: One sentence for each model without a tokenizer.
        """
        needy = [task.name for task in tasks if getattr(task, "needs_tokenizer", False)]
        for model in self.models.values():
            if needy and model.tokenizer is None:
                yield (
                    f"model {model.name!r} has no tokenizer, which the tasks {', '.join(needy)} need: pass one as the "
                    "second argument of measure, or choose a task that needs none, such as self_prediction"
                )


NO_OBJECTS = ObjectsInMemory()
"""A study whose models and tasks can all be made from their names."""
