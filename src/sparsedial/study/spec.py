"""What to run: a frozen, versioned description that is checked as a whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sparsedial.critical import RETAIN
from sparsedial.diffusion.kinds import check_kind
from sparsedial.errors import SparsedialError, SpecError
from sparsedial.ffn import SITES
from sparsedial.models import pick_device, pick_dtype
from sparsedial.rules import RULES, make_rule
from sparsedial.sources import check_model
from sparsedial.study.typed import complain, typed
from sparsedial.tasks import TaskOptions, make_tasks
from sparsedial.tasks.base import Task

SPEC_VERSION = 2


@dataclass(frozen=True)
class StudySpec:
    """Models x sites x rules x dial values x tasks.

    Attributes:
        models: names as `find_model` takes them.
        sites: of `SITES`, or None for all that a model has. rules: names of `RULES`.
        tasks: task names; ``self_prediction`` needs no data. options: what else the tasks take.
        values: the dial values to measure, or None for the adaptive search.
        tolerance: the search's: critical sparsity to within this fraction (or its interval if wider).
        retain: the share of the dense score to keep.
        layers: only these, or None for all.
        modules: FFN projections named by hand (see `find_ffns`), or None.
        dtype: as `load_model` takes it.
        trust_remote_code: let code that comes with a model run.
        kind, mask_token: as `load_model` takes them, of every model; found out where None.
    """

    models: tuple[str, ...]
    sites: tuple[str, ...] | None = None
    rules: tuple[str, ...] = ("top_p",)
    tasks: tuple[str, ...] = ("self_prediction",)
    options: TaskOptions = field(default_factory=TaskOptions)
    values: tuple[float, ...] | None = None
    tolerance: float = 0.01
    retain: float = RETAIN
    layers: tuple[int, ...] | None = None
    modules: dict[str, str] | None = None
    dtype: str = "auto"
    trust_remote_code: bool = False
    kind: str | None = None
    mask_token: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with its version; `from_json` reads it back."""
        return {"version": SPEC_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Any, what: str = "study") -> StudySpec:
        """The inverse of `to_json`; a version that is not given is this one, and older ones are read.

        Args:
            data: plain JSON or YAML. what: where it is from, for messages.

        Raises:
            SpecError: another version, or every unknown, missing or wrongly typed field.

        >>> spec = StudySpec(models=("smollm2-135m",), values=(0.9, 1.0))
        >>> StudySpec.from_json(spec.to_json()) == spec
        True
        >>> StudySpec.from_json({"version": 1, "models": ["smollm2-135m"], "rule": "top_k"}).rules
        ('top_k',)
        """
        if isinstance(data, dict):
            data = dict(data)
            version = data.pop("version", SPEC_VERSION)
            if version not in range(1, SPEC_VERSION + 1):
                raise SpecError(f"{what}: version {version!r}, expected {SPEC_VERSION}: made by a newer sparsedial?")
            if version == 1 and "rule" in data:
                data["rules"] = [data.pop("rule")]
        return typed(cls, data, what)

    @classmethod
    def from_yaml(cls, path: Path) -> StudySpec:
        """A study declared in a YAML file (or a ``study.json``, for JSON is YAML); its keys are these fields.

        Raises:
            SpecError: the file cannot be read, is no YAML, or what `from_json` finds.
        """
        import yaml

        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"{path}: {error.strerror}. Expected a YAML file that declares a study.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: not YAML: {error}") from None
        return cls.from_json(data, str(path))

    def command(self) -> list[str]:
        """The command line that asks for this (where to run it and where to keep it left out).

        What `run` has no words for is a study: the ``study.json`` kept with its trials says it.

        >>> StudySpec(models=("smollm2-135m",), sites=("input",), options=TaskOptions(limit=300)).command()
        ['sparsedial', 'run', 'smollm2-135m', '--site', 'input', '--limit', '300']
        """
        if len(self.models) > 1 or len(self.rules) > 1:
            return ["sparsedial", "study", "study.json"]
        words = ["sparsedial", "run", *self.models]
        default = StudySpec(models=self.models)
        if self.sites is not None:
            words += [word for site in self.sites for word in ("--site", site)]
        for name in ("rules", "tasks", "values", "tolerance", "retain", "layers", "dtype", "kind", "mask_token"):
            value = getattr(self, name)
            if value != getattr(default, name):
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [{"values": "--p", "rules": "--rule"}.get(name, f"--{name.replace('_', '-')}"), text]
        words += [word for role, pattern in (self.modules or {}).items() for word in ("--ffn", f"{role}={pattern}")]
        words += ["--trust-remote-code"] if self.trust_remote_code else []
        return words + self.options.command()

    def check(self, device: str = "auto", known: Sequence[str] = ()) -> list[Task]:
        """Look at everything that can be wrong before a model is loaded, and say all of it at once.

        Args:
            device: as `load_model` takes it. known: problems found before, to be said with the rest.

        Returns:
            The tasks, made on the way.

        Raises:
            SpecError: one line for each problem.
        """
        problems: list[str] = list(known)

        def attempt(check: Callable[[], Any]) -> Any:
            try:
                return check()
            except SparsedialError as error:
                problems.append(str(error))

        for model in self.models:
            attempt(partial(check_model, model))
        for site in self.sites or ():
            if site not in SITES:
                problems.append(f"unknown site {site!r}: expected one of {', '.join(SITES)}")
        for rule in self.rules:
            if rule not in RULES:
                problems.append(f"unknown rule {rule!r}: expected one of {', '.join(RULES)}")
                continue
            for value in self.values or ():
                attempt(partial(make_rule, rule, value))
        for name in ("models", "sites", "rules", "tasks", "values", "layers"):
            if getattr(self, name) == ():
                problems.append(f"no {name}: expected at least one")
        if not 0.0 < self.retain < 1.0:
            problems.append(f"retain {self.retain!r}: expected a number between 0 and 1")
        if not 0.0 < self.tolerance < 1.0:
            problems.append(f"tolerance {self.tolerance!r}: expected a number between 0 and 1")
        attempt(partial(check_kind, self.kind))
        attempt(lambda: pick_dtype(self.dtype, pick_device(device)))
        tasks = attempt(lambda: make_tasks(self.tasks, self.options)) or []
        complain(problems)
        return list(tasks)
