"""Which directories a study may use, and which files in them are its own."""

import errno
import os
from pathlib import Path

import pytest

from sparsedial.errors import StorageError
from sparsedial.files import make_temporary_path
from sparsedial.study.folder_layout import check_holds_study, check_output_folder, holds_study
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store

KEY = "ab" * 32


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["README.md", ".env.template", "src/main.py", "trials/mine.json", "samples/a.parquet", "results.json"]
)
def test_a_directory_with_other_files_is_refused_and_not_changed(spec, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("the user's")
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=r"not of a study: .*--out"):
        run_study(spec, tmp_path)
    assert contents(tmp_path) == before
    assert not holds_study(tmp_path)


@pytest.mark.parametrize("name", [f"trials/ab/{KEY}.json", f"prepared/{KEY}.json", f"failed/{KEY}/1-0123abcd.json"])
def test_the_records_of_a_study_without_its_spec_are_a_study(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    (tmp_path / "notes.txt").write_text("the user's")
    check_output_folder(tmp_path)
    check_holds_study(tmp_path)


def test_what_a_killed_run_or_the_system_left_is_no_reason_to_refuse(tmp_path):
    check_output_folder(tmp_path / "new")
    check_output_folder(tmp_path)
    make_temporary_path(tmp_path).touch()
    (tmp_path / "study.lock").touch()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".DS_Store").touch()
    check_output_folder(tmp_path)


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    def fail(*_args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        check_output_folder(tmp_path)


def test_only_records_of_failures_are_removed(tmp_path):
    store = Store.create(tmp_path)
    record = tmp_path / "failed" / KEY / "1-0123abcd.json"
    mine = [record.with_name("notes.txt"), tmp_path / "failed" / "mine" / "1-0123abcd.json"]
    for path in (record, *mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    store.forget_failures()
    assert not record.exists()
    assert all(path.exists() for path in mine)


def test_files_with_other_names_are_neither_read_nor_moved(spec, tmp_path):
    store = run_study(spec, tmp_path)
    for name in ("trials/my/notes.json", f"trials/zz/{KEY}.json", "prepared/mine.json", "quarantine/mine"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("the user's")
    before = contents(tmp_path)
    assert len(list(store.trials())) == 5
    run_study(spec, tmp_path)
    after = contents(tmp_path)
    assert {path for path in before if before[path] != after[path]} <= {tmp_path / "study.lock"}
