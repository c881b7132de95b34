"""Tasks whose data cannot be loaded are left out of a run, so that the other tasks of a study can be measured."""

from __future__ import annotations

from collections.abc import Mapping

from sparsedial.errors import SparsedialError, TaskDataError
from sparsedial.study.cost.task_check import check_tasks, select_runnable
from sparsedial.study.spec import StudySpec


def leave_out_missing_tasks(spec: StudySpec) -> tuple[StudySpec, Mapping[str, str]]:
    """Return a study without the tasks whose data cannot be loaded.

    Args:
        spec: The study.

    Returns:
        The study, and the error message of each task that was left out, by its name. The study is unchanged if no data
        is missing, if no task is left, or if anything else is wrong with a task.
    """
    try:
        spec.built_tasks  # noqa: B018 - creates the tasks, which loads their data
    except TaskDataError:
        pass
    except SparsedialError:  # another problem, which is reported with the other problems of the study
        return spec, {}
    else:
        return spec, {}
    if spec.in_memory:
        return spec, {}
    checked = check_tasks(spec)
    missing = {}
    for task in checked:
        if task.problem is not None:
            if not task.lacks_data:
                return spec, {}
            missing[task.spec.name] = task.problem
    runnable = select_runnable(spec, checked)
    if runnable is None:
        return spec, {}
    return runnable, missing
