"""A study on disk: one immutable file per finished trial. The files are the truth; nothing else is needed to go on.

Several processes may write one study at once: a file is linked into place whole, and the first to finish wins.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from sparsedial.disk import is_temporary, place
from sparsedial.errors import StoreError

SCHEMA = 1
STALE = 3600.0  # seconds after which a temporary file belongs to nobody


def canonical(data: Any) -> str:
    """JSON with sorted keys and no NaN: the same text for the same data.

    >>> canonical({"b": 1.5, "a": [True, None]})
    '{"a":[true,null],"b":1.5}'
    """
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def sealed(data: bytes, key: str) -> dict[str, Any] | None:
    """The record in these bytes, or None where they are not, to the letter, what was written under that key."""
    try:
        record = json.loads(data)
        seal = record.pop("sha256")
        whole = seal == digest(record) and record["key"] == key and record["schema"] == SCHEMA
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return record if whole else None


class Store:
    """A study's directory: ``study.json``, ``trials/ab/<key>.json``, ``samples/``, ``prepared/``, ``failed/``, ..."""

    def __init__(self, folder: Path, *, repair: bool = True) -> None:
        self.folder = folder
        self.repair = repair  # damaged files are moved to quarantine/; otherwise they are passed over

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Open a directory for writing, show that it can be written, and clear away what dead runs left half done.

        Raises:
            StoreError: it cannot; the message names the path.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{secrets.token_hex(4)}"
            probe.write_bytes(b"ok")
            probe.unlink()
            for path in filter(is_temporary, folder.glob("**/.*")):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > STALE:
                        path.unlink()
        except OSError as error:
            raise StoreError(f"output directory {str(folder)!r} cannot be written: {error.strerror or error}") from None
        return cls(folder)

    # ------------------------------------------------------------------ trials

    def trial(self, key: str) -> dict[str, Any] | None:
        """The finished trial of that key, or None. One that is damaged is moved to ``quarantine/`` and is None."""
        return self._read(self.trial_path(key), key)

    def whole_trial(self, key: str) -> dict[str, Any] | None:
        """`trial`, but one whose per-example scores are lost is moved to ``quarantine/`` as well, to be run again."""
        if (record := self.trial(key)) is not None:
            try:
                self.samples(record)
            except StoreError:
                self._set_aside(self.trial_path(key))
                return None
        return record

    def trials(self) -> Iterator[dict[str, Any]]:
        """Every readable finished trial, by key."""
        for path in sorted((self.folder / "trials").glob("??/*.json")):
            if (record := self._read(path, path.stem)) is not None:
                yield record

    def write_trial(self, record: dict[str, Any], samples: np.ndarray) -> None:
        """Commit a finished trial: its per-example scores first, then the record that refers to them.

        Where the trial has been finished already the first one stays; if the numbers differ, the second one is kept
        in ``conflicts/``.

        Raises:
            StoreError: it could not be written; what was finished before is untouched.
        """
        import pandas as pd

        key = record["key"]
        data = pd.DataFrame({"score": np.asarray(samples, dtype=np.float64)}).to_parquet(index=False)
        seal = hashlib.sha256(data).hexdigest()
        for path in self._samples_paths(key, seal):
            if self._place(path, data) or path.read_bytes() == data:
                break  # a name that is taken by other scores is left to the trial that may refer to them
        record = {**record, "schema": SCHEMA, "samples_sha256": seal}
        record["sha256"] = digest(record)
        if self._place(self.trial_path(key), canonical(record).encode()):
            return
        first = self.trial(key)
        if first is None:  # it was damaged, and is out of the way now
            self._place(self.trial_path(key), canonical(record).encode())
        elif any(first[part] != record[part] for part in ("result", "stats", "samples_sha256")):
            self._place(self.folder / "conflicts" / f"{key}.{secrets.token_hex(4)}.json", canonical(record).encode())

    def samples(self, record: dict[str, Any]) -> np.ndarray:
        """The per-example scores of a trial, float64 ``[N]``.

        Raises:
            StoreError: the file is missing or not the one the trial was finished with.
        """
        import pandas as pd

        paths = self._samples_paths(record["key"], record["samples_sha256"])
        for path in paths:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}") from None
            if hashlib.sha256(data).hexdigest() == record["samples_sha256"]:
                return pd.read_parquet(io.BytesIO(data))["score"].to_numpy()
        raise StoreError(f"{paths[0]}: the scores of trial {record['key'][:12]} are lost or damaged: run it again")

    # ------------------------------------------------------------------ failures

    def write_failure(self, key: str, kind: str, message: str, trial: dict[str, Any]) -> None:
        """Record one failed attempt at a trial, in ``failed/<key>/``.

        Args:
            key: the trial's. kind: what happened (see `plan.OUTCOMES`). message: in words. trial: which one, in words.
        """
        record = {
            "schema": SCHEMA, "key": key, "kind": kind, "message": message, "trial": trial,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        record["sha256"] = digest(record)
        name = f"{time.time_ns()}-{secrets.token_hex(4)}.json"
        self._place(self.folder / "failed" / key / name, canonical(record).encode())

    def failures(self, key: str) -> list[dict[str, Any]]:
        """The failed attempts at a trial, oldest first. One that cannot be read counts as ``unreadable``."""
        found = []
        for path in sorted((self.folder / "failed" / key).glob("*.json")):
            record = sealed(path.read_bytes(), key)
            found.append(record or {"key": key, "kind": "unreadable", "message": "", "trial": {}, "time": ""})
        return found

    def forget_failures(self, key: str | None = None) -> None:
        """Remove the recorded attempts at one trial, or all of them, so that it is tried again."""
        shutil.rmtree(self.folder / "failed" / (key or ""), ignore_errors=True)

    # ------------------------------------------------------------------ the rest

    def prepared(self, key: str) -> dict[str, Any] | None:
        """Examples prepared earlier, so that a resumed run scores the same ones."""
        record = self._read(self.folder / "prepared" / f"{key}.json", key)
        return None if record is None else record["examples"]

    def write_prepared(self, key: str, examples: dict[str, Any]) -> dict[str, Any]:
        """Keep a task's examples, and return those that are kept: of several workers the first one's."""
        record = {"schema": SCHEMA, "key": key, "examples": examples}
        record["sha256"] = digest(record)
        self._place(self.folder / "prepared" / f"{key}.json", canonical(record).encode())
        return self.prepared(key) or examples

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
        parts = [resolved.get(name, []) for name in ("tasks", "models", "found")] if isinstance(resolved, dict) else [0]
        whole = all(isinstance(part, list) and all(isinstance(entry, dict) for entry in part) for part in parts)
        return resolved if whole else None

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
            raise StoreError(
                f"{path}: not a study: {error}. Nothing was touched. Move it away: the trials beside it still count "
                "when the same study is run into this directory again."
            ) from None

    def trial_path(self, key: str) -> Path:
        """Where the finished trial of that key is, or would be."""
        return self.folder / "trials" / key[:2] / f"{key}.json"

    def _samples_paths(self, key: str, seal: str) -> tuple[Path, Path]:
        """Where a trial's scores may be: under its key, or, where another attempt has that name, with their hash."""
        folder = self.folder / "samples"
        return folder / f"{key}.parquet", folder / f"{key}.{seal[:16]}.parquet"

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from None
        if (record := sealed(data, key)) is None:
            self._set_aside(path)
        return record

    def _set_aside(self, path: Path) -> None:
        if not self.repair:
            return
        aside = self.folder / "quarantine" / f"{path.name}.{secrets.token_hex(4)}"
        try:
            aside.parent.mkdir(exist_ok=True)
            path.rename(aside)
        except FileNotFoundError:
            pass  # another process did it
        except OSError as error:
            raise StoreError(f"{path}: damaged, and cannot be moved to quarantine/: {error.strerror}") from None

    def _place(self, path: Path, data: bytes, replace: bool = False) -> bool:
        """`place`, with the error a user can act on."""
        try:
            return place(path, data, replace=replace)
        except OSError as error:
            raise StoreError(
                f"{path}: could not be written: {error.strerror or error}. Finished trials are kept."
            ) from error
