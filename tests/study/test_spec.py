"""Declaring a study: YAML in, every problem at once out."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedial.errors import SpecError
from sparsedial.study.spec import StudySpec
from sparsedial.tasks import TaskOptions

NAMES = st.lists(st.text(min_size=1, max_size=8), max_size=3).map(tuple)
SPECS = st.builds(
    StudySpec,
    models=NAMES,
    sites=st.none() | NAMES,
    rules=NAMES,
    tasks=NAMES,
    options=st.builds(TaskOptions, limit=st.none() | st.integers(0, 9), metrics=st.none() | st.just({"a": "acc"})),
    values=st.none() | st.lists(st.floats(0, 1), max_size=3).map(tuple),
    layers=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    tolerance=st.floats(0, 1),
    trust_remote_code=st.booleans(),
)


@given(SPECS)
def test_json_and_back(spec):
    assert StudySpec.from_json(spec.to_json()) == spec


def test_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "models: [one, org/two]\nsites: [input]\nrules: [top_p, top_k]\ntasks: [self_prediction, piqa]\n"
        "values: [1, 0.9]\nlayers: [0, 2]\noptions:\n  limit: 30\n  include_path: tasks\n  metrics: {piqa: acc_norm}\n"
    )
    spec = StudySpec.from_yaml(path)
    assert spec.models == ("one", "org/two")
    assert spec.rules == ("top_p", "top_k")
    assert spec.values == (1.0, 0.9)
    assert isinstance(spec.values[0], float)  # 1 and 1.0 are one trial
    assert spec.options == TaskOptions(limit=30, include_path="tasks", metrics={"piqa": "acc_norm"})


def test_everything_wrong_with_a_file_is_said_at_once(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "model: one\nsites: input\nvalues: [0.9, 1e-2, true]\ntolerance: narrow\nlayers: [1.5]\n"
        "options: {limits: 3, batch: many, metrics: acc}\ntrust_remote_code: 1\n"
    )
    with pytest.raises(SpecError) as error:
        StudySpec.from_yaml(path)
    for line in (
        "unknown key 'model', perhaps 'models'; there are models, sites",
        "models is missing",
        "sites: expected a list, got text 'input'",
        "values[1]: expected a number, got text '1e-2'",
        "values[2]: expected a number, got True",
        "tolerance: expected a number, got text 'narrow'",
        "layers[0]: expected a whole number, got 1.5",
        "options: unknown key 'limits', perhaps 'limit'",
        "options: batch: expected a whole number, got text 'many'",
        "options: metrics: expected keys and values, got text 'acc'",
        "trust_remote_code: expected true or false, got 1",
    ):
        assert line in str(error.value), line
    assert "11 problems" in str(error.value)


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "got nothing"), ("- a", "got a list"), ("a: [", "not YAML"), ("version: 3\nmodels: [m]", "newer"),
     ("!!python/object/apply:os.system ['true']", "not YAML")],
)  # fmt: skip
def test_files_that_are_no_study(tmp_path, text, word):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=word):
        StudySpec.from_yaml(path)
    with pytest.raises(SpecError, match="No such file"):
        StudySpec.from_yaml(tmp_path / "nowhere.yaml")


def test_the_command_that_asks_for_it():
    spec = StudySpec(models=("m",), rules=("top_k",), values=(0.5,))
    assert spec.command() == ["sparsedial", "run", "m", "--rule", "top_k", "--p", "0.5"]
    assert dataclasses.replace(spec, models=("m", "n")).command() == ["sparsedial", "study", "study.json"]
