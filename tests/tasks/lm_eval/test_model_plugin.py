"""A sparsified model in lm-eval's own evaluation."""

import copy

import pytest
import torch
from transformers import RobertaConfig, RobertaForCausalLM

import sparsedial as sd
from sparsedial.errors import NonFiniteOutputError, SpecError, TaskError
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
    tasks = [load_task(folder, name) for name in TASKS]
    examples = [task.prepare(lm) for task in tasks]
    with sd.sparsify(lm.model, "input", sd.TopP(0.7)) as sparsifier:
        for name, task, prepared in zip(TASKS, tasks, examples, strict=True):
            scores = task.score(lm, prepared, sparsifier)
            for metric, value in scores.details.items():
                if f"{metric},none" in output["results"][name]:
                    assert output["results"][name][f"{metric},none"] == pytest.approx(value, rel=1e-3)
    report = output["config"]["sparsedial"]
    assert report["sparsity"] == pytest.approx(sparsifier.sparsity(), abs=0.005)
    assert set(report["by_phase"]) == {"prefill", "generation"}
    with pytest.raises(SpecError, match=r"expected a number in \[0, 1\]"):
        SparsedialLM(lm.model, p=1.5, tokenizer=lm.tokenizer)
    with pytest.raises(SpecError, match="not possible inside lm-eval"):
        SparsedialLM(lm.model, rule="threshold", p=0.5, tokenizer=lm.tokenizer)
    with silence_lm_eval(), pytest.raises(TaskError, match="leave --use_cache out"):
        simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager, use_cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sampled_texts_do_not_depend_on_the_batch_size(lm, batch_size):
    with silence_lm_eval():
        from lm_eval.api.instance import Instance

        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        arguments = ("What falls?", {"until": ["@"], "do_sample": True, "temperature": 1.0, "max_gen_toks": 12})
        requests = [Instance("generate_until", {}, arguments, index) for index in range(4)]
        texts = {}
        for size in (batch_size, 4):
            model = SparsedialLM(lm.model, tokenizer=lm.tokenizer, batch_size=size)
            texts[size] = model.generate_until(requests, disable_tqdm=True)
    assert texts[batch_size] == texts[4]
    assert len(set(texts[4])) == 4


def test_nan_names_the_request_and_the_module(lm):
    with silence_lm_eval():
        from lm_eval.api.instance import Instance

        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        broken = copy.deepcopy(lm.model)
        broken.model.layers[0].mlp.down_proj.weight.data[3, 5] = torch.nan
        model = SparsedialLM(broken, tokenizer=lm.tokenizer)
        request = Instance("loglikelihood", {}, ("What falls?", " Rain"), 0, metadata=("tiny_choice", 0, 1))
        with pytest.raises(NonFiniteOutputError, match=r"request 0: .* model.layers.0.mlp.down_proj \(Linear\)"):
            model.loglikelihood([request], disable_tqdm=True)


def test_an_empty_continuation_has_the_log_likelihood_zero_and_changes_no_other(lm):
    with silence_lm_eval():
        from lm_eval.api.instance import Instance

        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        model = SparsedialLM(lm.model, tokenizer=lm.tokenizer)
        pairs = [("What falls?", text) for text in ("", " Rain", " snow")]
        requests = [Instance("loglikelihood", {}, pair, 0, metadata=("tiny_choice", 0, 1)) for pair in pairs]
        answers = model.loglikelihood(requests, disable_tqdm=True)
        others = model.loglikelihood(requests[1:], disable_tqdm=True)
        assert model.loglikelihood(requests[:1], disable_tqdm=True) == [(0.0, True)]
    assert answers == [(0.0, True), *others]


@pytest.mark.parametrize(
    ("context", "continuation", "message"),
    [("  ", "rain", "the context has no token"), ("a", "b" * 200, "the continuation has 200 tokens.*the 128 tokens")],
)
def test_a_request_that_the_model_cannot_score_is_an_error(lm, context, continuation, message):
    with silence_lm_eval():
        from lm_eval.api.instance import Instance

        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        model = SparsedialLM(lm.model, tokenizer=lm.tokenizer)
        request = Instance("loglikelihood", {}, (context, continuation), 0, metadata=("tiny_choice", 0, 1))
        with pytest.raises(TaskError, match=f"request 0 .*{message}"):
            model.loglikelihood([request], disable_tqdm=True)


def test_the_reserved_positions_of_a_model_shorten_what_it_reads_unless_a_length_is_set(lm):
    with silence_lm_eval():
        from sparsedial.tasks.lm_eval.model_plugin import SparsedialLM

        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = RobertaConfig(vocab_size=len(lm.tokenizer), is_decoder=True, max_position_embeddings=20, **sizes)
        roberta = RobertaForCausalLM(config).eval()
        assert SparsedialLM(roberta, tokenizer=lm.tokenizer).max_length == 18
        assert SparsedialLM(roberta, tokenizer=lm.tokenizer, max_length=12).max_length == 12
