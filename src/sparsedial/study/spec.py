"""The description of a study, which is immutable, versioned, and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, PlainValidator

from sparsedial.acceleration.kernel_execution import KERNEL_SITES
from sparsedial.calibration import check_data, data_name
from sparsedial.curves.critical import RETAIN
from sparsedial.errors import SparsedialError, SpecError
from sparsedial.ffn.sites import find_site
from sparsedial.hooks.phase_selection import select_phases
from sparsedial.models.kind import check_kind_name
from sparsedial.models.loading import pick_device, pick_dtype
from sparsedial.models.sources import check_model_exists
from sparsedial.rules import Rule, calibrates_vectors, find_rule_class, make_rule, normalize_family
from sparsedial.study.criterion import PERPLEXITY, SCORE, describe_criterion_problems
from sparsedial.study.dataclass_parsing import STRICT, describe_value, parse_dataclass
from sparsedial.study.in_memory import NO_OBJECTS, ObjectsInMemory
from sparsedial.study.phase_choice import describe_missing_phases, normalize_phases
from sparsedial.study.python_call import format_call
from sparsedial.study.records import SCHEMA_VERSION
from sparsedial.study.run_command_options import TASK_OPTIONS, command_line_words
from sparsedial.study.task_plan import DEFAULT_MAX_EXAMPLES, TaskPlan, plan_tasks
from sparsedial.study.value_grids import find_value_grid
from sparsedial.tasks.base import Task
from sparsedial.tasks.registry import make_tasks, task_option_names
from sparsedial.tasks.spec import TaskSpec

MIN_PRECISION = 0.1
MAX_PRECISION = 50.0
"""Half of the widest possible interval of critical sparsity, in percentage points."""


def _parse_task(data: Any) -> TaskSpec:
    """Return the task that a name or a mapping describes."""
    if isinstance(data, str):
        return TaskSpec(data)
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise SpecError(f"expected a task name, or keys and values with a name, got {describe_value(data)}")
    return TaskSpec.from_json(data)


def _normalize_rule(family: str) -> str:
    """Return the text of a family. `StudySpec.problems` describes one that is wrong."""
    if "(" not in family:
        return family
    with suppress(SparsedialError):
        return normalize_family(family)
    return family


@dataclass(frozen=True)
class StudySpec:
    """Specification of a set of trials: models x sites x rules x values of p x tasks.

    Attributes:
        models: Names that `sparsedial.models.sources.resolve_source` accepts.
        sites: Names of sites. Defaults to None, which means all built-in sites that the FFNs of each model have.
        rules: Names from `sparsedial.rules.RULES`, or families such as "top_p(q=2)". Defaults to top-p.
        tasks: Tasks and the options of each. A string is the name of a task without options. Defaults to
            self-prediction.
        task_options: Options by name, which apply to every task that has an option of this name. At least one task
            has to have it.
        values: Values of the rule parameter, the same for every curve. Defaults to None,
            which means an adaptive search.
        tolerance: Precision of critical sparsity, as a fraction of sparsity, at which the search ends. If the
            95% interval is wider, the search ends at the width of the interval. Defaults to 0.01.
        precision: Half of the width of the 95% interval, in percentage points of sparsity, that the search aims at
            instead of ``tolerance``. It measures more values, and then more examples, to reach it. Defaults to None.
        max_examples: Number of examples of each task that the search for ``precision`` may use, also if the options of
            the task request more. A task with fewer examples uses all of them. Defaults to None, which means
            `DEFAULT_MAX_EXAMPLES`.
        retain: Share of the dense score that a sparse model has to keep, between 0 and 1. Defaults to 0.99.
        criterion: "score", "perplexity" or "both": what the search looks for and what the report shows. By
            "perplexity", a sparse model may have a perplexity that is at most 1% higher. It changes no trial.
        layers: Indices of the sparsified layers. Defaults to None, which means all layers.
        phases: Phases in which the rules are applied, "prefill" or "generation". The model is dense in the other one.
            Defaults to None, which means both.
        modules: Name patterns of the FFN projections "up", "gate" and "down". Defaults to None,
            in which case the projections are detected by tracing the model.
        dtype: "auto" or the name of a torch dtype.
        trust_remote_code: Execute modeling code that comes with a model. Defaults to False.
        kind: Kind of all models. Defaults to None, in which case it is detected.
        mask_token: Token ID of the mask of diffusion models. Defaults to None, in which case it is read from the model.
        accelerated: Whether sparse trials run on the kernels of `sparsedial.accelerate`, which skip the weights of
            dropped entries for every token. Defaults to False.
        in_memory: Names of the models and tasks that are objects in memory (`sparsedial.measure`). They can be
            reported, but not run again without the objects.

    Example:
        >>> spec = StudySpec(models=("smollm2-135m",), tasks=("arc_easy",), values=(0.9, 1.0))
        >>> spec.tasks
        (TaskSpec(name='arc_easy', options={}),)
        >>> spec.grid["top_p"]
        (TopP(p=1.0), TopP(p=0.9))
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    models: tuple[str, ...]
    sites: tuple[str, ...] | None = None
    rules: tuple[str, ...] = ("top_p",)
    tasks: tuple[Annotated[TaskSpec, PlainValidator(_parse_task)], ...] = (TaskSpec("self_prediction"),)
    task_options: Mapping[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    tolerance: float = 0.01
    precision: float | None = None
    max_examples: int | None = None
    retain: float = RETAIN
    criterion: str = SCORE
    layers: tuple[int, ...] | None = None
    phases: tuple[str, ...] | None = None
    modules: dict[str, str] | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    kind: str | None = None
    mask_token: int | None = None
    accelerated: bool = False
    in_memory: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tasks: list[TaskSpec] = []
        for entry in self.tasks:
            task = TaskSpec(entry) if isinstance(entry, str) else entry
            if task not in tasks:  # a task that is named twice is run and shown once
                tasks.append(task)
        object.__setattr__(self, "tasks", tuple(tasks))
        object.__setattr__(self, "phases", normalize_phases(self.phases))
        object.__setattr__(self, "rules", tuple(map(_normalize_rule, self.rules)))

    # ------------------------------------------------------------------ reading and writing

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary with the schema version that `from_json` reads back."""
        data = {spec_field.name: getattr(self, spec_field.name) for spec_field in fields(self)}
        data["tasks"] = [task.to_json() for task in self.tasks]
        data["task_options"] = dict(self.task_options)
        return {"version": SCHEMA_VERSION, **data}

    @classmethod
    def from_json(cls, data: Any, source: str = "study") -> StudySpec:
        """Return the study that `to_json` turned into ``data``.

        Args:
            data: Plain JSON or YAML. Without the key "version", the current version is assumed.
            source: Where the data come from, for error messages.

        Returns:
            The study. Its names and numbers are not checked yet: see `problems`.

        Raises:
            SpecError: The version differs, or fields are unknown, missing or wrongly typed.

        Example:
            >>> spec = StudySpec(models=("smollm2-135m",), values=(0.9, 1.0))
            >>> StudySpec.from_json(spec.to_json()) == spec
            True
            >>> StudySpec.from_json({"models": ["m"], "tasks": [{"name": "piqa", "limit": 30}]}).tasks
            (TaskSpec(name='piqa', options={'limit': 30}),)
        """
        if isinstance(data, Mapping):
            data = dict(data)
            version = data.pop("version", SCHEMA_VERSION)
            if version != SCHEMA_VERSION:
                raise SpecError(
                    f"{source}: written with schema version {version!r}; this version of sparsedial reads version "
                    f"{SCHEMA_VERSION}. Run the study again with --out set to a new directory."
                )
            if isinstance(data.get("values"), str):
                data["values"] = list(find_value_grid(data["values"]))
            if isinstance(data.get("phases"), str):
                data["phases"] = [data["phases"]]
        return parse_dataclass(cls, data, source)

    @classmethod
    def from_yaml(cls, path: Path) -> StudySpec:
        """Return the study that a YAML file describes.

        Args:
            path: A YAML file whose keys are the fields of this class. A ``study.json`` works as well.

        Returns:
            The study.

        Raises:
            SpecError: The file cannot be read, is not YAML or repeats a key, or `from_json` rejects its content.
        """
        from sparsedial.study.strict_yaml import load_yaml

        try:
            data = load_yaml(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"{path}: {error.strerror}. Expected a YAML file that describes a study.") from None
        except UnicodeDecodeError as error:
            raise SpecError(f"{path}: not UTF-8: {error.reason} at byte {error.start}. Save it as UTF-8.") from None
        except SpecError as error:
            raise SpecError(f"{path}: {error}") from None
        return cls.from_json(data, str(path))

    def command(self) -> list[str]:
        """Return the words of a command line that reproduces the study.

        The words do not include the device and the output directory. If the options of ``sparsedial run`` cannot
        describe the study, the command is ``sparsedial study`` with the ``study.json`` in its directory. No command can
        reproduce a study of objects in memory: see `python_call`.

        Returns:
            The words, starting with "sparsedial".

        Example:
            >>> StudySpec(models=("smollm2-135m",), sites=("input",), task_options={"limit": 300}).command()
            ['sparsedial', 'run', 'smollm2-135m', '--site', 'input', '--limit', '300']
        """
        if not self._fits_run_command():
            return ["sparsedial", "study", "study.json"]
        words = ["sparsedial", "run", *self.models]
        for name, value in self._settings().items():
            if name == "tasks":
                value = [task.name for task in self.tasks]
            words += command_line_words(name, value)
        return words

    def python_call(self) -> str:
        """Return a call of `sparsedial.measure` that reproduces the study, given the objects that it names.

        The call does not include the device and the output directory.

        Example:
            >>> StudySpec(models=("llama",), sites=("input",), in_memory=("llama",)).python_call()
            "sparsedial.measure(model, tokenizer, name='llama', sites=['input'])"
        """
        settings = self._settings()
        settings.pop("in_memory", None)
        if "tasks" in settings:
            settings["tasks"] = [task.to_json() for task in self.tasks]
        return format_call(self.models[0], settings, self.in_memory)

    def _settings(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, without the models, and the options of the tasks."""
        default = StudySpec(models=self.models)
        settings = {}
        for spec_field in fields(self):
            value = getattr(self, spec_field.name)
            if spec_field.name != "task_options" and value != getattr(default, spec_field.name):
                settings[spec_field.name] = value
        return {**settings, **self.task_options}

    def _fits_run_command(self) -> bool:
        """Return True if the options of ``sparsedial run`` can describe the study."""
        if self.in_memory or len(self.models) != 1 or len(self.rules) != 1:
            return False
        if any(task.options for task in self.tasks):
            return False
        return set(self.task_options) <= set(TASK_OPTIONS)

    # ------------------------------------------------------------------ rules and tasks

    @cached_property
    def grid(self) -> Mapping[str, tuple[Rule, ...]]:
        """Return the rules to evaluate by rule name, with the largest value first. Empty for an adaptive search."""
        grid: dict[str, tuple[Rule, ...]] = {}
        if self.values is not None:
            values = sorted(set(self.values), reverse=True)
            for name in self.rules:
                grid[name] = tuple(make_rule(name, value) for value in values)
        return grid

    @cached_property
    def built_tasks(self) -> list[Task]:
        """Return the tasks that are made from names. They are created once, because lm-eval tasks load their data."""
        named = [task for task in self.tasks if task.name not in self.in_memory]
        return list(make_tasks(named, self.task_options))

    def all_tasks(self, objects: ObjectsInMemory = NO_OBJECTS) -> list[Task]:
        """Return the tasks that are made from names, and those that are objects in memory.

        Args:
            objects: The models and tasks in memory. Defaults to none.
        """
        return [*self.built_tasks, *objects.tasks.values()]

    def plan_tasks(self, objects: ObjectsInMemory = NO_OBJECTS) -> dict[str, TaskPlan]:
        """Return the blocks of examples of each task by its name.

        Args:
            objects: The models and tasks in memory. Defaults to none.
        """
        if self.precision is None:
            return plan_tasks(self.all_tasks(objects))
        return plan_tasks(self.all_tasks(objects), self.max_examples or DEFAULT_MAX_EXAMPLES, self.max_examples)

    # ------------------------------------------------------------------ checking

    def problems(self, device: str = "auto", objects: ObjectsInMemory = NO_OBJECTS) -> list[str]:
        """Return the problems of the study that can be detected before a model is loaded.

        A model that cannot be found is no problem of the study as long as there is another one and nothing else is
        wrong: see `find_missing_models`.

        Args:
            device: The device that the models will run on, as in `load_language_model`. Defaults to "auto".
            objects: The models and tasks in memory. Defaults to none.

        Returns:
            One clause or sentence per problem. Empty if the study can be run.
        """
        absent = self.absent_object_problems(objects)
        if absent:
            return absent
        other_problems = [
            *self.setting_problems(device),
            *_error_messages([lambda: self.built_tasks]),
            *self._task_problems(objects),
        ]
        missing = self.find_missing_models()
        if other_problems or len(missing) == len(set(self.models)):
            return [*missing.values(), *other_problems]
        return []

    def absent_object_problems(self, objects: ObjectsInMemory = NO_OBJECTS) -> list[str]:
        """Return one sentence if models or tasks that were objects in memory are missing, otherwise nothing.

        Args:
            objects: The models and tasks in memory. Defaults to none.
        """
        absent = [name for name in self.in_memory if name not in objects.names]
        if not absent:
            return []
        return [_describe_absent(absent)]

    def find_missing_models(self) -> dict[str, str]:
        """Return the error message of each model that does not exist, is damaged, or that the user has no access to."""
        messages = {}
        for model in dict.fromkeys(self.models):
            if model in self.in_memory:
                continue
            for message in _error_messages([partial(check_model_exists, model)]):
                messages[model] = message
        return messages

    def setting_problems(self, device: str = "auto") -> list[str]:
        """Return the problems of everything but the models and tasks.

        Args:
            device: The device that the models will run on, as in `load_language_model`. Defaults to "auto".
        """
        checks: list[Callable[[], object]] = [
            partial(check_kind_name, self.kind),
            lambda: pick_dtype(self.dtype, pick_device(device)),
        ]
        return [*self._list_problems(), *self._rule_problems(), *self._number_problems(), *_error_messages(checks)]

    def _task_problems(self, objects: ObjectsInMemory) -> list[str]:
        try:
            tasks = self.all_tasks(objects)
            problems = [*objects.describe_missing_tokenizers(tasks), *describe_missing_phases(self.phases, tasks)]
            return [*problems, *describe_criterion_problems(self.criterion, tasks)]
        except SparsedialError:  # the tasks cannot be made, which is another problem
            return describe_criterion_problems(self.criterion, [])

    def _list_problems(self) -> list[str]:
        problems = []
        for name in ("models", "sites", "rules", "tasks", "values", "layers", "phases"):
            if getattr(self, name) == ():
                problems.append(f"no {name}: expected at least one")
        problems += _error_messages([partial(find_site, site) for site in self.sites or ()])
        if self.phases:
            problems += _error_messages([partial(select_phases, self.phases)])
        for site in self.sites or ():
            if self.accelerated and site not in KERNEL_SITES:
                problems.append(f"site {site!r}: accelerated trials are run at {', '.join(KERNEL_SITES)} only")
        options_by_name: dict[str, Mapping[str, Any]] = {}
        for task in self.tasks:
            if options_by_name.setdefault(task.name, task.options) != task.options:
                problems.append(f"task {task.name!r}: listed twice with different options. List it once per study.")
        return problems

    def _rule_problems(self) -> list[str]:
        problems = []
        for name in self.rules:
            unknown = _error_messages([partial(normalize_family, name)])
            if unknown:
                problems += unknown
                continue
            problems += _error_messages([partial(self._check_calibration_data, name)])
            problems += _error_messages([partial(make_rule, name, value) for value in self.values or ()])
        return problems

    def calibration_options(self, rule: Rule) -> dict[str, Any]:
        """Return the options of the task whose examples are the calibration data of a rule.

        They are those that the study gives to this task, and those that it gives to all tasks.

        Args:
            rule: A rule that defines `Rule.calibrate_vector`.
        """
        name = data_name(rule)
        known = task_option_names(name)
        options = {option: value for option, value in self.task_options.items() if option in known}
        for task in self.tasks:
            if task.name == name:
                options.update(task.options)
        return options

    def _check_calibration_data(self, family: str) -> None:
        rule_class = find_rule_class(family)
        if rule_class.needs_calibration and calibrates_vectors(rule_class):
            rule = make_rule(family, rule_class.dense_value)
            check_data(rule, self.calibration_options(rule))

    def _number_problems(self) -> list[str]:
        problems = []
        for name in ("retain", "tolerance"):
            number = getattr(self, name)
            if not 0.0 < number < 1.0:
                problems.append(f"{name} {number!r}: expected a number between 0 and 1")
        if self.criterion == PERPLEXITY and self.retain != RETAIN:
            problems.append(f"retain {self.retain!r}: it is a share of the score, but the criterion is {PERPLEXITY!r}")
        if self.max_examples is not None and self.max_examples < 1:
            problems.append(f"max_examples {self.max_examples}: expected at least 1")
        if self.precision is None:
            if self.max_examples is not None:
                problems.append(
                    f"max_examples {self.max_examples}: it limits the examples that are added for a precision, but no "
                    "precision is given"
                )
            return problems
        if not MIN_PRECISION <= self.precision < MAX_PRECISION:
            problems.append(
                f"precision {self.precision!r}: expected percentage points, from {MIN_PRECISION:g} to below "
                f"{MAX_PRECISION:g}. 1.5 means 1.5 points, not a fraction"
            )
        if self.values is not None:
            problems.append(
                f"precision {self.precision!r}: it cannot be combined with values of p, because it lets the search "
                "choose them. Leave out one of the two."
            )
        return problems


def _describe_absent(names: Sequence[str]) -> str:
    return (
        f"{', '.join(map(repr, names))}: passed to sparsedial.measure as objects in memory, so this study can be run "
        "only by calling sparsedial.measure with them and the same out=. Its report needs no objects: "
        "sparsedial report DIR"
    )


def _error_messages(checks: Iterable[Callable[[], object]]) -> list[str]:
    """Call each function and return the messages of the errors."""
    messages = []
    for check in checks:
        try:
            check()
        except SparsedialError as error:
            messages.append(str(error))
    return messages
