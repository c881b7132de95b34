"""Sparsity statistics of lm-eval's tasks: every token that is read counts once, and padding never."""

import numpy as np

import sparsedial as sd
from sparsedial.hooks.module_patch import InputPatch
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.generation import Prompt
from sparsedial.inference.run_context import RunContext
from sparsedial.tasks.lm_eval.requests import PreparedRequests
from tests.support.lm_eval_tasks import load_task


def read_tokens(prepared, window):
    """Return the tokens that the model reads for one window."""
    tokens = prepared.contexts[window.context] + window.continuation
    return tokens[-(prepared.max_length + 1) :][:-1]


def count_distinct_prefixes(examples):
    """Count the distinct pairs of a document and everything up to a token: an independent count."""
    prepared = PreparedRequests.from_json(examples)
    prefixes = set()
    for request in prepared.requests:
        for window in request.windows:
            tokens = read_tokens(prepared, window)
            prefixes |= {(request.doc, tuple(tokens[: end + 1])) for end in range(len(tokens))}
    return len(prefixes)


def count_tokens_of_distinct_inputs(examples):
    """Count the tokens of all distinct pairs of a document and the tokens that are read."""
    prepared = PreparedRequests.from_json(examples)
    inputs = set()
    for request in prepared.requests:
        for window in request.windows:
            inputs.add((request.doc, tuple(read_tokens(prepared, window))))
    return sum(len(tokens) for _, tokens in inputs)


def test_a_context_counts_once_and_padding_never(folder, lm):
    task = load_task(folder, "tiny_choice")
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as sparsifier:
        task.score(lm, examples, sparsifier)
    assert set(sparsifier.stats()["total"]) == {count_distinct_prefixes(examples) * 32}
    assert set(sparsifier.stats()["phase"]) == {"prefill"}
    with sd.sparsify(lm.model, "input", sd.TopP(0.9)) as sparsifier:
        task.score(lm, {**examples, "share_up_to": 0}, sparsifier)
    assert set(sparsifier.stats()["total"]) == {count_tokens_of_distinct_inputs(examples) * 32}


def test_the_batch_size_does_not_change_what_is_counted(folder, lm):
    tables = []
    for batch_tokens in (1, 150, 4096):
        task = load_task(folder, "tiny_choice", batch_tokens=batch_tokens)
        with sd.sparsify(lm.model, "all_inputs", sd.TopP(0.8)) as sparsifier:
            task.score(lm, task.prepare(lm), sparsifier)
        tables.append(sparsifier.stats())
    for table in tables[1:]:
        assert table["total"].equals(tables[0]["total"])
        assert np.allclose(table["dropped"], tables[0]["dropped"], rtol=0.002)  # rounding moves a boundary


def test_the_batch_does_not_count_tokens_of_finished_rows(folder, lm):
    task = load_task(folder, "tiny_write")
    examples = task.prepare(lm)
    with sd.sparsify(lm.model, "input", sd.TopP(0.7)) as sparsifier:
        scores = task.score(lm, examples, sparsifier)
    prepared = PreparedRequests.from_json(examples)
    backend = make_backend(lm)
    texts = []
    for request in prepared.requests:
        prompt = Prompt(prepared.contexts[request.context], request.until, request.limit)
        with sd.sparsify(lm.model, "input", sd.TopP(0.7)):
            texts += backend.generate([prompt], RunContext())
    lengths = [len(text.tokens) for text in texts]
    assert len(set(lengths)) > 1  # rows of the batch ended at different times
    totals = sparsifier.stats().groupby("phase")["total"].unique()
    prompt_tokens = sum(len(prepared.contexts[request.context]) for request in prepared.requests)
    assert totals["prefill"].tolist() == [prompt_tokens * 32]
    fed_back = sum(length - 1 for length in lengths)  # the last token of a text is never fed back
    assert totals["generation"].tolist() == [fed_back * 32]
    assert scores.details["generated_tokens"] == np.mean(lengths)
    assert scores.details["limit_hit"] == np.mean([not text.stopped for text in texts])


def test_kept_sets_follow_the_papers_definition(folder, lm):
    """Check top-p, section 3: the fewest entries, largest first, whose L1 norm reaches p of the whole."""
    before = []
    after = []
    projection = lm.model.model.layers[1].mlp.down_proj
    hook = projection.register_forward_pre_hook(lambda _, args: before.append(args[0]))
    task = load_task(folder, "tiny_choice", batch_tokens=1)  # one row per forward pass, without padding
    examples = task.prepare(lm)
    patch = InputPatch(projection, lambda x: after.append(x) or x)  # entered first, so it sees the sparsified input
    with sd.sparsify(lm.model, "intermediate", sd.TopP(0.9)) as sparsifier:
        before.clear()  # finding the FFNs called the hooks too
        after.clear()
        task.score(lm, examples, sparsifier)
    hook.remove()
    patch.remove()
    vectors = 0
    for x, y in zip(before, after, strict=True):
        for vector, kept in zip(x.flatten(0, 1).double().numpy(), (y.flatten(0, 1) != 0).numpy(), strict=True):
            order = sorted(range(len(vector)), key=lambda i, vector=vector: (-abs(vector[i]), i))
            reached = np.cumsum(np.abs(vector)[order]) >= 0.9 * np.abs(vector).sum()
            assert set(np.flatnonzero(kept)) == set(order[: int(reached.argmax()) + 1])
            vectors += 1
    assert vectors == count_distinct_prefixes(examples)
