"""Plans of studies whose trials are written by the test."""

import dataclasses

import numpy as np
import pytest

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import TopP
from sparsedial.study.adaptive_search import MAX_POINTS, MAX_POINTS_FOR_PRECISION, MORE_EXAMPLES_NEEDED
from sparsedial.study.curve_progress import CurveKey
from sparsedial.study.job import FailureRecord, Job, OutcomeKind, ResolvedModel
from sparsedial.study.planner import Planner
from sparsedial.study.records import TaskLabel, TrialIdentity
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.task_plan import TaskPlan
from sparsedial.tasks.example_blocks import ExampleBlock
from tests.support.trial_records import make_record

TASKS = {"made_up": TaskPlan(({"task": "made_up"},), 1)}
MODEL = ResolvedModel("m", ModelIdentity("0" * 64, "float32"), "f", ("input", "gate"), 1000)
SPEC = StudySpec(models=("m",), tasks=("made_up",), sites=("input",), values=(0.5, 0.9))


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path)


def finish(store, rule=None):
    """Write a finished trial, dense or at the site "input"."""
    identity = TrialIdentity(MODEL.identity, {"task": "made_up"})
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
    assert planner.curve_progress(curve).points == {}
    assert tuple(planner.curve_progress(curve, assume_dense=True).points) == (TopP(0.9), TopP(0.97), TopP(0.8))
    finish(store)
    assert tuple(planner.curve_progress(curve).points) == (TopP(0.9),)
    finish(store, TopP(0.9))
    progress = planner.curve_progress(curve)
    assert tuple(progress.points) == (TopP(0.9), TopP(0.97))
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


def finish_task(store, task, rule, scores, identity=None, **result):
    """Write a finished trial of a task with these scores."""
    identity = TrialIdentity(MODEL.identity, identity or {"task": task})
    if rule is not None:
        identity = dataclasses.replace(identity, site="input", rule=rule, ffns="f")
    record = dataclasses.replace(make_record(score=float(np.mean(scores))), task=TaskLabel(task))
    dropped = 0 if rule is None else round(1000 * (1 - rule.p))
    fields = {"examples": len(scores), "dropped": dropped, "total": 1000, **result}
    changed = dataclasses.replace(record.result, **fields)
    store.write_trial(dataclasses.replace(record, identity=identity, result=changed), np.asarray(scores, dtype=float))


def search_values(store, tasks, scores_at, precision=None, **results):
    """Run a search whose trials are written here. Return the values of p, in order."""
    spec = dataclasses.replace(SPEC, tasks=tasks, values=None, precision=precision)
    planner = Planner(spec, {task: TaskPlan(({"task": task},), 1) for task in tasks}, store, {"m": MODEL})
    values = []
    for _ in range(50):
        jobs = planner.jobs()
        if not jobs:
            return values
        for job in jobs:
            p = 1.0 if job.rule is None else job.rule.p
            finish_task(store, job.task, job.rule, scores_at(job.task, p), **results.get(job.task, {}))
            if job.rule is not None and p not in values:
                values.append(p)
    raise AssertionError("the search does not end")


RIGHT = np.repeat([1.0, 0.0], [160, 40])


def falling(task, p):
    """90 of 100 right answers are kept at p = 0.8, and all above 0.9."""
    scores = RIGHT.copy()
    scores[: max(0, round(160 * (0.9 - p)))] = 0.0
    return scores


def test_a_requested_precision_allows_more_values(tmp_path):
    scores = np.random.default_rng(0).normal(0.5, 0.1, 200)

    def smooth(task, p):
        return scores - (1 - p) ** 2 * np.random.default_rng(round(1e4 * p)).normal(0.4, 1.0, 200)

    usual = search_values(Store.create(tmp_path / "usual"), ("falls",), smooth)
    precise = search_values(Store.create(tmp_path / "precise"), ("falls",), smooth, precision=0.01)
    assert len(usual) <= MAX_POINTS < len(precise) <= MAX_POINTS_FOR_PRECISION


def test_the_search_follows_the_tasks_that_have_something_to_retain(store, tmp_path):
    alone = search_values(store, ("falls",), falling)

    def with_chance(task, p):
        return falling(task, p) if task == "falls" else np.repeat([1.0, 0.0], [50, 150])

    both = search_values(Store.create(tmp_path / "both"), ("falls", "guess"), with_chance, guess={"chance": 0.25})
    assert both == alone


def test_the_search_does_not_depend_on_the_unit_of_a_score(store, tmp_path):
    def kept(task, p):
        return falling(task, p) if task == "falls" else RIGHT

    def percent(task, p):
        return falling(task, p) if task == "falls" else 100.0 * RIGHT

    quality = {"quality": {"metric": "quality", "higher_is_better": True}}
    expected = search_values(store, ("falls", "quality"), kept, **quality)
    assert search_values(Store.create(tmp_path / "p"), ("falls", "quality"), percent, **quality) == expected


@pytest.mark.parametrize("result", [{"metric": "loss"}, {"metric": "logprob", "higher_is_better": True}])
def test_scores_that_cannot_be_compared_are_not_searched(store, result):
    scores = -RIGHT if result["metric"] == "logprob" else RIGHT
    assert search_values(store, ("made_up",), lambda task, p: scores, made_up=result) == []


def test_a_search_whose_sparse_scores_cannot_be_compared_ends(store):
    def negative(task, p):
        return RIGHT if p == 1.0 else -RIGHT

    assert len(search_values(store, ("made_up",), negative)) == 1


def test_a_task_that_does_not_lead_gets_no_more_examples(tmp_path):
    """The task with data leads, and it has no further examples. Self-prediction could have more."""
    scores = np.random.default_rng(0).normal(0.5, 0.1, 64)

    def noisy(task, p):
        return scores - (1 - p) ** 2 * np.random.default_rng(round(1e4 * p)).normal(0.4, 1.0, 64)

    plans = {
        "falls": TaskPlan(({"task": "falls"},), 1),
        "self_prediction": TaskPlan(
            ({"task": "self_prediction", "examples": [0, 64]}, {"task": "self_prediction", "examples": [64, 128]}), 1
        ),
    }
    spec = dataclasses.replace(SPEC, tasks=tuple(plans), values=None, precision=0.5)
    planner = Planner(spec, plans, Store.create(tmp_path), {"m": MODEL})
    while jobs := planner.jobs():
        for job in jobs:
            assert job.block != ExampleBlock(64, 128)
            p = 1.0 if job.rule is None else job.rule.p
            identity = planner.tasks[job.task].identity(job.block)
            finish_task(planner.store, job.task, job.rule, noisy(job.task, p), identity=identity)
    curve = CurveKey("m", "input", "top_p")
    assert planner.curve_progress(curve).end.reason == MORE_EXAMPLES_NEEDED
