"""A report replaces only files of a study or of an earlier report."""

import pytest

from sparsedial.errors import StorageError
from sparsedial.report.output_folder import check_report_folder

NAMES = ["report.html", "results.json", "points.csv", "figures/critical-1.svg"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["{}", '{"critical": []}', "[1]", "the user's"])
def test_a_file_of_the_user_is_not_replaced(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(StorageError, match=rf"{name}: exists .*--out"):
        check_report_folder(tmp_path, NAMES)
    assert (tmp_path / name).read_text() == text


def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path):
    (tmp_path / "points.csv").symlink_to("a-disk-that-is-not-mounted")
    with pytest.raises(StorageError, match=r"points\.csv"):
        check_report_folder(tmp_path, NAMES)


@pytest.mark.parametrize("name", ["study.json", "results.json", "notes.txt"])
def test_a_study_an_earlier_report_and_other_files_are_accepted(tmp_path, name):
    if name != "notes.txt":
        (tmp_path / "report.html").write_text("earlier")
    (tmp_path / name).write_text('{"schema": 2, "critical": [], "points": []}')
    check_report_folder(tmp_path, NAMES)
    check_report_folder(tmp_path / "new", NAMES)
