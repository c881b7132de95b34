"""lm-eval's tasks: its numbers exactly, counted honestly, and its mistakes told before a model is loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import sparsedial as sd
from sparsedial.errors import TaskError
from sparsedial.models import LanguageModel
from sparsedial.reading import Reading
from sparsedial.sources import Source
from sparsedial.tasks import TaskOptions, catalogue, make_tasks
from sparsedial.tasks.base import Group
from sparsedial.tasks.catalogue import lm_eval_tasks
from sparsedial.tasks.generation import Prompt, generate
from sparsedial.tasks.loglikelihood import NO_LIMIT, loglikelihoods, sharing
from sparsedial.tasks.metrics import STRICT, Metric, choose, values
from sparsedial.tasks.packing import Window, batches, plant
from sparsedial.tasks.requests import quietly

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:?!\n'-"
DOCS = [
    {"question": "What falls?", "options": ["rain", "rainbows", "a stone", "rail"], "gold": 0},
    {"question": "Who sings at night, when all of the others sleep?", "options": ["owl", "cat"], "gold": 1},
    {"question": "x", "options": ["y", "z", "yes"], "gold": 2},
    {"question": "Long? " + "very long, " * 13, "options": ["no", "yes, it is", "yes, is it"], "gold": 1},
    {"question": "Seven?", "options": ["7", "8"], "gold": 0},
]
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_target": "gold",
        "doc_to_choice": "{{options}}",
        "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
    },
    "tiny_last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{options[gold]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", **MEAN},
        ],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{options[gold]}}",
        "generation_kwargs": {"until": ["4", "k"], "do_sample": False, "max_gen_toks": 12},
        "filter_list": [
            {"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
        ],
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
}


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", *LETTERS, "th", "an", "es"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h"), ("a", "n"), ("e", "s")]))
    raw.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    return made


@pytest.fixture
def lm(llama, tokenizer):
    return LanguageModel(llama, tokenizer, Source("tiny", Path(), "directory", "0"), "float32", torch.device("cpu"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCS))
    kwargs = {"data_files": {"test": str(folder / "data.jsonl")}, "cache_dir": str(folder / "cache")}
    common = {"dataset_path": "json", "dataset_kwargs": kwargs, "test_split": "test", "metadata": {"version": 1.0}}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **task}))
    (folder / "all.yaml").write_text(yaml.safe_dump({"group": "tiny_all", "task": ["tiny_choice", "tiny_write"]}))
    f1 = {**TASKS["tiny_choice"], "metric_list": [*TASKS["tiny_choice"]["metric_list"], {"metric": "f1"}]}
    (folder / "f1.yaml").write_text(yaml.safe_dump({"task": "tiny_f1", **common, **f1}))
    gone = {**common, "dataset_kwargs": {"data_files": {"test": str(folder / "gone.jsonl")}}}
    (folder / "gone.yaml").write_text(yaml.safe_dump({"task": "tiny_gone", **gone, **TASKS["tiny_choice"]}))
    return folder


def the_task(folder, name, **options):
    [task] = lm_eval_tasks([name], include_path=folder, **options)
    return task


def hflm(lm, batch_size=1):
    with quietly():
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)


def theirs(task, lm, **how):
    """lm-eval's own answers to its own requests."""
    with quietly():
        task.task.build_all_requests(limit=task.limit, **how)
        instances = task.task.instances
        return getattr(hflm(lm), instances[0].request_type)(instances, disable_tqdm=True)


def likely(answers):
    return np.array([a[0] if isinstance(a, tuple) else a for a in answers])


# ---------------------------------------------------------------------- the same numbers as lm-eval's


@pytest.mark.parametrize("shots", [0, 1])
@pytest.mark.parametrize("name", TASKS)
def test_answers_are_those_of_lm_evals_own_model(folder, lm, name, shots):
    task = the_task(folder, name, num_fewshot=shots) if name != "tiny_rolling" else the_task(folder, name)
    task.task.set_fewshot_seed(seed=task.seed)
    expected = theirs(task, lm)
    examples = json.loads(json.dumps(task.prepare(lm)))  # plain JSON, so that a run can go on from disk
    ours = [a[0] for a in task.answers(lm, examples)[0]]
    if name == "tiny_write":
        assert ours == expected
        return
    np.testing.assert_allclose(likely(ours), likely(expected), atol=1e-4)
    if name != "tiny_rolling":
        assert [a[1] for a in ours] == [a[1] for a in expected]


@pytest.mark.parametrize("model", ["llama", "phi3", "gpt2"])
def test_sharing_changes_no_number(folder, lm, tokenizer, request, model):
    model = request.getfixturevalue(model)
    assert sharing(model) == NO_LIMIT
    lm = LanguageModel(model, tokenizer, lm.source, "float32", lm.device)
    task = the_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    shared, _ = task.answers(lm, examples)
    alone, _ = task.answers(lm, {**examples, "share_up_to": 0})
    np.testing.assert_allclose(likely([a[0] for a in shared]), likely([a[0] for a in alone]), atol=1e-4)
    assert np.array_equal(task.score(lm, examples).values, task.judge(examples, alone).values)


def test_a_model_that_cannot_share_is_found_out():
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=96)).eval()
    assert sharing(bloom) == 0  # its positions come from the mask
    windows = [Window([5, 6, 7], [8, 9]), Window([5, 6, 7], [8, 10]), Window([5, 6, 7], [9])]
    [together] = loglikelihoods(bloom, [windows], max_length=100, share_up_to=0)
    for window, answer in zip(windows, together, strict=True):
        [[alone]] = loglikelihoods(bloom, [[window]], max_length=100)
        assert answer[0] == pytest.approx(alone[0], abs=1e-4)


def test_scores_are_lm_evals(folder, lm):
    with quietly():
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(folder), include_defaults=False)
        out = simple_evaluate(hflm(lm), tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)["results"]
    for name in TASKS:
        task = the_task(folder, name)
        scores = task.score(lm, task.prepare(lm))
        assert len(scores.values) == len(DOCS)
        for key, value in out[name].items():
            metric = key.removesuffix(",none")
            if metric in scores.details:
                assert scores.details[metric] == pytest.approx(value, rel=1e-5)
        if name != "tiny_rolling":
            assert scores.metric in scores.details
            assert scores.mean == pytest.approx(scores.details[scores.metric])


def test_chat_template(folder, lm):
    task = the_task(folder, "tiny_choice", apply_chat_template=True, limit=2)
    chat = {"apply_chat_template": True, "chat_template": hflm(lm).apply_chat_template, "fewshot_as_multiturn": True}
    examples = task.prepare(lm)
    assert lm.tokenizer.decode(examples["contexts"][0]).startswith("<s>user: What falls?")
    np.testing.assert_allclose(
        likely([a[0] for a in task.answers(lm, examples)[0]]), likely(theirs(task, lm, **chat)), atol=1e-4
    )
    bare = PreTrainedTokenizerFast(tokenizer_object=lm.tokenizer._tokenizer, eos_token="</s>", pad_token="<pad>")
    with pytest.raises(TaskError, match="no chat template"):
        task.prepare(LanguageModel(lm.model, bare, lm.source, "float32", lm.device))


# ---------------------------------------------------------------------- what is counted


def histories(examples):
    """Distinct (document, everything up to a token) among what a model must read: an independent count."""
    seen = set()
    for request in examples["requests"]:
        for context, continuation in request["windows"]:
            read = (examples["contexts"][context] + continuation)[-(examples["max_length"] + 1) :][:-1]
            seen |= {(request["doc"], tuple(read[: n + 1])) for n in range(len(read))}
    return len(seen)


def test_a_context_counts_once_and_padding_never(folder, lm):
    task = the_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as dial:
        task.score(lm, examples, dial)
    assert set(dial.stats()["total"]) == {histories(examples) * 32}
    assert set(dial.stats()["phase"]) == {"prefill"}
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as dial:
        task.score(lm, {**examples, "share_up_to": 0}, dial)
    inputs = {
        (r["doc"], tuple((examples["contexts"][c] + w)[-129:][:-1]))
        for r in examples["requests"]
        for c, w in r["windows"]
    }
    assert set(dial.stats()["total"]) == {sum(len(tokens) for _, tokens in inputs) * 32}


def test_batches_do_not_change_what_is_counted(folder, lm):
    stats = []
    for batch_tokens in (1, 150, 4096):
        task = the_task(folder, "tiny_choice", batch_tokens=batch_tokens)
        with sd.sparsify(lm.model, "all_inputs", sd.TopP(0.8)) as dial:
            task.score(lm, task.prepare(lm), dial)
        stats.append(dial.stats())
    for other in stats[1:]:
        assert other["total"].equals(stats[0]["total"])
        assert np.allclose(other["dropped"], stats[0]["dropped"], rtol=0.002)  # float noise moves a boundary


def test_finished_rows_are_not_generated_tokens(folder, lm):
    task = the_task(folder, "tiny_write")
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "input", sd.TopP(0.7)) as dial:
        scores = task.score(lm, examples, dial)
    alone = []
    for request in examples["requests"]:
        prompt = Prompt(examples["contexts"][request["context"]], tuple(request["until"]), request["limit"])
        with sd.sparsify(lm.model, "input", sd.TopP(0.7)):
            alone += generate(lm.model, lm.tokenizer, [prompt])
    lengths = [len(a.tokens) for a in alone]
    assert len(set(lengths)) > 1  # rows of the batch ended at different times
    total = dial.stats().groupby("phase")["total"].unique()
    prompts = sum(len(examples["contexts"][r["context"]]) for r in examples["requests"])
    assert total["prefill"].tolist() == [prompts * 32]
    assert total["generation"].tolist() == [sum(n - 1 for n in lengths) * 32]  # the last token is never fed back
    assert scores.details["generated_tokens"] == np.mean(lengths)
    assert scores.details["limit_hit"] == np.mean([not a.stopped for a in alone])


def test_kept_sets_are_the_papers(folder, lm):
    """top-p, section 3: the fewest entries, largest first, whose L1 norm reaches p of the whole."""
    before, after = [], []
    projection = lm.model.model.layers[1].mlp.down_proj
    first = projection.register_forward_pre_hook(lambda _, args: before.append(args[0]))
    task = the_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    last = Reading(projection, lambda x: after.append(x) or x)  # there first, so it sees what the dial hands on
    with sd.sparsify(lm.model, "intermediate", sd.TopP(0.9)) as dial:
        before.clear()  # finding the FFNs called it too
        after.clear()
        task.score(lm, examples, dial)
    first.remove()
    last.remove()
    vectors = 0
    for x, y in zip(before, after, strict=True):
        for v, kept in zip(x.flatten(0, 1).double().numpy(), (y.flatten(0, 1) != 0).numpy(), strict=True):
            if not v.any():  # padding, here: its embedding is zero
                assert not kept.any()
                continue
            order = sorted(range(len(v)), key=lambda i, v=v: (-abs(v[i]), i))
            reached = np.cumsum(np.abs(v)[order]) >= 0.9 * np.abs(v).sum()
            assert set(np.flatnonzero(kept)) == set(order[: int(reached.argmax()) + 1])
            vectors += 1
    assert vectors == histories(examples)


def test_dense_value_gives_the_dense_scores(folder, lm):
    task = the_task(folder, "tiny_choice", limit=3)
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "all_inputs", sd.TopP(1)) as dial:
        assert task.answers(lm, examples, dial) == task.answers(lm, examples)


def test_sampling_is_seeded_and_leaves_the_generator_alone(lm):
    prompt = Prompt([5, 6, 7], (), 8, {"do_sample": True, "temperature": 1.0})
    state = torch.get_rng_state()
    one, two, three = (generate(lm.model, lm.tokenizer, [prompt], seed=s) for s in (1, 1, 2))
    assert one == two != three
    assert torch.equal(torch.get_rng_state(), state)
    assert not one[0].stopped or len(one[0].tokens) <= 8


def test_batches_are_bounded_and_waste_little():
    generator = np.random.default_rng(0)
    groups = [[Window([1] * int(n), [2, 3]), Window([1] * int(n), [4])] for n in generator.integers(1, 200, 300)]
    trees = plant(groups, 1000, 1000)
    laid = list(batches(trees, 4096))
    assert all(b.tokens.numel() <= 4096 for b in laid)
    assert sum(int(b.real.sum()) for b in laid) == sum(map(len, trees))
    assert sum(b.tokens.numel() for b in laid) <= 1.13 * sum(map(len, trees))
    assert sorted(k for b in laid for k in b.keys) == [(g, i) for g in range(300) for i in range(2)]


# ---------------------------------------------------------------------- what goes wrong


def test_all_that_is_wrong_is_told_at_once_without_a_model(folder, monkeypatch):
    with quietly():
        from lm_eval.tasks import TaskManager  # lm-eval's own 14 000 tasks take seconds to index

        own = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(catalogue, "_manager", lambda *_: own)
    with pytest.raises(TaskError) as error:
        lm_eval_tasks(["tiny_choise", "tiny_gone", "tiny_write"], include_path=folder, limit=50)
    message = str(error.value)
    assert "unknown task 'tiny_choise': did you mean tiny_choice" in message
    assert "task 'tiny_gone': its data cannot be had" in message and "--include-path" in message
    assert "'tiny_write' has 5 examples, fewer than the 50 asked for" in message


@pytest.mark.parametrize(
    ("names", "options", "match"),
    [
        ([], {}, "no task named"),
        (["tiny_choice"], {"limit": 0}, "limit=0"),
        (["tiny_choice"], {"num_fewshot": -1}, "num_fewshot=-1"),
        (["tiny_choice"], {"metrics": {"tiny_choice": "acurracy"}}, "unknown metric 'acurracy': it has acc, acc_norm"),
        (["tiny_f1"], {"metrics": {"tiny_f1": "f1"}}, "not a number per example"),
        (["tiny_choice"], {"metrics": {"tiny_choice": "acc,strict"}}, "unknown filter 'strict': it has none"),
        (["tiny_choice"], {"metrics": {"piqa": "acc"}}, "'piqa', which is not among the tasks"),
    ],
)
def test_bad_requests(folder, names, options, match):
    with pytest.raises(TaskError, match=match):
        lm_eval_tasks(names, include_path=folder, **options)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(TaskError, match="no such folder"):
        lm_eval_tasks(["tiny_choice"], include_path=tmp_path / "nowhere")


def test_nan_fails(folder, lm):
    task = the_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    weight = lm.model.model.norm.weight
    kept = weight.data.clone()
    weight.data[0] = float("nan")
    try:
        with pytest.raises(TaskError, match=r"tiny_choice.*document \d.*NaN"):
            task.score(lm, examples)
    finally:
        weight.data.copy_(kept)


def test_nan_fails_while_generating(folder, lm):
    task = the_task(folder, "tiny_write")
    examples = task.prepare(lm)
    weight = lm.model.lm_head.weight
    kept = weight.data.clone()
    weight.data[-1] = float("nan")
    try:
        with pytest.raises(TaskError, match="logits are NaN"):
            task.score(lm, examples)
    finally:
        weight.data.copy_(kept)


def test_fewer_examples_than_asked_fails(folder, lm, monkeypatch):
    task = the_task(folder, "tiny_choice", limit=4)
    whole = task.prepare(lm)
    build = task.task.build_all_requests
    monkeypatch.setattr(task.task, "build_all_requests", lambda limit, **k: build(limit=limit - 1, **k))
    with pytest.raises(TaskError, match="made requests for 3 examples of 4 asked for"):
        task.prepare(lm)
    short = {**whole, "requests": [r for r in whole["requests"] if r["doc"] < 3]}
    with pytest.raises(TaskError, match="scored 3 examples of 4"):
        task.score(lm, short)


def test_no_tokenizer(folder, llama, lm):
    with pytest.raises(TaskError, match="no tokenizer"):
        the_task(folder, "tiny_choice").prepare(LanguageModel(llama, None, lm.source, "float32", lm.device))


# ---------------------------------------------------------------------- names, metrics, identity


def test_groups_and_patterns_expand(folder):
    tasks = lm_eval_tasks(["tiny_all", "tiny_last"], include_path=folder)
    assert [(t.name, t.group) for t in tasks] == [
        ("tiny_choice", Group("tiny_all")), ("tiny_write", Group("tiny_all")), ("tiny_last", None)
    ]  # fmt: skip
    assert [t.metric.shown for t in tasks] == ["acc", "exact_match,stripped", "acc"]


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_that_lm_eval_averages_says_so(folder, tmp_path, by_size):
    for name in ("tiny_choice", "tiny_last"):
        shutil.copy(folder / f"{name}.yaml", tmp_path)
    how = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": by_size}]}
    inner = {"group": "inner", "task": ["tiny_last"]}
    whole = {"group": "outer", "task": ["tiny_choice", inner], **how}
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump(whole))
    tasks = lm_eval_tasks(["outer"], include_path=tmp_path)
    assert [t.group for t in tasks] == [Group("outer", by_size, ("tiny_choice", "tiny_last"))] * 2
    tasks = lm_eval_tasks(["outer"], include_path=tmp_path, metrics={"tiny_choice": "acc_norm"})
    assert [t.group.by_size for t in tasks] == [None, by_size]  # of the other metric it says nothing
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"group": "list", "task": ["outer"]}))
    assert [t.group.name for t in lm_eval_tasks(["list"], include_path=tmp_path)] == ["outer"] * 2


@pytest.mark.slow  # reads all of lm-eval's tasks
def test_a_group_of_ones_own_may_name_lm_evals_tasks(folder, tmp_path):
    shutil.copy(folder / "tiny_choice.yaml", tmp_path)
    inner = {"group": "inner", "task": ["arc_easy"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"group": "mine", "task": ["tiny_choice", inner]}))
    with pytest.raises(TaskError, match="'mine': its data cannot be had"):  # there is no hub here: arc_easy's
        lm_eval_tasks(["mine"], include_path=tmp_path)


def test_a_template_that_cannot_be_read_is_no_matter_of_data(folder, tmp_path):
    config = yaml.safe_load((folder / "tiny_choice.yaml").read_text())
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**config, "task": "bad", "doc_to_text": "{{ question"}))
    with pytest.raises(TaskError, match="'bad': lm-eval cannot make it"):
        lm_eval_tasks(["bad"], include_path=tmp_path)


def test_few_shot_examples_are_those_that_lm_eval_would_draw(folder):
    asked = {"include_path": str(folder), "num_fewshot": 2}
    [usual] = make_tasks(["tiny_choice"], TaskOptions(**asked))
    [other] = make_tasks(["tiny_choice"], TaskOptions(**asked, seed=7))
    assert (usual.seed, other.seed) == (1234, 7)  # the first is the default of its --seed


def test_metric_can_be_changed(folder, lm):
    task = the_task(folder, "tiny_choice", metrics={"tiny_choice": "acc_norm"})
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "acc_norm"
    assert scores.mean == scores.details["acc_norm"]
    task = the_task(folder, "tiny_last", metrics={"tiny_last": "perplexity"})
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "inverse_perplexity"
    assert (scores.values > 0).all() and (scores.values < 1).all()
    assert -np.log(scores.values).mean() == pytest.approx(np.log(scores.details["perplexity"]))


def test_the_papers_choice_for_ifeval():
    names = {f"{level}_level_{how}_acc": True for level in ("prompt", "inst") for how in ("strict", "loose")}
    assert choose("ifeval", names, ["none"]) == Metric(STRICT, "none")
    results = [
        {"prompt_level_strict_acc": False, "inst_level_strict_acc": [True, False, True]},
        {"prompt_level_strict_acc": True, "inst_level_strict_acc": [True]},
    ]
    assert values(Metric(STRICT, "none"), results, "ifeval").mean() == pytest.approx((1 / 2 + 3 / 4) / 2)
    with pytest.raises(TaskError, match="not a number"):
        values(Metric("acc", "none"), [{"acc": "yes"}], "odd")


def test_identity_moves_with_what_moves_the_number(folder, tmp_path):
    base = the_task(folder, "tiny_choice").identity()
    assert json.loads(json.dumps(base)) == base
    assert the_task(folder, "tiny_choice").identity() == base
    for change in ({"limit": 3}, {"num_fewshot": 2}, {"seed": 1}, {"apply_chat_template": True}, {"batch_tokens": 64}):
        assert the_task(folder, "tiny_choice", **change).identity() != base
    config = yaml.safe_load((folder / "tiny_choice.yaml").read_text())
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(d) + "\n" for d in reversed(DOCS)))
    data = {"dataset_kwargs": {**config["dataset_kwargs"], "data_files": {"test": str(other)}}}
    for number, change in enumerate(({"doc_to_text": "{{question}}"}, data)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "tiny_choice.yaml").write_text(yaml.safe_dump({**config, **change}))
        assert the_task(tmp_path / str(number), "tiny_choice").identity() != base


# ---------------------------------------------------------------------- lm-eval's own command line


def test_plugin_gives_the_same_scores_and_tells_the_sparsity(folder, lm, tmp_path):
    with quietly():
        from lm_eval import simple_evaluate
        from lm_eval.api.registry import get_model
        from lm_eval.tasks import TaskManager

        from sparsedial.tasks.plugin import SparsedialLM

        assert get_model("sparsedial") is SparsedialLM
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        model = SparsedialLM(lm.model, site="input", p=0.7, tokenizer=lm.tokenizer, batch_size=3)
        out = simple_evaluate(model, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)
    with sd.sparsify(lm.model, "input", sd.TopP(0.7)) as dial:
        for name in TASKS:
            task = the_task(folder, name)
            scores = task.score(lm, task.prepare(lm), dial)
            for metric, value in scores.details.items():
                if f"{metric},none" in out["results"][name]:
                    assert out["results"][name][f"{metric},none"] == pytest.approx(value, rel=1e-3)
    told = out["config"]["sparsedial"]
    assert told["sparsity"] == pytest.approx(dial.sparsity(), abs=0.005)
    assert set(told["by_phase"]) == {"prefill", "generation"}
    with pytest.raises(sd.errors.SpecError, match=r"expected a number in \[0, 1\]"):
        SparsedialLM(lm.model, p=1.5, tokenizer=lm.tokenizer)
    with quietly(), pytest.raises(TaskError, match="leave --use_cache out"):
        simple_evaluate(model, tasks=["tiny_choice"], task_manager=manager, use_cache=str(tmp_path / "cache"))


def test_a_metric_beside_the_one_that_counts_may_not_fit_the_data(folder, lm):
    task = the_task(folder, "tiny_f1")  # scikit-learn refuses f1 for more than two classes
    scores = task.score(lm, task.prepare(lm))
    assert scores.metric == "acc" and "f1" not in scores.details
