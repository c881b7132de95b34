"""Files: put in place whole or not at all, and their sha256."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path


def place(path: Path, data: bytes, *, replace: bool) -> bool:
    """Write to a temporary name, fsync, move into place, fsync the directory; the folder is made.

    With ``replace`` an older file of that name gives way; without, the first to finish wins, and False is
    returned to the second. Whatever fails (OSError), no half-written file bears the name.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    placed = True
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            try:
                os.link(part, path)
            except FileExistsError:
                placed = False
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return placed


def is_temporary(path: Path) -> bool:
    """Whether this is the temporary name that `place` gives."""
    return path.name.startswith(".") and len(path.suffix) == 9


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
