"""The same on a real model and real examples, where the shared tasks are at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.models import load_model
from sparsedial.reading import Reading
from sparsedial.sources import find_model
from sparsedial.tasks.catalogue import lm_eval_tasks
from sparsedial.tasks.requests import quietly

FOLDER = Path(__file__).parents[3] / "shared" / "tasks"
NAMES = ["arc_easy_local", "piqa_local", "winogrande_local", "lambada_local"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no shared tasks: {FOLDER} is absent; the project ships no data"),
]


@pytest.fixture(scope="module")
def lm():
    return load_model(find_model("smollm2-135m"), device="cpu", dtype="float32")


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # their data files are named from here
    return lm_eval_tasks(NAMES, include_path=FOLDER, limit=6)


def test_answers_are_those_of_lm_evals_own_model(lm, tasks):
    with quietly():
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=4)
    for task in tasks:
        examples = task.prepare(lm)
        with quietly():
            task.task.build_all_requests(limit=task.limit)
            theirs = model.loglikelihood(task.task.instances, disable_tqdm=True)
        ours = [a[0] for a in task.answers(lm, examples)[0]]
        np.testing.assert_allclose([a[0] for a in ours], [a[0] for a in theirs], rtol=1e-4, atol=2e-3)
        assert [a[1] for a in ours] == [a[1] for a in theirs]
        assert np.array_equal(task.score(lm, examples).values, task.judge(examples, [[a] for a in theirs]).values)


def test_kept_sets_are_the_papers(lm, tasks):
    """top-p, section 3: the fewest entries, largest first, whose L1 norm reaches p of the whole."""
    before, after = [], []
    module = lm.model.model.layers[7].mlp
    examples = tasks[0].prepare(lm)
    for vector, projection in (("input", module.up_proj), ("intermediate", module.down_proj)):
        given = projection.register_forward_pre_hook(lambda _, args: before.append(args[0]))
        read = Reading(projection, lambda x: after.append(x) or x)  # put there first, it reads what the dial leaves
        with sd.sparsify(lm.model, vector, sd.TopP(0.9)) as dial:
            before.clear()
            after.clear()
            tasks[0].score(lm, examples, dial)
        given.remove()
        read.remove()
        x, y = (torch.cat([t.flatten(0, 1) for t in seen]).double().numpy() for seen in (before, after))
        order = np.argsort(-np.abs(x), axis=1, kind="stable")
        mass = np.take_along_axis(np.abs(x), order, 1).cumsum(1)
        fewest = (mass >= 0.9 * mass[:, -1:]).argmax(1) + 1
        assert np.array_equal((y != 0).sum(1), fewest)
        kept = np.zeros_like(x, dtype=bool)
        np.put_along_axis(kept, order, np.arange(x.shape[1])[None] < fewest[:, None], 1)
        assert np.array_equal(y != 0, kept)
