"""A study on disk: one immutable file per finished trial. The files are the truth; nothing else is needed to go on."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sparsedial.errors import StoreError

SCHEMA = 1


def canonical(data: Any) -> str:
    """JSON with sorted keys and no NaN: the same text for the same data.

    >>> canonical({"b": 1.5, "a": [True, None]})
    '{"a":[true,null],"b":1.5}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def place(path: Path, data: bytes, *, replace: bool) -> None:
    """Write to a temporary name, fsync, move into place, fsync the directory; the folder is made.

    With ``replace`` an older file of that name gives way; without, the first to finish wins. Whatever fails
    (OSError), no half-written file bears the name.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Store:
    """A study's directory: ``study.json``, ``trials/ab/<key>.json``, ``samples/``, ``prepared/``, ``quarantine/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Open a directory for writing, and show that it can be written.

        Raises:
            StoreError: it cannot; the message names the path.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{secrets.token_hex(4)}"
            probe.write_bytes(b"ok")
            probe.unlink()
        except OSError as error:
            raise StoreError(f"output directory {str(folder)!r} cannot be written: {error.strerror or error}") from None
        return cls(folder)

    # ------------------------------------------------------------------ trials

    def trial(self, key: str) -> dict[str, Any] | None:
        """The finished trial of that key, or None. One that is damaged is moved to ``quarantine/`` and is None."""
        return self._read(self._trial_path(key), key)

    def trials(self) -> Iterator[dict[str, Any]]:
        """Every readable finished trial, by key."""
        for path in sorted((self.folder / "trials").glob("??/*.json")):
            if (record := self._read(path, path.stem)) is not None:
                yield record

    def write_trial(self, record: dict[str, Any], samples: np.ndarray) -> None:
        """Commit a finished trial: its per-example scores first, then the record that refers to them.

        Raises:
            StoreError: it could not be written; what was finished before is untouched.
        """
        import pandas as pd

        key = record["key"]
        path = self.folder / "samples" / f"{key}.parquet"
        data = pd.DataFrame({"score": np.asarray(samples, dtype=np.float64)}).to_parquet(index=False)
        self._place(path, data, replace=True)  # one left by a run that died before its record counts for nothing
        record = {**record, "schema": SCHEMA, "samples_sha256": hashlib.sha256(data).hexdigest()}
        record["sha256"] = digest(record)
        self._place(self._trial_path(key), canonical(record).encode())

    def samples(self, record: dict[str, Any]) -> np.ndarray:
        """The per-example scores of a trial, float64 ``[N]``.

        Raises:
            StoreError: the file is missing or not the one the trial was finished with.
        """
        import io

        import pandas as pd

        path = self.folder / "samples" / f"{record['key']}.parquet"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; remove the trial {record['key']} to run it again") from None
        if hashlib.sha256(data).hexdigest() != record["samples_sha256"]:
            raise StoreError(f"{path}: not the scores its trial was finished with; remove both to run it again")
        return pd.read_parquet(io.BytesIO(data))["score"].to_numpy()

    # ------------------------------------------------------------------ the rest

    def prepared(self, key: str) -> dict[str, Any] | None:
        """Examples prepared earlier, so that a resumed run scores the same ones."""
        record = self._read(self.folder / "prepared" / f"{key}.json", key)
        return None if record is None else record["examples"]

    def write_prepared(self, key: str, examples: dict[str, Any]) -> None:
        """Keep a task's examples."""
        record = {"schema": SCHEMA, "key": key, "examples": examples}
        record["sha256"] = digest(record)
        self._place(self.folder / "prepared" / f"{key}.json", canonical(record).encode())

    def write_spec(self, spec: dict[str, Any]) -> None:
        """Keep what was asked for; an earlier, different one is kept in ``specs/``."""
        path = self.folder / "study.json"
        text = json.dumps(spec, indent=1, sort_keys=True, allow_nan=False).encode()
        try:
            old = path.read_bytes() if path.exists() else text
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        if old != text:
            self._place(self.folder / "specs" / f"{hashlib.sha256(old).hexdigest()}.json", old)
        self._place(path, text, replace=True)

    def write_resolved(self, resolved: dict[str, Any]) -> None:
        """Keep what the spec turned out to mean (identities of models and tasks), so that a report shows just that."""
        self._place(self.folder / "resolved.json", canonical(resolved).encode(), replace=True)

    def read_resolved(self) -> dict[str, Any] | None:
        """What the spec turned out to mean, or None where that is not known: then every trial is shown."""
        try:
            resolved = json.loads((self.folder / "resolved.json").read_bytes())
        except (OSError, ValueError):
            return None
        return resolved if isinstance(resolved, dict) else None

    def read_spec(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
            StoreError: the directory holds no study, or its ``study.json`` is damaged.
        """
        path = self.folder / "study.json"
        try:
            spec = json.loads(path.read_text())
            if not isinstance(spec, dict):
                raise ValueError("expected an object")
            return spec
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}. Expected a directory that a run has written.") from None
        except ValueError as error:
            raise StoreError(f"{path}: not a study: {error}") from None

    def _trial_path(self, key: str) -> Path:
        return self.folder / "trials" / key[:2] / f"{key}.json"

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        try:
            record = json.loads(data)
            seal = record.pop("sha256")
            if seal == digest(record) and record["key"] == key and record["schema"] == SCHEMA:
                return record
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        aside = self.folder / "quarantine" / f"{path.name}.{secrets.token_hex(4)}"
        aside.parent.mkdir(exist_ok=True)
        path.rename(aside)
        return None

    def _place(self, path: Path, data: bytes, replace: bool = False) -> None:
        """`place`; a trial that was finished twice keeps the first."""
        try:
            place(path, data, replace=replace)
        except OSError as error:
            raise StoreError(
                f"{path}: could not be written: {error.strerror or error}. Finished trials are kept."
            ) from error
