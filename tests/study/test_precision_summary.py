"""Studies with a requested precision of critical sparsity."""

import dataclasses

import numpy as np
import pytest

from sparsedial.curves.curve import make_curve
from sparsedial.study.adaptive_search import MAX_POINTS_FOR_PRECISION, MORE_EXAMPLES_NEEDED, NO_CURVE
from sparsedial.study.curve_progress import CurveKey, SearchEnd
from sparsedial.study.planner import Planner
from sparsedial.study.precision_summary import _describe_curve, describe_precision
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec

COARSE = 49.0
"""A precision, in percentage points, that a search of a few points reaches."""


class Log(NullListener):
    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


@pytest.fixture
def searched(spec):
    return dataclasses.replace(
        spec, sites=("input",), values=None, precision=COARSE, task_options={"sequences": 24, "length": 6}
    )


def test_the_run_says_for_every_site_what_was_reached(searched, tmp_path):
    log = Log()
    both = dataclasses.replace(searched, sites=("input", "intermediate"))
    store = run_study(both, tmp_path, listener=log)
    lines = [line for line in log.lines if "values of p" in line]
    assert [line.split(":")[0].split(", ")[1] for line in lines] == ["input top_p", "intermediate top_p"]
    for line in lines:
        assert "95% interval" in line
    assert len(list(store.trials())) <= 1 + 2 * MAX_POINTS_FOR_PRECISION
    again = Log()
    run_study(both, tmp_path, listener=again)  # nothing is left to run, and the lines are the same
    assert [line for line in again.lines if "values of p" in line] == lines


def test_the_precision_is_no_part_of_a_key(searched, tmp_path):
    store = run_study(searched, tmp_path)
    keys = {record.key for record in store.trials()}
    run_study(dataclasses.replace(searched, precision=None), tmp_path)
    first = {record.key for record in store.trials() if record.p in (0.9, 0.97, 0.8)}
    assert len(first) == 3
    assert first <= keys


def test_without_a_precision_nothing_is_said(searched, tmp_path):
    planner = Planner(dataclasses.replace(searched, precision=None), {}, None, {})
    assert list(describe_precision(planner)) == []


def test_missing_examples_are_counted():
    generator = np.random.default_rng(0)
    dense = (generator.random(200) < 0.8).astype(float)
    points = []
    for sparsity, lost in ((0.1, 0.0), (0.3, 0.02), (0.5, 0.05), (0.7, 0.6)):
        points.append((sparsity, np.where(generator.random(200) < lost, 0.0, dense), 1 - sparsity))
    end = SearchEnd(MORE_EXAMPLES_NEEDED, make_curve(points, dense))
    line = _describe_curve(CurveKey("m", "input", "top_p"), end, 1.5)
    assert line.startswith("m, input top_p: 95% interval 0.0% to ")
    assert MORE_EXAMPLES_NEEDED in line
    assert "up to 200 examples" in line and "examples would be needed" in line


def test_a_site_without_a_curve_is_named():
    line = _describe_curve(CurveKey("m", "input", "top_p"), SearchEnd(NO_CURVE), 1.5)
    assert line == f"m, input top_p: no critical sparsity: {NO_CURVE}"


def test_one_example_has_no_interval():
    end = SearchEnd(MORE_EXAMPLES_NEEDED, make_curve([(0.1, 0.5, 0.9), (0.3, 0.4, 0.8)], dense=0.5))
    line = _describe_curve(CurveKey("m", "input", "top_p"), end, 1.5)
    assert line == (
        "m, input top_p: no interval: at least two examples of each task are needed; raise --sequences or --limit"
    )


@pytest.mark.parametrize("precision", [0.0, 0.015, -1.5, 50.0, float("nan"), float("inf")])
def test_a_precision_out_of_range_is_a_problem(precision):
    (problem,) = StudySpec(models=("zoo:dense-0.4m",), precision=precision).problems("cpu")
    assert problem.startswith(f"precision {precision!r}: expected percentage points, from 0.1 to below 50.")


def test_a_precision_needs_a_search():
    (problem,) = StudySpec(models=("zoo:dense-0.4m",), precision=1.5, values=(0.9,)).problems("cpu")
    assert "cannot be combined with values of p" in problem
