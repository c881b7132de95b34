"""lm-eval's tasks answered by a diffusion model: every kind of request, by likelihood or by denoising."""

import json

import numpy as np
import pytest
import torch
import yaml

import sparsedial as sd
from sparsedial.diffusion.likelihood import monte_carlo
from sparsedial.diffusion.sampler import Denoising, fill_in
from sparsedial.errors import SpecError, TaskError
from sparsedial.models import load_model
from sparsedial.sources import find_model
from sparsedial.tasks import TaskOptions, make_tasks
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.generation import Prompt
from sparsedial.tasks.requests import quietly

DOCS = [
    {"question": "The lighthouse keeper climbed the", "options": ["stairs", "the of and", "purple"], "gold": 0},
    {"question": "A dog likes to", "options": ["run", "running is very much of a thing"], "gold": 0},
    {"question": "One, two,", "options": ["three", "the"], "gold": 0},
]
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS = {
    "drawn_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "gold",
        "doc_to_choice": "{{options}}",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "drawn_last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{options[gold]}}",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "drawn_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}],
    },
    "drawn_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{options[gold]}}",
        "generation_kwargs": {"until": ["."], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
}


@pytest.fixture(scope="module")
def lm():
    return load_model(find_model("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCS))
    kwargs = {"data_files": {"test": str(folder / "data.jsonl")}, "cache_dir": str(folder / "cache")}
    common = {"dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test", "metadata": {"version": 1.0}}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))
    return folder


def the_task(folder, name, **options):
    [task] = make_tasks([name], TaskOptions(include_path=str(folder), **{"mc_samples": 8, **options}))
    return task


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_task_runs_dense_and_sparse(folder, lm, name):
    task = the_task(folder, name)
    examples = json.loads(json.dumps(task.prepare(lm)))
    dense = task.score(lm, examples)
    assert len(dense.values) == len(DOCS)
    assert np.array_equal(task.score(lm, examples).values, dense.values)  # the same masks
    for p in (1.0, 0.6):
        with sd.sparsify(lm.model, "all_inputs", sd.TopP(p)) as dial:
            sparse = task.score(lm, examples, dial)
        if p == 1.0:
            assert np.array_equal(sparse.values, dense.values)
            assert {name: sparse.details[name] for name in dense.details} == dict(dense.details)
        table = dial.stats()
        assert table["step"].notna().any() == (name in ("drawn_write", "drawn_last"))  # rolling and choice: no steps
        assert (sparse.steps is not None) == (name in ("drawn_write", "drawn_last"))


def test_a_choice_is_answered_by_monte_carlo(folder, lm):
    task = the_task(folder, "drawn_choice", guidance=0.5)
    examples = task.prepare(lm)
    answers = [a[0] for a in task.answers(lm, examples)[0]]
    pairs = [(examples["contexts"][c], w) for r in examples["requests"] for c, w in r["windows"]]
    expected = monte_carlo(lm.model, pairs, 1, samples=8, seed=task.seed, guidance=0.5)
    np.testing.assert_allclose([likely for likely, _ in answers], expected, rtol=1e-6)
    assert not any(greedy for _, greedy in answers)  # no such task asks for it, and it costs a forward a token


def test_a_task_that_asks_whether_it_is_greedy_is_told(folder, lm):
    task = the_task(folder, "drawn_last")
    examples = task.prepare(lm)
    request = examples["requests"][0]
    context = examples["contexts"][request["windows"][0][0]]
    own = fill_in(lm.model, torch.tensor([context]), 1, 1, Denoising(), [0]).tokens[0, -1:].tolist()
    request["windows"][0][1] = own
    answers = [a[0] for a in task.answers(lm, examples)[0]]
    assert answers[0][1] is True


def test_windows_too_long_lose_their_beginning(lm):
    long = list(range(2, 300))
    from sparsedial.tasks.packing import Window

    [[cut]] = DiffusionAnswers(mc_samples=4).loglikelihoods(lm, [[Window(long, [5, 6])]], max_length=256)
    assert cut[0] == pytest.approx(monte_carlo(lm.model, [(long[-254:], [5, 6])], 1, samples=4)[0])


def test_a_text_ends_at_the_end_token_or_the_limit(lm, monkeypatch):
    from sparsedial.tasks import denoised

    rows = iter([[5, 6, 0, 7], [5, 6, 7, 8], lm.tokenizer(" up. The")["input_ids"]])

    def filled(model, tokens, limit, mask, how, seeds, dial=None):
        row = next(rows)
        return type("Filled", (), {"tokens": torch.cat([tokens, torch.tensor([row])], 1)})

    monkeypatch.setattr(denoised, "fill_in", filled)
    prompts = [Prompt([3] * n, (".",), 4) for n in (4, 3, 2)]
    made = DiffusionAnswers().generate(lm, prompts)
    assert [(len(m.tokens), m.stopped) for m in made] == [(3, True), (4, False), (len(made[2].tokens), True)]
    assert made[0].tokens == [5, 6, 0]


def test_an_exception_during_generation_is_never_an_answer(folder, lm, monkeypatch):
    task = the_task(folder, "drawn_write")
    examples = task.prepare(lm)

    def broken(*_args, **_kwargs):
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(lm.model, "forward", broken)
    with pytest.raises(RuntimeError, match="out of memory, say"):
        task.score(lm, examples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 5}, "block length 5 does not divide 12 tokens"),
        ({"diffusion_steps": 24}, "24 denoising steps for 12 tokens"),
    ],
)
def test_a_schedule_that_does_not_fit_the_task_is_refused_first(folder, lm, options, message):
    with pytest.raises(SpecError, match=message):
        the_task(folder, "drawn_write", **options).prepare(lm)


def test_sampling_options_that_denoising_does_not_know_are_refused(lm):
    prompt = Prompt([5, 6], (), 4, {"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    with pytest.raises(TaskError, match="generation options top_p"):
        DiffusionAnswers().generate(lm, [prompt])


def test_the_answers_ways_are_part_of_the_tasks_identity(folder):
    plain, other = (the_task(folder, "drawn_choice", mc_samples=n).identity() for n in (128, 64))
    assert "diffusion" not in plain  # the defaults: identities of causal models' trials are what they were
    assert other["diffusion"]["mc_samples"] == 64


@pytest.mark.parametrize("name", ["drawn_choice", "drawn_last", "drawn_write"])
def test_lm_evals_own_command_line_gives_the_same(folder, lm, name):
    with quietly():
        import lm_eval
        from lm_eval.tasks import TaskManager

        import sparsedial.tasks.plugin  # noqa: F401  # registers the model with lm-eval

        found = lm_eval.simple_evaluate(
            model="sparsedial",
            model_args="pretrained=zoo:diffusion-1.3m,dtype=float32,site=input,p=0.9,mc_samples=8",
            tasks=[name],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            device="cpu",
        )
    task = the_task(folder, name)
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as dial:
        scores = task.score(lm, task.prepare(lm), dial)
    assert found["results"][name][f"{task.metric.name},{task.metric.filter}"] == pytest.approx(scores.mean)
    assert found["config"]["sparsedial"]["sparsity"] == pytest.approx(dial.sparsity(), abs=0.01)
