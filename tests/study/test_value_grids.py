"""The named grid is that of the paper, and it works wherever values are given."""

import numpy as np
import pytest

import sparsedial as sd
from sparsedial.cli.parsing import parse_values
from sparsedial.study.spec import StudySpec
from sparsedial.study.value_grids import VALUE_GRIDS, find_value_grid


def test_the_grid_of_the_paper_becomes_coarser_towards_high_sparsity():
    values = np.array(find_value_grid("paper"))
    assert len(values) == 26
    assert values[0] == 1.0 and values[-1] == 0.0
    steps = -np.diff(values).round(6)
    assert (steps > 0).all() and (np.diff(steps) >= -1e-9).all()
    assert set(steps) == {0.005, 0.01, 0.05, 0.1}


def test_the_name_stands_for_the_values_in_a_study_and_on_the_command_line():
    spec = StudySpec.from_json({"models": ["m"], "values": "paper"})
    assert spec.values == VALUE_GRIDS["paper"]
    assert StudySpec.from_json(spec.to_json()) == spec
    assert parse_values(["paper"], "--p", []) == spec.values


def test_an_unknown_name_is_refused(llama):
    with pytest.raises(sd.SparsedialError, match=r"unknown grid of values 'papr'.*did you mean 'paper'"):
        StudySpec.from_json({"models": ["m"], "values": "papr"})
    problems = []
    parse_values(["papr"], "--p", problems)
    assert problems and "'papr'" in problems[0]
    with pytest.raises(sd.SparsedialError, match="unknown grid of values 'papr'"):
        sd.measure(llama, p="papr", progress=False)
