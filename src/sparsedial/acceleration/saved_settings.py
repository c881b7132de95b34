"""The file ``sparsedial.json``, which is stored beside the weights of an accelerated model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsedial.errors import SpecError, StorageError
from sparsedial.files import write_atomically
from sparsedial.rules import Calibration, Rule, rule_from_json

FILE_NAME = "sparsedial.json"
VERSION = 1
_WORDS: Mapping[str, Sequence[Any]] = {
    "prefill": ("dense", "sparse"),
    "when_slower": ("mask", "dense"),
    "linear_layers": (True, False),
    "dtype": ("float32", "bfloat16", "float16", None),
}


@dataclass(frozen=True)
class SavedRule:
    """The rule of one vector.

    Attributes:
        module: Path of the FFN.
        vector: Name of the vector.
        rule: What `Rule.to_json` returned.
    """

    module: str
    vector: str
    rule: Mapping[str, Any]

    def make_rule(self) -> Rule:
        """Return the rule."""
        return rule_from_json(self.rule)


@dataclass(frozen=True)
class SavedSettings:
    """Describes how a model is accelerated.

    Attributes:
        site: Name of the site.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        linear_layers: True if the dense kernel computes linear layers outside of the FFNs.
        rules: The rule of each vector.
        calibration: Values of the calibration of the rules, or None.
        dtype: Name of the torch dtype of the weights, such as "bfloat16". None in files of earlier versions.
        machine: The processor or GPU, and the number of threads, of the machine that saved the model.
        evidence: Why the rules were chosen, as given by the user: the study, the task, the critical sparsity with its
            interval. None if nothing was given.
    """

    site: str
    prefill: str
    when_slower: str
    linear_layers: bool
    rules: Sequence[SavedRule]
    calibration: Mapping[str, Any] | None
    dtype: str | None
    machine: str
    evidence: Mapping[str, Any] | None

    def write(self, folder: Path) -> None:
        """Write the file.

        Args:
            folder: Directory of the model.
        """
        data = {"format": "sparsedial accelerated model", "version": VERSION, **asdict(self)}
        text = json.dumps(data, indent=1, allow_nan=False) + "\n"
        write_atomically(folder / FILE_NAME, text.encode(), replace=True)

    def make_calibration(self) -> Calibration | None:
        """Return the calibration of the rules, or None if they need none."""
        if self.calibration is None:
            return None
        return Calibration(self.calibration)


def read_settings(folder: Path) -> SavedSettings | None:
    """Read the file of a directory.

    Args:
        folder: Directory of a model.

    Returns:
        The settings. None if the directory has no such file.

    Raises:
        StorageError: The file is damaged, or was written by a later version of this package.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        version = data["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: it cannot be read ({error}). Save the model again.") from error
    if version != VERSION:
        raise StorageError(f"{path}: version {version!r}: expected {VERSION}. Update sparsedial, or save it again.")
    try:
        settings = SavedSettings(
            site=data["site"],
            prefill=data["prefill"],
            when_slower=data.get("when_slower", "mask"),  # earlier files have no entries with a default
            linear_layers=data.get("linear_layers", True),
            rules=[SavedRule(**entry) for entry in data["rules"]],
            calibration=data["calibration"],
            dtype=data.get("dtype"),
            machine=data["machine"],
            evidence=data["evidence"],
        )
    except (KeyError, TypeError) as error:
        raise StorageError(f"{path}: an entry is missing or unknown ({error}). Save the model again.") from error
    problem = _describe_problem(settings)
    if problem is not None:
        raise StorageError(f"{path}: {problem}. Save the model again.")
    return settings


def check_evidence(evidence: Mapping[str, Any] | None) -> None:
    """Check that evidence can be stored.

    Args:
        evidence: What the user has given, or None.

    Raises:
        SpecError: It is not plain JSON.
    """
    try:
        json.dumps(evidence, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(
            f"evidence: it is not plain JSON ({error}): expected dictionaries, lists, texts, finite numbers, True, "
            "False and None."
        ) from error


def _describe_problem(settings: SavedSettings) -> str | None:
    """Return which entry has a value that this package does not write, and what was expected. None if there is none."""
    for name, words in _WORDS.items():
        value = getattr(settings, name)
        if value not in words:
            return f"{name} is {value!r}: expected one of {', '.join(map(json.dumps, words))}"
    for name in ("calibration", "evidence"):
        value = getattr(settings, name)
        if value is not None and not isinstance(value, Mapping):
            return f"{name} is {value!r}: expected an object or null"
    return _describe_rule_problem(settings.rules)


def _describe_rule_problem(rules: Sequence[SavedRule]) -> str | None:
    if not rules:
        return "rules is empty: expected the rule of at least one vector"
    vectors = set()
    for entry in rules:
        if not isinstance(entry.rule, Mapping):
            return f"the rule of {entry.vector} of {entry.module} is {entry.rule!r}: expected an object"
        if (entry.module, entry.vector) in vectors:
            return f"rules has two entries for {entry.vector} of {entry.module}: expected one"
        vectors.add((entry.module, entry.vector))
    return None
