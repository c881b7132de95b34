"""A sparsified model in lm-eval's own evaluation."""

import pytest

import sparsedial as sd
from sparsedial.errors import SpecError, TaskError
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from tests.support.lm_eval_tasks import TASKS, load_task


def test_scores_and_sparsity_are_those_of_our_tasks(folder, lm, tmp_path):
    with silence_lm_eval():
        from lm_eval import simple_evaluate
        from lm_eval.api.registry import get_model
        from lm_eval.tasks import TaskManager

        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        assert get_model("sparsedial") is SparsedialLM
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        model = SparsedialLM(lm.model, site="input", p=0.7, tokenizer=lm.tokenizer, batch_size=3)
        output = simple_evaluate(model, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)
    with sd.sparsify(lm.model, "input", sd.TopP(0.7)) as sparsifier:
        for name in TASKS:
            task = load_task(folder, name)
            scores = task.score(lm, task.prepare(lm), sparsifier)
            for metric, value in scores.details.items():
                if f"{metric},none" in output["results"][name]:
                    assert output["results"][name][f"{metric},none"] == pytest.approx(value, rel=1e-3)
    report = output["config"]["sparsedial"]
    assert report["sparsity"] == pytest.approx(sparsifier.sparsity(), abs=0.005)
    assert set(report["by_phase"]) == {"prefill", "generation"}
    with pytest.raises(SpecError, match=r"expected a number in \[0, 1\]"):
        SparsedialLM(lm.model, p=1.5, tokenizer=lm.tokenizer)
    with silence_lm_eval(), pytest.raises(TaskError, match="leave --use_cache out"):
        simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager, use_cache=str(tmp_path / "cache"))
