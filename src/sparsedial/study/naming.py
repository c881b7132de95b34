"""What models and tasks are called where several meet: short, each name meaning one thing; and a model's family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from sparsedial.study.store import digest

AVERAGE = "average"  # the task average's name among the tasks
COUNTS = ("limit", "sequences", "documents")  # settings of a task that only say how many examples there are
LOCAL = ("directory", "gguf")  # origins whose name is a path
# A size in a model's name: 135M, 0.5B, A3B (active), 8x7B, or a word. What is left is the family.
SIZE = re.compile(r"(?:\d+x|[ae])?\d+(?:[.p]\d+)?[kmbt]|nano|mini|tiny|small|medium|large|xl", re.IGNORECASE)


def model_names(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The name of every model, by the digest of its identity: unique, with dtype or weights where names collide.

    >>> a = {"identity": {"model": {"weights": "aa", "dtype": "float32"}}, "labels": {"model": "m"}}
    >>> b = {"identity": {"model": {"weights": "aa", "dtype": "bfloat16"}}, "labels": {"model": "m"}}
    >>> list(model_names([a, b, a]).values())
    ['m (float32)', 'm (bfloat16)']
    """
    names: dict[str, str] = {}
    details: dict[str, list[str]] = {}
    for record in records:
        identity, labels = record["identity"]["model"], record["labels"]
        key = digest(identity)
        path = str(labels.get("origin", "")).startswith(LOCAL)
        names.setdefault(key, (PurePath(labels["model"]).name if path else "") or labels["model"])
        details.setdefault(key, [str(identity["dtype"]), f"weights {identity['weights'][:8]}", f"variant {key[:8]}"])
    return _told_apart(names, details)


def task_names(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The name of every task, by the digest of its identity: unique, with the setting that differs where names collide.

    How many examples were taken is no difference, as long as no model was measured on one number and on another.

    >>> few, many = ({"task": "piqa", "limit": n} for n in (9, 99))
    >>> labels = {"task": "piqa"}
    >>> on = lambda model, task: {"identity": {"model": model, "task": task}, "labels": labels}
    >>> list(task_names([on("a", few), on("a", many)]).values())
    ['piqa (limit 9)', 'piqa (limit 99)']
    >>> list(task_names([on("a", few), on("b", many)]).values())
    ['piqa', 'piqa']
    """
    names: dict[str, str] = {}
    identities: dict[str, Mapping[str, Any]] = {}
    measured: dict[str, set[str]] = {}  # on which models
    for record in records:
        key = digest(record["identity"]["task"])
        names.setdefault(key, record["labels"]["task"])
        identities.setdefault(key, record["identity"]["task"])
        measured.setdefault(key, set()).add(digest(record["identity"]["model"]))
    alike: dict[str, list[str]] = {}
    for key, identity in identities.items():
        alike.setdefault(digest({s: v for s, v in identity.items() if s not in COUNTS}), []).append(key)
    for keys in alike.values():
        if sum(len(measured[key]) for key in keys) == len(set[str]().union(*(measured[key] for key in keys))):
            identities |= dict.fromkeys(keys, identities[keys[0]])
    # Numbers and words say more than hashes, so they come first.
    settings = sorted({s for i in identities.values() for s in i}, key=lambda s: (_is_hash(identities, s), s))
    details = {
        key: [
            *(f"{s.replace('_', ' ')} {str(identity.get(s))[:12]}" for s in settings),
            f"variant {digest(identity)[:8]}",
        ]
        for key, identity in identities.items()
    }
    return _told_apart(names, details)


def family(labels: Mapping[str, Any]) -> str:
    """The family a model belongs to: what its record says, else its name without its size.

    A mixture of experts is a family of its own, as its size means something else.

    >>> [family({"model": name}) for name in ("Qwen/Qwen2.5-0.5B-Instruct", "smollm2-135m", "gpt2-xl", "small-1b")]
    ['Qwen2.5-Instruct', 'smollm2', 'gpt2', 'small']
    """
    found = labels.get("family")
    if not found:
        parts = re.split(r"([-_ ]+)", PurePath(str(labels["model"]).replace("\\", "/")).name)
        words, gaps = parts[::2], parts[1::2]
        rest = (gap + word for gap, word in zip(gaps, words[1:], strict=True) if not SIZE.fullmatch(word))
        found = words[0] + "".join(rest)
    active = labels.get("active_parameters")
    return f"{found} (MoE)" if active and active != labels.get("parameters") else str(found)


def is_average(task: str) -> bool:
    """Whether a name among the tasks is that of an average over tasks.

    >>> is_average("average"), is_average("average of arc_easy, piqa"), is_average("piqa")
    (True, True, False)
    """
    return task == AVERAGE or task.startswith(f"{AVERAGE} of ")


def _is_hash(identities: Mapping[str, Mapping[str, Any]], setting: str) -> bool:
    return any(isinstance(i.get(setting), str) and len(i[setting]) >= 32 for i in identities.values())


def _told_apart(names: dict[str, str], details: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Names with as many of their details, in order, as it takes for no two to be the same."""
    said: dict[str, list[str]] = {key: [] for key in names}
    for part in range(len(next(iter(details.values()), ()))):
        same: dict[tuple[str, ...], list[str]] = {}
        for key, name in names.items():
            same.setdefault((name, *said[key]), []).append(key)
        for keys in same.values():
            if len({details[key][part] for key in keys}) > 1:
                for key in keys:
                    said[key].append(details[key][part])
    return {key: f"{name} ({', '.join(said[key])})" if said[key] else name for key, name in names.items()}
