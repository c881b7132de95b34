"""The phases in which a study applies its rules, and the models and tasks that have these phases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sparsedial.errors import SpecError
from sparsedial.hooks.forward_context import PHASES
from sparsedial.models.kind import CAUSAL
from sparsedial.tasks.base import Task, scored_phases

Phases = tuple[str, ...]


def normalize_phases(phases: Sequence[str] | None) -> Phases | None:
    """Return phases in the order of `PHASES`, or None if all of them are chosen.

    Args:
        phases: Names, which are kept as they are if one of them is unknown. None means all phases.

    Example:
        >>> normalize_phases(["generation", "prefill"]), normalize_phases(["prefill"]), normalize_phases(["decode"])
        (None, ('prefill',), ('decode',))
    """
    if phases is None or set(phases) == set(PHASES):
        return None
    if not set(phases) <= set(PHASES):
        return tuple(phases)
    return tuple(phase for phase in PHASES if phase in phases)


def describe_missing_phases(phases: Phases | None, tasks: Iterable[Task]) -> Iterator[str]:
    """Yield a sentence for each task whose forward passes are in none of the phases.

    Args:
        phases: Phases in which the rule is applied. None means all of them. Unknown ones are another problem.
        tasks: The tasks of the study.

    Yields:
        str: The task, its phases and what to do.
    """
    if not phases or not set(phases) <= set(PHASES):
        return
    for task in tasks:
        expected = scored_phases(task)
        if set(expected).isdisjoint(phases):
            described = "its forward passes are all in " + " and ".join(expected)
            if not expected:
                described = "it is a task for diffusion models, which have no phases"
            yield (
                f"phases {', '.join(phases)}: task {task.name!r} would be dense, because {described}. Leave out the "
                "phases, or choose a task that generates text"
            )


def check_kind_has_phases(phases: Phases | None, kind: str, name: str) -> None:
    """Check that a model of this kind has phases.

    Args:
        phases: Phases in which the rule is applied. None means all of them.
        kind: Kind of the model.
        name: Name of the model.

    Raises:
        SpecError: A phase is chosen, and the model is a diffusion model.
    """
    if phases is not None and kind != CAUSAL:
        raise SpecError(
            f"phases {', '.join(phases)}: {name!r} is a {kind} model, which computes prompt and text together in each "
            "denoising step and has no phases. Leave out the phases, or choose a causal model."
        )
