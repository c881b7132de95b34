"""Registrations that a worker in another process needs: rules, sites and tasks that the running program has added."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

from sparsedial.calibration import data_name
from sparsedial.errors import SpecError
from sparsedial.ffn.sites import site_registry
from sparsedial.registry import Registry
from sparsedial.rules import RULES, calibrates_vectors, find_rule_class, make_rule, split_family
from sparsedial.rules.calibration import SAMPLES
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.registry import task_registry


def list_registrations(spec: StudySpec) -> list[dict[str, str]]:
    """Return the registrations that a study needs and that another process cannot find by itself.

    Names of entry points are left out, because every process finds them.

    Args:
        spec: The study.

    Returns:
        One dictionary with the keys "kind", "name" and "module" for each registration, which `import_registrations`
        reads.

    Raises:
        SpecError: A definition was registered by a module that another process cannot import.
    """
    names_by_kind: dict[str, Iterable[str]] = {
        "rule": [split_family(family)[0] for family in spec.rules],
        "site": spec.sites or (),
        "task": [*(task.name for task in spec.tasks), *_calibration_tasks(spec)],
    }
    registrations = []
    for kind, registry in _registries().items():
        for name in names_by_kind[kind]:
            registration = registry.find_registration(name)
            if registration is None or registry.is_entry_point(name):
                continue
            if not _can_be_imported(registration.module):
                raise SpecError(_describe_missing(registry, name, registration.module))
            registrations.append({"kind": kind, "name": name, "module": registration.module})
    return registrations


def import_registrations(registrations: Iterable[Mapping[str, str]]) -> None:
    """Import the modules that register rules, sites and tasks.

    Args:
        registrations: What `list_registrations` returned in the process that started this one.

    Raises:
        SpecError: A module cannot be imported, or does not register the name when it is imported.
    """
    for entry in registrations:
        registry = _registries()[entry["kind"]]
        try:
            importlib.import_module(entry["module"])
        except ImportError as error:
            raise SpecError(f"{_describe_missing(registry, entry['name'], entry['module'])} ({error})") from error
        if entry["name"] not in registry:
            raise SpecError(_describe_missing(registry, entry["name"], entry["module"]))


def _calibration_tasks(spec: StudySpec) -> list[str]:
    """Return the names of the tasks whose examples are calibration data."""
    names = []
    for family in spec.rules:
        rule_class = find_rule_class(family)
        name = data_name(make_rule(family, rule_class.dense_value))
        if calibrates_vectors(rule_class) and name != SAMPLES:
            names.append(name)
    return names


def _can_be_imported(module: str) -> bool:
    """Return True if another process can import a module. It cannot import the program or the notebook that runs."""
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _registries() -> dict[str, Registry[Any]]:
    return {"rule": RULES, "site": site_registry(), "task": task_registry()}


def _describe_missing(registry: Registry[Any], name: str, module: str) -> str:
    return (
        f"{registry.kind} {name!r} was registered in the module {module}, which a worker in another process cannot "
        "import, or which does not register it there. Put it into an installed package that declares it as an entry "
        f"point of the group {registry.group}, or run the study in this process, without --timeout and --workers ray."
    )
