"""From names to tasks of lm-eval: everything that can be wrong with them is found here, without a model."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.tasks import metrics as metrics_
from sparsedial.tasks.base import Group
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.lm_eval_task import SEED, LmEvalTask
from sparsedial.tasks.metrics import Metric
from sparsedial.tasks.requests import filters, quietly

SETS = {
    "paper": [
        "arc_easy",
        "arc_challenge",
        "boolq",
        "hellaswag",
        "winogrande",
        "piqa",
        "sciq",
        "lambada_standard",
        "triviaqa",
    ],
    "paper-instruct": ["gsm8k", "ifeval", "mmlu_redux"],
}
"""Names for sets of tasks: the paper's nine, and its three for instruction-tuned models."""

NO_DATA = "its data cannot be had"
READERS = ("datasets", "huggingface_hub", "fsspec")
_DATA_HINT = (
    "With a connection to the model hub lm-eval downloads data; without one, copy the task's YAML, point dataset_path "
    "and data_files at a local file, and pass its folder as --include-path."
)
_ALIASES = {"mmlu_redux": "mmlu_redux_generative"}  # what lm-eval calls it


def lm_eval_tasks(
    names: Iterable[str],
    *,
    include_path: str | Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    metrics: Mapping[str, str] | None = None,
    seed: int = SEED,
    batch_tokens: int = 4096,
    diffusion: DiffusionAnswers | None = None,
) -> list[LmEvalTask]:
    """The tasks of those names, with their data but without a model.

    Args:
        names: of tasks, groups, tags, YAML files or patterns (``mmlu_*``); ``paper`` and ``paper-instruct``
            are the paper's.
        include_path: a folder with further tasks' YAML files.
        limit: examples per task; a task that has fewer is an error.
        num_fewshot: few-shot examples instead of the task's own number (a task that fixes 0 keeps it).
        apply_chat_template: put prompts through the tokenizer's chat template.
        metrics: per task, ``metric`` or ``metric,filter`` instead of the paper's choice.
        seed: of few-shot examples and of sampling.
        batch_tokens: tokens per forward, padding included.
        diffusion: how masked diffusion models answer; None for LLaDA's ways.

    Raises:
        TaskError: everything that is wrong with any of them, in one message: an unknown task or metric, data that
            cannot be had, too few examples.
    """
    wanted = [_ALIASES.get(n, n) for name in names for n in SETS.get(name, [name])]
    problems: list[str] = [] if wanted else ["no task named"]
    for what, number, least in (
        ("limit", limit, 1),
        ("num_fewshot", num_fewshot, 0),
        ("batch_tokens", batch_tokens, 1),
    ):
        if number is not None and number < least:
            problems.append(f"{what}={number}: expected at least {least}")
    if include_path is not None and not Path(include_path).is_dir():
        problems.append(f"include path {str(include_path)!r}: no such folder")
    if problems:
        raise TaskError("\n".join(problems))
    try:
        manager = _manager(tuple(wanted), str(include_path) if include_path is not None else None)
    except ImportError as error:
        raise TaskError(f"tasks {', '.join(wanted)} need lm-eval: pip install 'lm_eval[hf]' ({error})") from error
    found: dict[str, LmEvalTask] = {}
    chosen = dict(metrics or {})
    for name in dict.fromkeys(_matched(wanted, manager)):
        try:
            loaded = _load(name, manager)
        except TaskError as error:
            problems.append(str(error))
            continue
        for member, task in loaded["tasks"].items():
            ask = next((chosen[n] for n in (member, name) if n in chosen), None)
            try:
                shots = _set_shots(task, num_fewshot)
                metric = _check(member, task, ask, limit)
            except TaskError as error:
                problems.append(str(error))
                continue
            found.setdefault(
                member,
                LmEvalTask(
                    member,
                    _group(name, member, metric.name, loaded),
                    metric,
                    limit,
                    shots,
                    apply_chat_template,
                    seed,
                    batch_tokens,
                    task,
                    diffusion or DiffusionAnswers(),
                ),
            )
    known = {*found, *wanted}
    if not problems:
        problems += [
            f"a metric for {n!r}, which is not among the tasks" for n in chosen if _ALIASES.get(n, n) not in known
        ]
    if problems:
        raise TaskError("\n".join([*problems, *([_DATA_HINT] if any(NO_DATA in p for p in problems) else [])]))
    return list(found.values())


@lru_cache(maxsize=4)
def _manager(names: tuple[str, ...], include_path: str | None) -> Any:
    """lm-eval's index of tasks; without its own 14 000, which take ten seconds to read, where they are not needed."""
    with quietly():
        from lm_eval.tasks import TaskManager

        if include_path is not None:
            own = TaskManager(include_path=include_path, include_defaults=False)
            if all(_is_known(name, own.task_index) for name in names):
                return own
        return TaskManager(include_path=include_path)


def _is_known(name: str, index: Mapping[str, Any], above: tuple[str, ...] = ()) -> bool:
    """Whether a name, and all that it is a group of, can be looked up."""
    if name not in index:
        return Path(name).is_file() or any(name in entry.tags for entry in index.values())
    if name in above:  # a group in itself: lm-eval says so
        return True
    return all(_is_known(member, index, (*above, name)) for member in _named((index[name].cfg or {}).get("task")))


def _named(members: Any) -> Iterator[str]:
    """The names in a group's list of tasks, those of the groups written out in it included."""
    for member in members if isinstance(members, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(task := member.get("task"), str):
            yield task
        else:
            yield from _named(task)


def _group(name: str, member: str, metric: str, loaded: Mapping[str, Any]) -> Group | None:
    """What a task is averaged in, as lm-eval does: the outermost group that averages the metric; else, nothing."""
    around = {n: g for n, g in loaded["groups"].items() if member in (t.task_name for t in g.get_all_tasks())}
    for group_name, group in sorted(around.items(), key=lambda pair: -len(pair[1].get_all_tasks())):
        for averaged in group.aggregate_metric_list or []:
            if averaged.metric == metric:
                members = tuple(sorted(t.task_name for t in group.get_all_tasks()))
                return Group(group_name, averaged.weight_by_size, members)
    return None if name == member else Group(name)


def _matched(names: Iterable[str], manager: Any) -> Iterator[str]:
    for name in names:
        matches = manager.match_tasks([name]) if "*" in name else []
        yield from matches or [name]


def _load(name: str, manager: Any) -> dict[str, Any]:
    """What lm-eval makes of one name: its tasks, with their data, and the groups they are in.

    Raises:
        TaskError: it is unknown, or cannot be made here.
    """
    if name not in manager.task_index and not Path(name).is_file():
        near = difflib.get_close_matches(name, manager.all_tasks, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists lm-eval's."
        raise TaskError(f"unknown task {name!r}: {hint} A folder with tasks of your own goes to --include-path.")
    try:
        with quietly():
            loaded: dict[str, Any] = manager.load([name])
    except ImportError as error:
        package = (error.name or "").split(".")[0] or "a package"
        raise TaskError(
            f"task {name!r} needs {package}, which is not installed: {_first_line(error)}. Some tasks of lm-eval need "
            f"packages of their own: pip install {package}, or see lm-eval's page about the task"
        ) from error
    except Exception as error:  # whatever the data set's source, its format or the task's own code raised
        what = NO_DATA if _is_about_data(error) else "lm-eval cannot make it: see its YAML, or its data's"
        raise TaskError(f"task {name!r}: {what} ({type(error).__name__}: {_first_line(error)})") from error
    return loaded


def _is_about_data(error: BaseException | None) -> bool:
    """Whether it came out of what fetches and reads data sets."""
    while error is not None:
        if isinstance(error, OSError):
            return True
        frames = traceback.walk_tb(error.__traceback__)
        if any(frame.f_globals.get("__name__", "").split(".")[0] in READERS for frame, _ in frames):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"


def _set_shots(task: Any, num_fewshot: int | None) -> int:
    """Set the number of few-shot examples as lm-eval does: a task that fixes none keeps none."""
    own = task.get_config("num_fewshot")
    shots = own if num_fewshot is None or own == 0 else num_fewshot
    task.set_config("num_fewshot", shots or 0)
    return int(shots or 0)


def _check(name: str, task: Any, wanted: str | None, limit: int | None) -> Metric:
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(f"task {name!r} needs images or sound: only text is supported")
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(f"task {name!r} runs code that the model has written, which is not supported")
    if limit is not None and len(task.eval_docs) < limit:
        raise TaskError(
            f"task {name!r} has {len(task.eval_docs)} examples, fewer than the {limit} asked for: lower --limit"
        )
    better = {m: task.higher_is_better().get(m) is not False for m in task.aggregation()}
    return metrics_.choose(name, better, filters(task), wanted)
