"""``sparsedial fsck`` on what is not a study."""

import pytest
from typer.testing import CliRunner

from sparsedial.cli.application import app
from sparsedial.errors import StorageError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "no such directory"),
        ("file", "a file, not a directory"),
        ("empty", "not a study: it holds no study.json and no trials"),
        ("other", "not a study: it holds no study.json and no trials"),
    ],
)
def test_what_is_not_a_study_is_an_error(tmp_path, name, words):
    (tmp_path / "file").write_text("the user's")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "trials").mkdir(parents=True)
    (tmp_path / "other" / "README.md").write_text("the user's")
    with pytest.raises(StorageError, match=f"{name}: {words}.*Expected the output directory of a run"):
        CliRunner().invoke(app, ["fsck", str(tmp_path / name)], catch_exceptions=False)
