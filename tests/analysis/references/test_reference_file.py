"""Reference files are read strictly, and one message lists every problem."""

import json

import pytest

from sparsedial.analysis.references.loading import load_reference
from sparsedial.errors import SpecError
from tests.support.references import FILE, write_reference


def test_a_file_is_read_as_it_is_written(tmp_path):
    reference = load_reference(str(write_reference(tmp_path / "theirs.json")))
    assert (reference.name, reference.retain) == ("theirs", 0.99)
    assert [(value.site, value.value, value.is_exact) for value in reference.values] == [
        ("input", 0.2, True),
        ("intermediate", 0.4, False),
    ]
    assert reference.models[0].matches == ("fam-100m",)


def change_value(**changes):
    """Return the values of the file, the first of them changed."""
    return {"values": [FILE["values"][0] | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2; expected format 'sparsedial-reference', version 1"),
        ({"format": "other"}, "format 'other'"),
        ({"valeus": []}, "unknown key 'valeus', perhaps 'values'"),
        ({"retain": 99}, r"retain: expected a share in \(0, 1\], got 99"),
        ({"values": []}, "expected at least one value"),
        ({"models": FILE["models"] * 2}, "'Fam 100M' is listed 2 times"),
        (change_value(value=20), "values.0.: value: expected a fraction from 0 to 1, got 20"),
        (change_value(value="0.2"), "expected a number, got text '0.2'"),
        (change_value(site="inptu"), "unknown site 'inptu'.*did you mean 'input'"),
        (change_value(quantity="speed"), "unknown quantity 'speed'"),
        (change_value(model="Fam 1B"), "model 'Fam 1B' is not among the models: Fam 100M"),
        (change_value(task=None), "needs a site and a task"),
        (change_value(value=None), "expected a value, or both low and high"),
        (change_value(low=0.3), "expected low ≤ value ≤ high"),
        ({"values": [FILE["values"][0]] * 2}, "values.1.: a second value for the same model, site and task"),
    ],
)
def test_malformed_files_are_errors_that_say_where(tmp_path, changes, message):
    with pytest.raises(SpecError, match=message) as error:
        load_reference(str(write_reference(tmp_path / "theirs.json", **changes)))
    assert "theirs.json" in str(error.value)


def test_one_message_lists_all_problems(tmp_path):
    values = [FILE["values"][0] | {"value": 20}, FILE["values"][1] | {"site": "x"}]
    with pytest.raises(SpecError, match="2 problems") as error:
        load_reference(str(write_reference(tmp_path / "theirs.json", values=values)))
    assert "values[0]" in str(error.value) and "values[1]" in str(error.value)


@pytest.mark.parametrize("text", ["{", "[1]", "3", json.dumps({"critical": []}), "[" * 5000])
def test_other_json_files_are_errors(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"x\.json: (not JSON|neither a results\.json)"):
        load_reference(str(path))
