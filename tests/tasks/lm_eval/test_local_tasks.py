"""The same checks on a real model and real examples, where a folder of shared tasks exists beside the repository."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sparsedial as sd
from sparsedial.hooks.module_patch import InputPatch
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.lm_eval.encoder import seed_random_generators, silence_lm_eval
from sparsedial.tasks.lm_eval.generation_options import GenerationOptions
from tests.support.lm_eval_tasks import load_tasks, make_hflm

REPOSITORY = Path(__file__).parents[3]
FOLDER = REPOSITORY.parent / "shared" / "tasks"
NAMES = ["arc_easy_local", "piqa_local", "winogrande_local", "lambada_local"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no shared tasks: {FOLDER} is absent; the project ships no data"),
]


@pytest.fixture(scope="module")
def lm():
    return load_language_model(resolve_source("smollm2-135m"), device="cpu", dtype="float32")


@pytest.fixture
def tasks(monkeypatch):
    monkeypatch.chdir(REPOSITORY)  # the paths of their data files are relative to it
    return load_tasks(NAMES, FOLDER, limit=6)


def test_answers_are_those_of_lm_evals_own_model(lm, tasks):
    model = make_hflm(lm, batch_size=4)
    for task in tasks:
        examples = task.prepare(lm)
        with silence_lm_eval():
            task.lm_eval_task.build_all_requests(limit=task.settings.limit)
            expected = model.loglikelihood(task.lm_eval_task.instances, disable_tqdm=True)
        actual = [responses[0] for responses in task.answer(lm, examples).responses]
        np.testing.assert_allclose(
            [loglikelihood for loglikelihood, _ in actual],
            [loglikelihood for loglikelihood, _ in expected],
            rtol=1e-4,
            atol=2e-3,
        )
        assert [greedy for _, greedy in actual] == [greedy for _, greedy in expected]
        judged = task.judge(examples, [[response] for response in expected])
        assert np.array_equal(task.score(lm, examples).values, judged.values)


def test_kept_sets_follow_the_papers_definition(lm, tasks):
    """Check top-p, section 3: the fewest entries, largest first, whose L1 norm reaches p of the whole."""
    before = []
    after = []
    module = lm.model.model.layers[7].mlp
    examples = tasks[0].prepare(lm)
    for site, projection in (("input", module.up_proj), ("intermediate", module.down_proj)):
        hook = projection.register_forward_pre_hook(lambda _, args: before.append(args[0]))
        patch = InputPatch(projection, lambda x: after.append(x) or x)  # entered first, so it sees the sparsified input
        with sd.sparsify(lm.model, site, sd.TopP(0.9)) as sparsifier:
            before.clear()
            after.clear()
            tasks[0].score(lm, examples, sparsifier)
        hook.remove()
        patch.remove()
        x = torch.cat([tensor.flatten(0, 1) for tensor in before]).double().numpy()
        y = torch.cat([tensor.flatten(0, 1) for tensor in after]).double().numpy()
        order = np.argsort(-np.abs(x), axis=1, kind="stable")
        mass = np.take_along_axis(np.abs(x), order, 1).cumsum(1)
        fewest = (mass >= 0.9 * mass[:, -1:]).argmax(1) + 1
        assert np.array_equal((y != 0).sum(1), fewest)
        kept = np.zeros_like(x, dtype=bool)
        np.put_along_axis(kept, order, np.arange(x.shape[1])[None] < fewest[:, None], 1)
        assert np.array_equal(y != 0, kept)


@pytest.mark.parametrize("apply_chat_template", [False, True])
def test_generated_texts_are_those_of_lm_evals_own_model(lm, monkeypatch, apply_chat_template):
    monkeypatch.chdir(REPOSITORY)
    options = GenerationOptions(max_gen_toks=32)
    tasks = load_tasks(
        ["gsm8k_local", "triviaqa_local"], FOLDER, limit=3, num_fewshot=1, generation=options,
        apply_chat_template=apply_chat_template,
    )  # fmt: skip
    model = make_hflm(lm, batch_size=1)
    chat = {}
    if apply_chat_template:
        chat = {"apply_chat_template": True, "chat_template": model.apply_chat_template, "fewshot_as_multiturn": True}
    for task in tasks:
        examples = task.prepare(lm)
        with silence_lm_eval(), seed_random_generators():
            task.lm_eval_task.set_fewshot_seed(seed=task.settings.seed)
            task.lm_eval_task.build_all_requests(limit=3, **chat)
            instances = task.lm_eval_task.instances
            for instance in instances:
                instance.arguments[1]["max_gen_toks"] = 32
            expected = model.generate_until(instances, disable_tqdm=True)
        assert [responses[0] for responses in task.answer(lm, examples).responses] == expected
