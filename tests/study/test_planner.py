"""Plans of studies whose trials are written by the test."""

import dataclasses

import numpy as np
import pytest

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import TopP
from sparsedial.study.curve_progress import CurveKey
from sparsedial.study.job import FailureRecord, Job, OutcomeKind, ResolvedModel
from sparsedial.study.planner import Planner
from sparsedial.study.records import TrialIdentity
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from tests.support.trial_records import make_record

TASKS = {"made_up": {"task": "made_up"}}
MODEL = ResolvedModel("m", ModelIdentity("0" * 64, "float32"), "f", ("input", "gate"), 1000)
SPEC = StudySpec(models=("m",), tasks=("made_up",), sites=("input",), values=(0.5, 0.9))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path)


def finish(store, rule=None):
    """Write a finished trial, dense or at the site "input"."""
    identity = TrialIdentity(MODEL.identity, TASKS["made_up"])
    if rule is not None:
        identity = dataclasses.replace(identity, site="input", rule=rule, ffns="f")
    store.write_trial(dataclasses.replace(make_record(), identity=identity), np.array([0.5, 0.25, 0.75]))


def test_a_model_is_loaded_first_then_the_dense_trial_is_run_then_the_grid(store):
    planner = Planner(SPEC, TASKS, store, {})
    assert planner.jobs() == [Job("m")]
    planner.resolved_models["m"] = MODEL
    assert planner.jobs() == [Job("m", "made_up")]
    finish(store)
    sparse = [Job("m", "made_up", "input", TopP(0.9)), Job("m", "made_up", "input", TopP(0.5))]
    assert planner.jobs() == sparse
    finish(store, TopP(0.9))
    assert planner.jobs() == sparse[1:]
    trials = planner.count_trials()
    assert (trials.finished, trials.total) == (2, 3)


def test_jobs_of_a_model_that_is_not_loaded_can_be_assumed(store):
    jobs = Planner(SPEC, TASKS, store, {}).jobs(assume_dense=True)
    assert [str(job) for job in jobs] == [
        "m, made_up, dense",
        "m, made_up, input top_p 0.9",
        "m, made_up, input top_p 0.5",
    ]


def test_a_search_adds_one_rule_at_a_time(store):
    planner = Planner(dataclasses.replace(SPEC, values=None), TASKS, store, {"m": MODEL})
    curve = CurveKey("m", "input", "top_p")
    assert planner.curve_progress(curve).rules == ()
    assert planner.curve_progress(curve, assume_dense=True).rules == (TopP(0.9), TopP(0.97), TopP(0.8))
    finish(store)
    assert planner.curve_progress(curve).rules == (TopP(0.9),)
    finish(store, TopP(0.9))
    progress = planner.curve_progress(curve)
    assert progress.rules == (TopP(0.9), TopP(0.97))
    assert progress.pending == [Job("m", "made_up", "input", TopP(0.97))]


@pytest.mark.parametrize(("kind", "attempts"), [(OutcomeKind.INVALID, 1), (OutcomeKind.OUT_OF_MEMORY, 3)])
def test_a_job_is_given_up_after_its_last_attempt(store, kind, attempts):
    planner = Planner(SPEC, TASKS, store, {"m": MODEL})
    job = Job("m", "made_up")
    for _ in range(attempts):
        assert planner.final_failure(job) is None
        store.write_failure(FailureRecord(planner.key(job), kind, "failed", job))
    assert planner.final_failure(job).kind is kind
    assert planner.jobs() == []
