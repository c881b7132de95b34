"""Statistics of generated texts, from the task to the files of a study."""

import json

import numpy as np
import pytest

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.inference.generation import GeneratedTokens
from sparsedial.inference.thinking_segments import TextSegments
from sparsedial.study.pooled_trials import pool_trials
from sparsedial.study.records import TrialRecord
from sparsedial.study.store import Store
from sparsedial.tasks.base import GENERATION_COLUMNS, SEGMENT_COLUMNS
from sparsedial.tasks.lm_eval.generation_statistics import TextStatistics, average_documents, average_texts
from sparsedial.tasks.lm_eval.options import LmEvalOptions
from tests.support.generation_tasks import LIMIT, QUESTIONS, write_solvable_task
from tests.support.lm_eval_tasks import load_task

MARKERS = ("e", "a")  # the zoo's model writes stories, so it "thinks" from an e to the next a


@pytest.fixture(scope="module")
def written(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("tasks")
    texts = write_solvable_task(folder, trained)
    return folder, texts


def options(folder, **others):
    return LmEvalOptions(include_path=str(folder), **others).settings()


def statistics(document, tokens, segments=None, limit_hit=False):
    return TextStatistics(document, 5, tokens, limit_hit, segments)


def test_several_texts_of_a_document_are_averaged():
    closed = TextSegments(3, 1, has_thinking=True, is_closed=True)
    cut_off = TextSegments(8, 0, has_thinking=True, is_closed=False)
    texts = [statistics(7, 4, closed), statistics(3, 8, cut_off, limit_hit=True), statistics(7, 8, cut_off)]
    columns = average_documents(texts, [3, 7])
    assert list(columns) == [*GENERATION_COLUMNS, *SEGMENT_COLUMNS]
    assert columns["generated_tokens"].tolist() == [8, 6]
    assert columns["thinking_tokens"].tolist() == [8, 5.5]
    assert columns["unclosed"].tolist() == [1, 0.5]
    assert columns["limit_hit_thinking"].tolist() == [1, 0]
    assert average_texts(texts)["answer_tokens"] == pytest.approx(1 / 3)
    assert average_documents(texts, [3, 7, 9]) == {}
    assert list(average_texts([statistics(0, 4)])) == list(GENERATION_COLUMNS)


def test_a_text_without_markers_has_lengths_only():
    text = TextStatistics.from_text(2, [1, 2, 3], GeneratedTokens([4, 5], stopped=False), None)
    assert text == TextStatistics(2, 3, 2, limit_hit=True, segments=None)


def test_a_study_stores_the_statistics_of_each_example(written, tmp_path):
    folder, texts = written
    arguments = {"sites": "input", "p": [0.9], "device": "cpu", "dtype": "float32", "progress": False}
    result = sd.measure(
        "zoo:dense-0.4m",
        **arguments,
        tasks="tiny_solvable",
        include_path=str(folder),
        thinking_markers=MARKERS,
        out=tmp_path,
    )
    store = Store(tmp_path)
    dense, sparse = sorted(store.trials(), key=lambda trial: not trial.identity.is_dense)
    for trial in (dense, sparse):
        assert trial.identity.task["thinking_markers"] == [{"start": "e", "end": "a"}]
        table = store.find_sample_table(trial)
        tokens = table["generated_tokens"]
        assert np.array_equal(table["thinking_tokens"] + table["answer_tokens"], tokens)
        assert ((tokens == LIMIT) | (table["limit_hit"] == 0)).all()
        for name in (*GENERATION_COLUMNS, *SEGMENT_COLUMNS):
            assert trial.result.details[name] == pytest.approx(table[name].mean())
    table = store.find_sample_table(dense)
    assert table["has_thinking"].tolist() == [float("e" in text) for text in texts]
    assert set(table["unclosed"]) == {0, 1}
    read = [count for count in sparse.counts if count.layer == 0 and count.phase == "generation"]
    assert {count.segment for count in read} == {"thinking", "answer"}
    tokens = store.find_sample_table(sparse)["generated_tokens"]
    assert sum(count.tokens for count in read) == int((tokens - 1).sum())
    assert TrialRecord.from_json(json.loads(json.dumps(sparse.to_json()))).counts == sparse.counts
    assert pool_trials([sparse]).counts == sparse.counts
    assert set(result.results.segments["segment"]) == {"prefill", "generation", "thinking", "answer"}
    assert result.results.cost["net_work"].notna().all()


def test_counts_of_blocks_are_pooled_by_segment(tmp_path, written):
    from dataclasses import replace

    from tests.support.generation_studies import thinking_study

    trial = next(trial for trial in thinking_study(tmp_path, lambda p: 1.2).trials() if not trial.identity.is_dense)
    second = replace(trial, identity=replace(trial.identity, task={**trial.identity.task, "examples": [200, 400]}))
    first = replace(trial, identity=replace(trial.identity, task={**trial.identity.task, "examples": [0, 200]}))
    pooled = pool_trials([first, second])
    assert len(pooled.counts) == len(trial.counts)
    for count, one in zip(pooled.counts, trial.counts, strict=True):
        assert (count.segment, count.tokens, count.dropped) == (one.segment, 2 * one.tokens, 2 * one.dropped)
    assert pooled.result.details["thinking_tokens"] == pytest.approx(trial.result.details["thinking_tokens"])


def test_markers_do_not_change_the_key_unless_they_are_given(written):
    folder, _ = written
    task = load_task(folder, "tiny_solvable")
    assert "thinking_markers" not in task.identity()
    assert options(folder).thinking_markers is None
    assert options(folder, thinking_markers="auto").thinking_markers is None
    assert options(folder, thinking_markers="none").thinking_markers == ()
    off = load_task(folder, "tiny_solvable", thinking_markers=())
    assert off.identity()["thinking_markers"] == []


@pytest.mark.parametrize("name", ["tiny_solvable", "tiny_choice"])
def test_a_marker_that_the_tokenizer_lacks_is_an_error_before_the_run(written, lm, name):
    """The tokenizer of this model has no < and no >. Tasks that generate no text do not need markers."""
    from tests.support.lm_eval_tasks import write_tasks

    folder, _ = written
    write_tasks(folder)
    task = load_task(
        folder, name, thinking_markers=options(folder, thinking_markers="<think>,</think>").thinking_markers
    )
    if name == "tiny_choice":
        assert task.prepare(lm)["requests"]
        return
    with pytest.raises(SpecError, match=r"cannot encode the marker '<think>'.*decoded as 'think'"):
        task.prepare(lm)


def test_a_malformed_option_is_an_error_before_a_model_is_loaded(written, monkeypatch):
    folder, _ = written
    monkeypatch.setattr("sparsedial.study.worker.load_language_model", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(SpecError, match=r"thinking_markers '<think>'.*START,END"):
        sd.measure(
            "zoo:dense-0.4m",
            tasks="tiny_solvable",
            include_path=str(folder),
            thinking_markers="<think>",
            progress=False,
        )


def test_questions_are_answered(written):
    """Otherwise the other tests would test nothing."""
    _, texts = written
    assert len(texts) == len(QUESTIONS)
    assert any("e" in text for text in texts)
