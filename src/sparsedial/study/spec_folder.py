"""The spec in the directory of a study, and the identities of the models and tasks that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from pathlib import Path
from typing import Any

from sparsedial.errors import StorageError
from sparsedial.study.canonical_json import to_canonical_json
from sparsedial.study.folder_layout import RESOLVED_NAME, SPEC_NAME, holds_study
from sparsedial.study.job import ResolvedModel
from sparsedial.study.verified_records import RecordFolder

MISSING_TASKS = "missing_tasks"
"""Key of ``resolved.json`` for the tasks that the last run left out, with the reason of each."""


class SpecFolder(RecordFolder):
    """Directory with ``study.json``, ``resolved.json`` and ``specs/``. The arguments are those of `RecordFolder`."""

    def write_spec(self, spec: dict[str, Any]) -> bool:
        """Write ``study.json``. An earlier spec that differs is copied to ``specs/`` before.

        Args:
            spec: The study, as returned by `StudySpec.to_json`.

        Returns:
            True if there was an earlier spec that differs.

        Raises:
            StorageError: The earlier spec cannot be read, or the new one cannot be written.
        """
        path = self.folder / SPEC_NAME
        data = json.dumps(spec, indent=1, sort_keys=True, allow_nan=False).encode()
        try:
            earlier = path.read_bytes() if path.exists() else data
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from None
        if earlier != data:
            self.write_file(self.folder / "specs" / f"{hashlib.sha256(earlier).hexdigest()}.json", earlier)
        self.write_file(path, data, replace=True)
        return earlier != data

    def read_spec(self) -> dict[str, Any]:
        """Return the content of ``study.json``.

        Returns:
            A dictionary for `StudySpec.from_json`.

        Raises:
            StorageError: The directory holds no study, or its ``study.json`` is damaged.
        """
        path = self.folder / SPEC_NAME
        try:
            spec = json.loads(path.read_bytes())
        except OSError as error:
            advice = "Expected the output directory of a run."
            if holds_study(self.folder):
                advice = "Run the study again with the same --out: finished trials in this directory are used."
            raise StorageError(f"{path}: {error.strerror}. {advice}") from None
        except ValueError as error:
            raise StorageError(_damage_message(path, str(error))) from None
        if not isinstance(spec, dict):
            raise StorageError(_damage_message(path, "expected an object"))
        return spec

    def write_resolved(self, resolved: dict[str, Any]) -> None:
        """Write ``resolved.json``: the identities of the tasks and models that the spec names.

        Args:
            resolved: "tasks" lists identities of tasks, "models" lists identities of models, "resolved_models" lists
                models as returned by `ResolvedModel.to_json`, and `MISSING_TASKS` holds the tasks that were left out.
        """
        self.write_file(self.folder / RESOLVED_NAME, to_canonical_json(resolved).encode(), replace=True)

    def read_resolved(self) -> dict[str, Any] | None:
        """Return the content of ``resolved.json``, as `write_resolved` takes it. None if it is missing or damaged."""
        try:
            resolved = json.loads((self.folder / RESOLVED_NAME).read_bytes())
        except (OSError, ValueError):
            return None
        if not isinstance(resolved, dict):
            return None
        for name in ("tasks", "models", "resolved_models"):
            entries = resolved.get(name, [])
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                return None
        return resolved

    def resolved_models(self, names: Container[str]) -> dict[str, ResolvedModel]:
        """Return the models that earlier runs have loaded.

        Args:
            names: Names of the models in the spec. Other models are omitted.

        Returns:
            The models by their names. Empty if ``resolved.json`` cannot be read: the models are then loaded again.
        """
        resolved = self.read_resolved() or {}
        models = {}
        try:
            for entry in resolved.get("resolved_models", []):
                model = ResolvedModel.from_json(entry)
                if model.model in names:
                    models[model.model] = model
        except (KeyError, TypeError):
            return {}
        return models


def _damage_message(path: Path, reason: str) -> str:
    return (
        f"{path}: not a study: {reason}. The file was not changed. Move it to another directory and run the study "
        "again with the same --out: finished trials in this directory are used."
    )
