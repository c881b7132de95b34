"""Tasks created from their names and options."""

import pytest

from sparsedial.errors import SpecError
from sparsedial.inference.denoising_config import LOW_CONFIDENCE, RANDOM, DenoisingConfig
from sparsedial.tasks.denoising_replay import DenoisingReplay
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.registry import is_data_free, make_tasks
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.spec import TaskSpec
from tests.support.tasks import make_task

BUILTIN_NAMES = ["masked_token", "denoising", "self_prediction", "restoration", "next_token"]


def make_builtin_tasks(**shared_options):
    return make_tasks([TaskSpec(name) for name in BUILTIN_NAMES], shared_options)


def test_shared_options_apply_to_the_tasks_that_have_them():
    options = {"length": 8, "batch": 2, "limit": 3, "seed": 5, "fraction": 0.25, "diffusion_steps": 4, "reuse_mask": 2}
    assert make_builtin_tasks(**options) == [
        SelfPrediction(length=8, batch=2, seed=5),
        Restoration(length=8, batch=2, seed=5, fraction=0.25, diffusion_steps=4),
        DenoisingReplay(length=8, batch=2, seed=5, config=DenoisingConfig(4, None, RANDOM, 1.0), reuse_mask=2),
        NextToken(length=8, batch=2, limit=3),
        MaskedToken(length=8, batch=2, limit=3, seed=5, fraction=0.25),
    ]


def test_none_stands_for_the_default():
    assert make_builtin_tasks(seed=None, limit=None, remasking=None, temperature=0.0) == make_builtin_tasks()


def test_options_of_a_task_override_the_shared_ones():
    specs = [TaskSpec("self_prediction", {"length": 4}), TaskSpec("restoration")]
    assert [task.length for task in make_tasks(specs, {"length": 8})] == [4, 8]


def test_diffusion_options_of_denoising_are_its_own():
    task = make_task("denoising", remasking=LOW_CONFIDENCE, temperature=0.5, guidance=2.0, block_length=48)
    assert task.config == DenoisingConfig(None, 48, LOW_CONFIDENCE, 0.5, 2.0)


def test_all_problems_are_reported_at_once():
    specs = [
        TaskSpec("self_prediction", {"lengths": 3, "batch": 0}),
        TaskSpec("next_token", {"limit": "many"}),
        TaskSpec("restoration", {"fraction": 2}),
    ]
    with pytest.raises(SpecError) as error:
        make_tasks(specs, {"sequence": 3, "reuse_mask": 2})
    lines = str(error.value).splitlines()
    for line, fact in zip(
        lines,
        [
            "unknown task option 'sequence': did you mean 'sequences'?",
            "unknown task option 'reuse_mask'. The tasks have the options sequences, length, seed, batch",
            "task 'self_prediction': unknown option 'lengths': did you mean 'length'?",
            "limit: expected a whole number, got text 'many'",
            "restoration: fraction 2.0: expected a number above 0 and at most 1",
        ],
        strict=True,
    ):
        assert fact in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "acc"}, "metrics: expected keys and values, got text 'acc'"),
        ({"metrics": {"piqa": 3}}, "metrics.piqa: expected text, got 3"),
        ({"apply_chat_template": 1}, "apply_chat_template: expected true or false, or 'auto', 'on' or 'off', got 1"),
        ({"apply_chat_template": "maybe"}, "apply_chat_template: .*'auto', 'on' or 'off', got text 'maybe'"),
        ({"max_gen_toks": 0}, "max_gen_toks=0: expected at least 1"),
        ({"max_gen_toks": "many"}, "max_gen_toks: expected a whole number, got text 'many'"),
        ({"temperature": "warm"}, "temperature: expected a number, got text 'warm'"),
        ({"limit": True}, "limit: expected a whole number, got True"),
        ({"limit": 1.5}, "limit: expected a whole number, got 1.5"),
        ({"mc_samples": 0}, "mc_samples 0: expected at least 1"),
        ({"reuse_mask": 0}, "reuse_mask 0: expected at least 1"),
        ({"limit": 0, "num_fewshot": -1}, "limit=0: expected at least 1\nnum_fewshot=-1: expected at least 0"),
        ({"include_path": "nowhere"}, "include_path 'nowhere': no such folder"),
    ],
)
def test_options_of_lm_evals_tasks_are_checked_before_they_are_loaded(options, message):
    with pytest.raises(SpecError, match=message):
        make_task("arc_easy", **options)


def test_a_task_is_named_once():
    assert len(make_tasks([TaskSpec("self_prediction"), TaskSpec("self_prediction")])) == 1
    with pytest.raises(SpecError, match="'self_prediction' is named twice with different options"):
        make_tasks([TaskSpec("self_prediction"), TaskSpec("self_prediction", {"length": 4})])


def test_tasks_whose_examples_the_model_samples_are_data_free():
    names = [name for name in [*BUILTIN_NAMES, "arc_easy"] if is_data_free(name)]
    assert names == ["denoising", "self_prediction", "restoration"]


@pytest.mark.parametrize("data", [3, None, {"limit": 3}, {"name": 3}, ["arc_easy"]])
def test_a_task_needs_a_name(data):
    with pytest.raises(SpecError, match="expected a name"):
        TaskSpec.from_json(data)


@pytest.mark.parametrize("data", ["arc_easy", {"name": "arc_easy", "limit": 3, "metrics": {"arc_easy": "acc"}}])
def test_a_spec_survives_a_round_trip_through_json(data):
    assert TaskSpec.from_json(data).to_json() == data


def test_metrics_by_task_apply_to_built_in_tasks_that_have_a_choice():
    specs = [TaskSpec("self_prediction"), TaskSpec("denoising", {"metric": "agreement"}), TaskSpec("masked_token")]
    metrics = {"self_prediction": "agreement", "denoising": "expected_agreement"}
    tasks = make_tasks(specs, {"metrics": metrics})
    assert [getattr(task, "metric", None) for task in tasks] == ["agreement", "agreement", None]
    with pytest.raises(
        SpecError, match=r"task 'masked_token': it has no choice of metrics. Leave out the metric 'acc'"
    ):
        make_tasks(specs, {"metrics": {"masked_token": "acc"}})
    with pytest.raises(
        SpecError, match="a metric is given for 'piqa', which is not among the tasks self_prediction, den"
    ):
        make_tasks(specs, {"metrics": {"piqa": "acc"}})
    with pytest.raises(SpecError, match="self_prediction: metric='hits': expected expected_agreement or agreement"):
        make_tasks(specs, {"metrics": {"self_prediction": "hits"}})
