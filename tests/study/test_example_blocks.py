"""Studies whose examples are added later: only new examples are scored, and the numbers are those of one run."""

import dataclasses

import numpy as np
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.study.integrity import find_problems
from sparsedial.study.pooled_trials import pool_trials, select_disjoint_blocks
from sparsedial.study.records import SparsityCount, StepOverlapCount
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store
from sparsedial.tasks.example_blocks import ExampleBlock, find_block
from tests.support.trial_records import make_record


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("sparsedial.tasks.example_blocks.FIRST_BLOCK", 4)


def with_sequences(spec, sequences):
    return dataclasses.replace(spec, task_options={**spec.task_options, "sequences": sequences})


def records_and_scores(store):
    return {record.key: (record.result, record.counts, store.samples(record).tolist()) for record in store.trials()}


def shown_points(store):
    points = compute_results(store).points
    return points[["site", "p", "sparsity", "score", "dense_score"]].to_dict("records")


def test_added_examples_run_alone_and_equal_one_run_bit_for_bit(small_blocks, spec, tmp_path):
    grown = run_study(with_sequences(spec, 4), tmp_path / "grown", device="cpu")
    first = records_and_scores(grown)
    grown = run_study(with_sequences(spec, 8), tmp_path / "grown", device="cpu")
    at_once = run_study(with_sequences(spec, 8), tmp_path / "at_once", device="cpu")
    expected = records_and_scores(at_once)
    assert records_and_scores(grown) == expected
    assert first.items() <= expected.items()
    added = [record for record in grown.trials() if record.key not in first]
    assert len(added) == len(first) == 5
    assert {find_block(record.identity.task) for record in added} == {ExampleBlock(4, 8)}
    assert shown_points(grown) == shown_points(at_once)
    assert find_problems(grown) == []


def test_the_report_pools_blocks_and_fewer_examples_use_the_first_ones(small_blocks, spec, tmp_path):
    store = run_study(with_sequences(spec, 8), tmp_path / "out", device="cpu")
    points = shown_points(store)
    for point in points:
        same = [
            record
            for record in store.trials()
            if record.identity.site == point["site"] and record.identity.rule.p == point["p"]
        ]
        scores = np.concatenate([store.samples(record) for record in same])
        assert len(scores) == 8
        assert point["score"] == pytest.approx(scores.mean(), rel=1e-12)
        dropped = sum(record.result.dropped for record in same)
        assert point["sparsity"] == pytest.approx(dropped / sum(record.result.total for record in same), rel=1e-12)
    run_study(with_sequences(spec, 4), store.folder, device="cpu")
    assert len(list(store.trials())) == 10
    fewer = run_study(with_sequences(spec, 4), tmp_path / "fewer", device="cpu")
    assert shown_points(store) == shown_points(fewer)


def test_samples_say_what_happened_to_each_example(small_blocks, spec, tmp_path):
    store = run_study(with_sequences(spec, 8), tmp_path, device="cpu")
    examples = []
    for record in store.trials():
        table = store.find_sample_table(record)
        assert list(table.columns) == ["example", "prediction", "score", "nll", "nll_tokens"]
        assert table["score"].tolist() == store.samples(record).tolist()
        if record.identity.is_dense:
            examples += table["example"].tolist()
    assert sorted(examples) == list(range(8))


def test_a_search_adds_examples_only_where_its_tests_do_not_decide(small_blocks, spec, tmp_path):
    spec = dataclasses.replace(
        spec, models=("zoo:dense-0.4m",), sites=("input",), values=None, precision=1.0, max_examples=32
    )
    store = run_study(with_sequences(spec, 4), tmp_path, device="cpu")
    examples = {}
    for record in store.trials():
        p = record.p if record.identity.rule else "dense"
        examples[p] = examples.get(p, 0) + record.result.examples
    assert examples["dense"] == max(examples.values()) > 4
    assert min(examples.values()) < max(examples.values())
    assert set(examples.values()) <= {4, 8, 16, 32}
    messages = []

    class Listener:
        def log(self, message):
            messages.append(message)

        set_total = set_current = lambda self, *args: None

    before = records_and_scores(store)
    run_study(with_sequences(spec, 4), tmp_path, device="cpu", listener=Listener())
    assert records_and_scores(store) == before  # the search is repeated from the files, without a new trial
    assert any("examples" in message and "values of p" in message for message in messages)


def test_the_largest_number_of_examples_is_a_limit_below_the_requested_one(small_blocks, spec, tmp_path):
    search = dataclasses.replace(spec, sites=("input",), values=None, precision=1.0, max_examples=6)
    limited = run_study(with_sequences(search, 32), tmp_path / "limited", device="cpu")
    critical = compute_results(limited).critical
    assert critical["examples"].tolist() == [6]
    exact = run_study(with_sequences(search, 6), tmp_path / "exact", device="cpu")
    assert records_and_scores(limited) == records_and_scores(exact)


def test_blocks_of_different_studies_do_not_overlap():
    blocks = [ExampleBlock(64, 96), ExampleBlock(0, 64), ExampleBlock(96, 128), ExampleBlock(64, 128)]
    assert select_disjoint_blocks(blocks) == {ExampleBlock(0, 64), ExampleBlock(64, 128)}
    assert select_disjoint_blocks([]) == set()


def record_of_block(first, end, score, counts=(), step_overlap=(), **result):
    record = make_record(score=score)
    task = {**record.identity.task, "examples": [first, end]}
    return dataclasses.replace(
        record,
        identity=dataclasses.replace(record.identity, task=task),
        result=dataclasses.replace(record.result, examples=end - first, **result),
        counts=counts or record.counts,
        step_overlap=step_overlap,
    )


def test_pooled_results_are_means_over_all_examples():
    details = {"generated_tokens": 10.0, "perplexity,none": 3.0}
    first = record_of_block(0, 1, 1.0, details=details, chance=0.25, batch=4)
    second = record_of_block(1, 4, 0.0, details={"generated_tokens": 30.0, "perplexity,none": 9.0}, chance=0.5, batch=8)
    pooled = pool_trials([second, first])
    assert pooled.result.score == 0.25
    assert (pooled.result.examples, pooled.result.dropped, pooled.result.total) == (4, 6, 20)
    assert pooled.result.details == {"generated_tokens": 25.0}  # a perplexity is no mean over examples
    assert pooled.result.chance == 0.4375 and pooled.result.batch == 8
    assert pooled.seconds == first.seconds + second.seconds
    assert pooled.blocks == (first, second)
    assert "examples" not in pooled.identity.task


def expert_count(expert, tokens, dropped, weight):
    return SparsityCount(0, f"experts.{expert}", "input", expert, "prefill", None, dropped, 10 * tokens, tokens, weight)


def test_pooled_counts_of_experts_weight_routing_by_the_tokens_of_the_layer():
    first = record_of_block(0, 1, 1.0, (expert_count(0, 8, 4, 0.75), expert_count(1, 2, 1, 0.25)))
    second = record_of_block(1, 4, 1.0, (expert_count(0, 30, 6, 1.0),))  # no token was routed to expert 1
    pooled = {count.expert: count for count in pool_trials([first, second]).counts}
    assert (pooled[0].tokens, pooled[0].dropped, pooled[0].total) == (38, 10, 380)
    assert pooled[0].weight == pytest.approx((0.75 * 10 + 1.0 * 30) / 40)
    assert pooled[1].weight == pytest.approx(0.25 * 10 / 40)
    assert sum(count.weight for count in pooled.values()) == pytest.approx(1.0)


def step_count(step, compared, overlap):
    return StepOverlapCount(0, "layers.0", "input", step, "masked", compared, 1, 10, compared, overlap, overlap)


def test_pooled_overlaps_are_weighted_by_the_compared_tokens():
    first = record_of_block(0, 1, 1.0, step_overlap=(step_count(0, 0, None), step_count(1, 10, 0.5)))
    second = record_of_block(1, 4, 1.0, step_overlap=(step_count(0, 0, None), step_count(1, 30, 0.9)))
    pooled = pool_trials([first, second]).step_overlap
    assert [count.compared for count in pooled] == [0, 40]
    assert pooled[0].overlap_previous is None
    assert pooled[1].overlap_previous == pytest.approx(0.8)


def test_a_damaged_block_is_run_again_alone(small_blocks, spec, tmp_path):
    store = run_study(with_sequences(spec, 8), tmp_path, device="cpu")
    expected = records_and_scores(store)
    damaged = next(record for record in store.trials() if find_block(record.identity.task).first == 4)
    (tmp_path / "samples" / f"{damaged.key}.parquet").unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").rglob("*.json")}
    run_study(with_sequences(spec, 8), tmp_path, device="cpu")
    assert records_and_scores(Store(tmp_path)) == expected
    changed = [path.stem for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert changed == [damaged.key]
