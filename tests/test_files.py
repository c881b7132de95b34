"""Files that are written atomically."""

import hashlib
import os

import pytest

from sparsedial.files import file_sha256, is_temporary, write_atomically


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


def test_temporary_names_are_recognised(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(os, "link", lambda source, target: names.append(source))
    write_atomically(tmp_path / "file.json", b"data", replace=False)
    assert is_temporary(names[0])
    assert not is_temporary(tmp_path / "file.json")
    assert not is_temporary(tmp_path / ".hidden")


def test_the_digest_is_that_of_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert file_sha256(path) == hashlib.sha256(b"content").hexdigest()
