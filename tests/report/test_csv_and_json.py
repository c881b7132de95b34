"""Files are written atomically, CSV holds no formulas, and JSON is strict."""

import json

import numpy as np
import pandas as pd
import pytest

from sparsedial.errors import StorageError
from sparsedial.report.csv_and_json import to_csv, to_json, write_file


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "  =1", "\t=1"])
def test_text_that_a_spreadsheet_would_compute_is_quoted(text):
    _, cell = to_csv(pd.DataFrame({"name": [text]})).decode().splitlines()
    assert cell.startswith("'")


def test_numbers_stay_numbers_in_csv():
    assert to_csv(pd.DataFrame({"a": [-0.5], "b": [None]})) == b"a,b\n-0.5,\n"


def test_missing_and_infinite_numbers_become_null():
    value = {"a": [float("nan"), float("inf"), np.float64("nan"), pd.NA, pd.NaT, None], "b": (np.int64(3), True, 0.5)}
    assert json.loads(to_json(value)) == {"a": [None] * 6, "b": [3, True, 0.5]}


def test_tables_become_lists_of_rows_and_other_objects_text():
    value = {1: pd.DataFrame({"x": [1, 2]}), "type": np.dtype("float32")}
    assert json.loads(to_json(value)) == {"1": [{"x": 1}, {"x": 2}], "type": "float32"}


def test_a_failed_write_leaves_the_target_unchanged(tmp_path):
    (tmp_path / "blocked").mkdir()
    with pytest.raises(StorageError, match=r"blocked: cannot be written"):
        write_file(tmp_path / "blocked", b"x")
    assert (tmp_path / "blocked").is_dir()
    assert not list(tmp_path.rglob("*.tmp"))
