"""Display names of models and tasks: short, and unique among the trials that are shown together."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from sparsedial.models.identity import ModelIdentity
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.records import ModelLabel, TrialRecord
from sparsedial.tasks.task_names import AVERAGE

AVERAGE_OF_RETENTIONS = "average of retentions"
"""Display name of the average over all tasks if their scores are not on one scale."""

Key = TypeVar("Key", bound=Hashable)

_COUNT_OPTIONS = ("limit", "sequences", "documents")  # options that only say how many examples a task has
_LOCAL_ORIGINS = ("directory", "gguf")  # origins of models whose name is a path
_SHORTEST_HASH = 32  # a shorter text, in characters, is not treated as a hash

# Matches the parts of a name that state a size: 135M, 0.5B, A3B (active), 8x7B, or a word such as small.
_SIZE = re.compile(r"(?:\d+x|[ae])?\d+(?:[.p]\d+)?[kmbt](?:\.\d+)?|nano|mini|tiny|small|medium|large|xl", re.IGNORECASE)


def name_models(records: Iterable[TrialRecord]) -> dict[ModelIdentity, str]:
    """Give every model a unique display name.

    Args:
        records: The trials that are shown together.

    Returns:
        The name of each model identity. Models with equal names are distinguished by their dtype or, if that is equal,
        by their weights.
    """
    names: dict[ModelIdentity, str] = {}
    details: dict[ModelIdentity, list[str]] = {}
    for record in records:
        identity = record.identity.model
        if identity in names:
            continue
        names[identity] = _short_name(record.model)
        variant = json_digest(identity.to_json())[:8]
        details[identity] = [identity.dtype, f"weights {identity.weights[:8]}", f"variant {variant}"]
    return _disambiguate(names, details)


def name_tasks(records: Iterable[TrialRecord]) -> dict[str, str]:
    """Give every task a unique display name.

    Tasks with equal names are distinguished by the options in which they differ. The number of examples is part of a
    name only if a model was measured with several numbers of examples.

    Args:
        records: The trials that are shown together.

    Returns:
        The name for each `task_digest`.
    """
    names: dict[str, str] = {}
    identities: dict[str, Mapping[str, Any]] = {}
    models: dict[str, set[ModelIdentity]] = defaultdict(set)
    for record in records:
        key = task_digest(record)
        names.setdefault(key, record.task.name)
        identities.setdefault(key, record.identity.task_settings)
        models[key].add(record.identity.model)
    _ignore_counts(identities, models)
    return _disambiguate(names, _task_details(identities))


def task_digest(record: TrialRecord) -> str:
    """Return the SHA-256 of the settings of a trial's task. It is the key in the result of `name_tasks`.

    Args:
        record: A trial.
    """
    return json_digest(record.identity.task_settings)


def model_family(model: ModelLabel) -> str:
    """Return the family of a model: the one in its record or, if there is none, its name without its size.

    A number behind the size, as in ``dense-16m.1``, is the number of a training and does not make another family.
    Mixtures of experts form a separate family, because only a part of their parameters is active for a token.

    Args:
        model: Labels of the model.

    Returns:
        The name of the family.

    Example:
        >>> names = ("Qwen/Qwen2.5-0.5B-Instruct", "smollm2-135m", "gpt2-xl", "zoo:dense-5m", "out/dense-16m.1")
        >>> [model_family(ModelLabel(name, "hub", 1, 1, "cpu")) for name in names]
        ['Qwen2.5-Instruct', 'smollm2', 'gpt2', 'dense', 'dense']
    """
    family = model.family or _name_without_size(model.name)
    active = model.active_parameters
    if active and active != model.parameters:
        return f"{family} (MoE)"
    return family


def name_rule(name: str, phases: Sequence[str] | None, accelerated: bool = False) -> str:
    """Return the display name of a rule, which tells curves of different phases and kernels apart.

    Args:
        name: Name of the rule.
        phases: Phases in which it was applied. None means all of them.
        accelerated: Whether the model ran on kernels that skip the weights of dropped entries. Defaults to False.

    Example:
        >>> name_rule("top_p", None), name_rule("top_p", ("prefill",))
        ('top_p', 'top_p (prefill only)')
        >>> name_rule("top_p", ("generation",), accelerated=True)
        'top_p (generation only, accelerated)'
    """
    remarks = []
    if phases is not None:
        remarks.append(f"{', '.join(phases)} only")
    if accelerated:
        remarks.append("accelerated")
    if not remarks:
        return name
    return f"{name} ({', '.join(remarks)})"


def is_average(task: str) -> bool:
    """Return True if a task's name is that of an average over tasks.

    Args:
        task: Display name of a task.

    Returns:
        True for "average", for averages of retentions and for averages over named tasks.

    Example:
        >>> is_average("average"), is_average("average of arc_easy, piqa"), is_average("piqa")
        (True, True, False)
    """
    return task == AVERAGE or task.startswith(f"{AVERAGE} of ")


def _short_name(model: ModelLabel) -> str:
    if model.origin.startswith(_LOCAL_ORIGINS):
        return PurePath(model.name).name or model.name
    return model.name


def _name_without_size(name: str) -> str:
    base = PurePath(name.replace("\\", "/")).name.removeprefix("zoo:")
    parts = re.split(r"([-_ ]+)", base)
    family = parts[0]
    for separator, word in zip(parts[1::2], parts[2::2], strict=True):
        if not _SIZE.fullmatch(word):
            family += separator + word
    return family


def _ignore_counts(identities: dict[str, Mapping[str, Any]], models: Mapping[str, set[ModelIdentity]]) -> None:
    """Treat tasks that differ only in their number of examples as one, if no model was measured on two of them."""
    alike: dict[str, list[str]] = defaultdict(list)
    for key, identity in identities.items():
        essential = {option: value for option, value in identity.items() if option not in _COUNT_OPTIONS}
        alike[json_digest(essential)].append(key)
    for keys in alike.values():
        measurements: list[ModelIdentity] = []
        for key in keys:
            measurements += models[key]
        if len(measurements) == len(set(measurements)):
            identities.update(dict.fromkeys(keys, identities[keys[0]]))


def _task_details(identities: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """List the options of each task in the order in which they are tried as a distinction: hashes come last."""
    options: set[str] = set()
    for identity in identities.values():
        options.update(identity)
    ordered = sorted(options, key=lambda option: (_holds_hashes(identities, option), option))
    details: dict[str, list[str]] = {}
    for key, identity in identities.items():
        details[key] = []
        for option in ordered:
            details[key].append(f"{option.replace('_', ' ')} {str(identity.get(option))[:12]}")
        details[key].append(f"variant {json_digest(identity)[:8]}")
    return details


def _holds_hashes(identities: Mapping[str, Mapping[str, Any]], option: str) -> bool:
    for identity in identities.values():
        value = identity.get(option)
        if isinstance(value, str) and len(value) >= _SHORTEST_HASH:
            return True
    return False


def _disambiguate(names: Mapping[Key, str], details: Mapping[Key, Sequence[str]]) -> dict[Key, str]:
    """Append details to equal names, in order, until all names differ."""
    added: dict[Key, list[str]] = {key: [] for key in names}
    for index in range(len(next(iter(details.values()), ()))):
        same_name: dict[tuple[str, ...], list[Key]] = defaultdict(list)
        for key, name in names.items():
            same_name[(name, *added[key])].append(key)
        for keys in same_name.values():
            if len({details[key][index] for key in keys}) == 1:
                continue
            for key in keys:
                added[key].append(details[key][index])
    unique = dict(names)
    for key, words in added.items():
        if words:
            unique[key] = f"{names[key]} ({', '.join(words)})"
    return unique
