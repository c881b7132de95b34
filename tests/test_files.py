"""Files that are written atomically."""

import errno
import fcntl
import hashlib
import os
import stat
from contextlib import nullcontext

import pytest

from sparsedial.files import (
    LOCK_NAME,
    ExclusiveMove,
    file_sha256,
    is_temporary,
    probe_directory,
    write_atomically,
)
from tests.support.file_systems import LINK_ERRORS, allow_only


def test_a_file_is_written_with_its_directory(tmp_path):
    path = tmp_path / "new" / "file.json"
    assert write_atomically(path, b"first", replace=False)
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "file.json"
    write_atomically(path, b"first", replace=False)
    assert not write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert write_atomically(path, b"third", replace=True)
    assert path.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replace", [True, False])
def test_a_failure_leaves_no_file(tmp_path, monkeypatch, replace):
    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(tmp_path / "file.json", b"data", replace=replace)
    assert list(tmp_path.iterdir()) == []


def test_temporary_names_are_recognised_and_no_others(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "link", lambda source, target: names.append(source))
    write_atomically(tmp_path / "file.json", b"data", replace=False)
    assert is_temporary(names[0])
    for name in ("file.json", ".hidden", ".env.template", ".bashrc.original", ".file.json.0123abcd"):
        assert not is_temporary(tmp_path / name)


@pytest.mark.parametrize("error", LINK_ERRORS)
@pytest.mark.parametrize("move", ExclusiveMove)
def test_an_existing_file_is_kept_on_file_systems_without_hard_links(tmp_path, monkeypatch, move, error):
    allow_only(move, error, monkeypatch)
    assert probe_directory(tmp_path) == move
    assert {path.name for path in tmp_path.iterdir()} <= {LOCK_NAME}
    path = tmp_path / "file.json"
    assert write_atomically(path, b"first", replace=False)
    assert not write_atomically(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert {path.name for path in tmp_path.iterdir()} <= {"file.json", LOCK_NAME}


def test_a_file_system_without_any_exclusive_operation_is_an_error(tmp_path, monkeypatch):
    allow_only(ExclusiveMove.LOCK, patch=monkeypatch)

    def fail(*_args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="No locks available"):
        probe_directory(tmp_path)
    with pytest.raises(OSError, match="No locks available"):
        write_atomically(tmp_path / "file.json", b"data", replace=False)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK_NAME}


@pytest.mark.parametrize(("error", "is_tolerated"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_a_directory_that_cannot_be_synced(tmp_path, monkeypatch, error, is_tolerated):
    fsync = os.fsync

    def fail_for_directories(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    with nullcontext() if is_tolerated else pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "file.json", b"data", replace=False)
    assert (tmp_path / "file.json").read_bytes() == b"data"


def test_the_digest_is_that_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert file_sha256(path) == hashlib.sha256(b"content").hexdigest()
