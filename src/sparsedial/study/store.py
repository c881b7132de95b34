"""The directory of a study: one immutable file per finished trial.

A study is resumed from these files alone. Several processes can write to one study at the same time: every file appears
atomically, and if several processes finish the same trial, the first record is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import time
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsedial.errors import StorageError
from sparsedial.study.canonical_json import to_canonical_json
from sparsedial.study.job import FailureRecord, OutcomeKind, ResolvedModel
from sparsedial.study.records import TrialRecord
from sparsedial.study.verified_records import RecordFolder, decode_record, encode_record

DIGEST_PREFIX = 16
"""Number of hexadecimal digits of the digest in the name of a second file with scores of the same trial."""


class Store(RecordFolder):
    """Directory of a study.

    The directory holds ``study.json``, ``resolved.json`` and the directories ``trials``, ``samples``, ``prepared``,
    ``failed``, ``conflicts``, ``quarantine`` and ``specs``. The arguments are those of `RecordFolder`.
    """

    # ------------------------------------------------------------------ trials

    def trial(self, key: str) -> TrialRecord | None:
        """Return a finished trial. A damaged record is moved to ``quarantine/``.

        Args:
            key: Key of the trial.

        Returns:
            The record. None if the trial is not finished or was damaged.
        """
        return self._read_trial(self.trial_path(key))

    def complete_trial(self, key: str) -> TrialRecord | None:
        """Return a finished trial whose scores are intact. A trial with missing or damaged scores is quarantined.

        Args:
            key: Key of the trial.

        Returns:
            The record. None if the trial has to be run.
        """
        record = self.trial(key)
        if record is None:
            return None
        try:
            self.samples(record)
        except StorageError:
            self.quarantine(self.trial_path(key))
            return None
        return record

    def trials(self) -> Iterator[TrialRecord]:
        """Yield every readable finished trial, sorted by key."""
        for path in sorted((self.folder / "trials").glob("??/*.json")):
            record = self._read_trial(path)
            if record is not None:
                yield record

    def write_trial(self, record: TrialRecord, samples: np.ndarray) -> None:
        """Store a finished trial: first its per-example scores, then the record that refers to them.

        If the trial is finished already, the first record is kept. If the results differ, the second record is written
        to ``conflicts/``.

        Args:
            record: The trial, without the digest of its scores.
            samples: Per-example scores, float64, shape [examples].
        """
        digest = self._write_samples(record.key, samples)
        record = replace(record, samples_sha256=digest)
        data = encode_record(record.to_json())
        if self.write_file(self.trial_path(record.key), data):
            return
        first = self.trial(record.key)
        if first is None:  # `trial` has moved the damaged file to quarantine
            self.write_file(self.trial_path(record.key), data)
        elif (first.result, first.counts, first.samples_sha256) != (record.result, record.counts, digest):
            self.write_file(self.folder / "conflicts" / f"{record.key}.{secrets.token_hex(4)}.json", data)

    def _write_samples(self, key: str, samples: np.ndarray) -> str:
        """Write per-example scores and return their SHA-256."""
        import pandas as pd

        data = pd.DataFrame({"score": np.asarray(samples, dtype=np.float64)}).to_parquet(index=False)
        digest = hashlib.sha256(data).hexdigest()
        for path in self._samples_paths(key, digest):
            # A file with other scores is kept, because a finished trial may refer to it.
            if self.write_file(path, data) or path.read_bytes() == data:
                break
        return digest

    def samples(self, record: TrialRecord) -> np.ndarray:
        """Return the per-example scores of a trial.

        Args:
            record: A finished trial.

        Returns:
            Scores, float64, shape [examples].

        Raises:
            StorageError: The file is missing, or its SHA-256 differs from the one in the record.
        """
        import pandas as pd

        paths = self._samples_paths(record.key, record.samples_sha256)
        for path in paths:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StorageError(f"{path}: {error.strerror}") from None
            if hashlib.sha256(data).hexdigest() == record.samples_sha256:
                return pd.read_parquet(io.BytesIO(data))["score"].to_numpy()
        raise StorageError(
            f"{paths[0]}: the scores of trial {record.key[:12]} are lost or damaged: run the study again"
        )

    def trial_path(self, key: str) -> Path:
        """Return the path of a finished trial, whether or not it exists.

        Args:
            key: Key of the trial. Its first two characters are the name of the file's directory.
        """
        return self.folder / "trials" / key[:2] / f"{key}.json"

    def _samples_paths(self, key: str, digest: str) -> tuple[Path, Path]:
        """Return the possible paths of scores: named by the trial's key or, if that file exists, also by a digest."""
        folder = self.folder / "samples"
        return folder / f"{key}.parquet", folder / f"{key}.{digest[:DIGEST_PREFIX]}.parquet"

    def _read_trial(self, path: Path) -> TrialRecord | None:
        data = self.read_record(path, path.stem)
        return None if data is None else TrialRecord.from_json(data)

    # ------------------------------------------------------------------ failures

    def write_failure(self, failure: FailureRecord) -> None:
        """Record one failed attempt at a job in ``failed/<key>/``.

        Args:
            failure: The failed attempt. Records of earlier attempts with the same key are kept.
        """
        name = f"{time.time_ns()}-{secrets.token_hex(4)}.json"
        self.write_file(self.folder / "failed" / failure.key / name, encode_record(failure.to_json()))

    def failures(self, key: str) -> list[FailureRecord]:
        """Return the failed attempts at a job, oldest first.

        Args:
            key: Key of the job.

        Returns:
            One record per attempt. A damaged record has the kind "unreadable".
        """
        failures = []
        for path in sorted((self.folder / "failed" / key).glob("*.json")):
            record = decode_record(path.read_bytes(), key)
            if record is None:
                failures.append(FailureRecord(key, OutcomeKind.UNREADABLE, "", time=""))
            else:
                failures.append(FailureRecord.from_json(record))
        return failures

    def forget_failures(self, key: str | None = None) -> None:
        """Remove records of failed attempts, so that jobs are tried again.

        Args:
            key: Key of the job. Defaults to None, which means all jobs.
        """
        shutil.rmtree(self.folder / "failed" / (key or ""), ignore_errors=True)

    # ------------------------------------------------------------------ prepared examples

    def prepared(self, key: str) -> dict[str, Any] | None:
        """Return examples that were prepared earlier, so that a resumed run scores the same examples.

        Args:
            key: The setting of the trials, see `TrialIdentity.setting`.

        Returns:
            The examples, as returned by `Task.prepare`. None if no examples have been stored.
        """
        record = self.read_record(self.folder / "prepared" / f"{key}.json", key)
        return None if record is None else record["examples"]

    def write_prepared(self, key: str, examples: dict[str, Any]) -> dict[str, Any]:
        """Store the examples of a task.

        Args:
            key: The setting of the trials, see `TrialIdentity.setting`.
            examples: The examples, as returned by `Task.prepare`.

        Returns:
            The examples in the store. If several workers prepared examples, those of the first worker are kept.
        """
        self.write_file(self.folder / "prepared" / f"{key}.json", encode_record({"key": key, "examples": examples}))
        return self.prepared(key) or examples

    # ------------------------------------------------------------------ the spec and its models

    def write_spec(self, spec: dict[str, Any]) -> None:
        """Write ``study.json``. An earlier spec that differs is moved to ``specs/``.

        Args:
            spec: The study, as returned by `StudySpec.to_json`.

        Raises:
            StorageError: The earlier spec cannot be read, or the new one cannot be written.
        """
        path = self.folder / "study.json"
        data = json.dumps(spec, indent=1, sort_keys=True, allow_nan=False).encode()
        try:
            earlier = path.read_bytes() if path.exists() else data
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}") from None
        if earlier != data:
            self.write_file(self.folder / "specs" / f"{hashlib.sha256(earlier).hexdigest()}.json", earlier)
        self.write_file(path, data, replace=True)

    def read_spec(self) -> dict[str, Any]:
        """Return the content of ``study.json``.

        Returns:
            A dictionary for `StudySpec.from_json`.

        Raises:
            StorageError: The directory holds no study, or its ``study.json`` is damaged.
        """
        path = self.folder / "study.json"
        try:
            spec = json.loads(path.read_text())
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror}. Expected the output directory of a run.") from None
        except ValueError as error:
            raise StorageError(_damage_message(path, str(error))) from None
        if not isinstance(spec, dict):
            raise StorageError(_damage_message(path, "expected an object"))
        return spec

    def write_resolved(self, resolved: dict[str, Any]) -> None:
        """Write ``resolved.json``: the identities of the tasks and models that the spec names.

        Args:
            resolved: "tasks" lists identities of tasks, "models" lists identities of models, and "resolved_models"
                lists models as returned by `ResolvedModel.to_json`.
        """
        self.write_file(self.folder / "resolved.json", to_canonical_json(resolved).encode(), replace=True)

    def read_resolved(self) -> dict[str, Any] | None:
        """Return the content of ``resolved.json``, as `write_resolved` takes it. None if it is missing or damaged."""
        try:
            resolved = json.loads((self.folder / "resolved.json").read_bytes())
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
