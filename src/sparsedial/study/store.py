"""The directory of a study: one immutable file per finished trial.

A study is resumed from these files alone. Several processes can write to one study at the same time: every file appears
atomically, and if several processes finish the same trial, the first record is kept.
"""

from __future__ import annotations

import hashlib
import io
import math
import secrets
import time
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsedial.errors import StorageError
from sparsedial.study.folder_layout import record_files
from sparsedial.study.job import FailureRecord, OutcomeKind
from sparsedial.study.records import TrialRecord
from sparsedial.study.sample_table import NO_LABELS, SampleLabels, has_equal_examples, make_sample_table
from sparsedial.study.spec_folder import SpecFolder
from sparsedial.study.verified_records import decode_record, encode_record, read_file

if TYPE_CHECKING:
    import pandas as pd

DIGEST_PREFIX = 16
"""Number of hexadecimal digits of the digest in the name of a second file with scores of the same trial."""


class Store(SpecFolder):
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
        """Return a finished trial whose scores are intact. A trial without intact scores is moved to ``quarantine/``.

        Args:
            key: Key of the trial.

        Returns:
            The record. None if the trial has to be run.
        """
        record = self.trial(key)
        if record is None:
            return None
        scores = self.find_samples(record)
        if scores is None or not is_consistent(record, scores):
            self.quarantine(self.trial_path(key))
            return None
        return record

    def trials(self) -> Iterator[TrialRecord]:
        """Yield every readable finished trial, sorted by key."""
        for path in record_files(self.folder, "trials"):
            record = self._read_trial(path)
            if record is not None:
                yield record

    def write_trial(self, record: TrialRecord, samples: np.ndarray, labels: SampleLabels = NO_LABELS) -> None:
        """Store a finished trial: first its per-example scores, then the record that refers to them.

        If the trial is finished already, the first record is kept. If the results differ, the second record is written
        to ``conflicts/``.

        Args:
            record: The trial, without the digest of its scores.
            samples: Per-example scores, float64, shape [examples].
            labels: IDs and predictions of the examples. Defaults to none.
        """
        digest = self._write_samples(record, samples, labels)
        record = replace(record, samples_sha256=digest)
        data = encode_record(record.to_json())
        if self.write_file(self.trial_path(record.key), data):
            return
        first = self.trial(record.key)
        if first is None:  # `trial` has moved the damaged file to quarantine
            self.write_file(self.trial_path(record.key), data)
        elif self._has_equal_numbers(first, record):
            if first.samples_sha256 != digest:  # no record refers to the file that was just written
                self._samples_paths(record.key, digest)[1].unlink(missing_ok=True)
        else:
            self.write_file(self.folder / "conflicts" / f"{record.key}.{secrets.token_hex(4)}.json", data)

    def _has_equal_numbers(self, first: TrialRecord, record: TrialRecord) -> bool:
        """Return True if two runs of a trial gave the same numbers, up to the last bits of likelihoods."""
        if (first.result, first.counts) != (record.result, record.counts):
            return False
        if first.samples_sha256 == record.samples_sha256:
            return True
        table = self.find_sample_table(first)
        other_table = self.find_sample_table(record)
        return table is not None and other_table is not None and has_equal_examples(table, other_table)

    def _write_samples(self, record: TrialRecord, samples: np.ndarray, labels: SampleLabels) -> str:
        """Write per-example scores and return their SHA-256."""
        data = make_sample_table(record, samples, labels).to_parquet(index=False)
        digest = hashlib.sha256(data).hexdigest()
        for path in self._samples_paths(record.key, digest):
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
            StorageError: The file is missing or cannot be read, or its SHA-256 differs from the one in the record.
        """
        scores = self.find_samples(record)
        if scores is None:
            path = self._samples_paths(record.key, record.samples_sha256)[0]
            raise StorageError(
                f"{path}: the scores of trial {record.key[:12]} are lost or damaged: run the study again"
            )
        return scores

    def find_samples(self, record: TrialRecord) -> np.ndarray | None:
        """Return the per-example scores of a trial, or None if they are missing or damaged.

        Args:
            record: A finished trial.

        Returns:
            Scores, float64, shape [examples]. None if no file has the SHA-256 of the record.

        Raises:
            StorageError: A file cannot be read.
        """
        table = self.find_sample_table(record)
        return None if table is None else table["score"].to_numpy()

    def find_sample_table(self, record: TrialRecord) -> pd.DataFrame | None:
        """Return what happened to each example of a trial, or None if the file is missing or damaged.

        Args:
            record: A finished trial.

        Returns:
            One row per example, with the columns of `sparsedial.study.sample_table.make_sample_table`.

        Raises:
            StorageError: A file cannot be read.
        """
        import pandas as pd

        for path in self._samples_paths(record.key, record.samples_sha256):
            data = read_file(path)
            if data is not None and hashlib.sha256(data).hexdigest() == record.samples_sha256:
                return pd.read_parquet(io.BytesIO(data))
        return None

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
        data = read_file(path)
        if data is None:
            return None
        record = decode_trial(data, path.stem)
        if record is None:
            self.quarantine(path)
        return record

    def set_aside_damaged_files(self, intact: Container[str]) -> None:
        """Move damaged trials and prepared examples to ``quarantine/``, whether or not the study still needs them.

        Args:
            intact: Keys of trials that have been checked already.
        """
        for path in record_files(self.folder, "trials"):
            if path.stem not in intact:
                self.complete_trial(path.stem)
        for path in record_files(self.folder, "prepared"):
            self.prepared(path.stem)

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
            record = decode_record(read_file(path) or b"", key)
            if record is None:
                failures.append(FailureRecord(key, OutcomeKind.UNREADABLE, "", time=""))
            else:
                failures.append(FailureRecord.from_json(record))
        return failures

    def forget_failures(self, key: str | None = None) -> None:
        """Remove records of failed attempts, so that jobs are tried again.

        Args:
            key: Key of the job. Defaults to None, which means all jobs.

        Raises:
            StorageError: A record cannot be removed.
        """
        for path in record_files(self.folder, "failed"):
            if key in (None, path.parent.name):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise StorageError(f"{path}: cannot be removed: {error.strerror}") from None
                with suppress(OSError):  # not empty yet
                    path.parent.rmdir()

    # ------------------------------------------------------------------ prepared examples

    def prepared(self, key: str) -> dict[str, Any] | None:
        """Return examples that were prepared earlier, so that a resumed run scores the same examples.

        Args:
            key: See `TrialIdentity.examples_key`.

        Returns:
            The examples, as returned by `Task.prepare`. None if no examples have been stored.
        """
        record = self.read_record(self.folder / "prepared" / f"{key}.json", key)
        return None if record is None else record["examples"]

    def write_prepared(self, key: str, examples: dict[str, Any]) -> dict[str, Any]:
        """Store the examples of a task.

        Args:
            key: See `TrialIdentity.examples_key`.
            examples: The examples, as returned by `Task.prepare`.

        Returns:
            The examples in the store. If several workers prepared examples, those of the first worker are kept.
        """
        self.write_file(self.folder / "prepared" / f"{key}.json", encode_record({"key": key, "examples": examples}))
        return self.prepared(key) or examples


def decode_trial(data: bytes, key: str) -> TrialRecord | None:
    """Return the trial in a file.

    Args:
        data: Content of the file.
        key: Key of the trial, which is the name of the file.

    Returns:
        The trial. None if the file is damaged or holds another trial.
    """
    record = decode_record(data, key)
    if record is None:
        return None
    try:
        trial = TrialRecord.from_json(record)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    if trial.key != key:
        return None
    return trial


def is_consistent(record: TrialRecord, scores: np.ndarray) -> bool:
    """Return True if the numbers of a trial agree with its scores.

    Args:
        record: A finished trial.
        scores: Its scores, shape [examples].
    """
    if len(scores) != record.result.examples or not 0.0 <= record.result.sparsity <= 1.0:
        return False
    return all(map(math.isfinite, scores))
