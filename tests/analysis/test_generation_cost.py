"""What generated texts cost: tokens, net work, and the words for it."""

from dataclasses import replace

import numpy as np
import pytest

from sparsedial.analysis.generation_cost import LESS, MORE, UNCLEAR, compare_tokens, judge_net_work, skippable_share
from sparsedial.analysis.results import compute_results
from tests.support.generation_studies import LIMIT, thinking_study
from tests.support.made_up_studies import SKIPPED, SMALL, study


def costs(store):
    return compute_results(store).cost.set_index("p", drop=False)


def test_net_work_is_the_work_that_remains_times_the_ratio_of_the_tokens(tmp_path):
    store = thinking_study(tmp_path, lambda p: 1.1 if p > 0.9 else 1.2, sites=("intermediate",))
    rows = costs(store)
    trials = {trial.p: trial for trial in store.trials() if not trial.identity.is_dense}
    for p, factor in ((0.95, 1.1), (0.8, 1.2)):
        row = rows.loc[p]
        counts = [count for count in trials[p].counts if count.phase == "generation"]
        share = SKIPPED["intermediate"] * sum(c.dropped for c in counts) / sum(c.total for c in counts)
        assert row["token_ratio"] == pytest.approx(factor)
        assert (row["token_ratio_low"], row["token_ratio_high"]) == pytest.approx((factor, factor))
        assert row["skippable_decoding"] == pytest.approx(share)
        assert row["net_work"] == pytest.approx((1 - share) * factor)
        assert row["skippable_prefill"] == pytest.approx(skippable_share(trials[p], "prefill"))
        assert row["skippable_prefill"] != row["skippable_decoding"]
    dense = rows[rows["p"].isna()].iloc[0]
    assert (dense["net_work"], dense["token_ratio"], dense["skippable_decoding"]) == (1, 1, 0)
    assert dense[["verdict", "net_work_low"]].isna().all()


def test_the_interval_is_that_of_examples_that_both_models_have_answered():
    """It is much narrower than that of two independent means, because long texts stay long."""
    random = np.random.default_rng(1)
    dense = random.lognormal(5, 1, 200)
    sparse = dense * random.uniform(1.1, 1.3, 200)
    paired = compare_tokens(dense, sparse)
    shuffled = compare_tokens(dense, random.permutation(sparse))
    assert paired.low < 1.2 < paired.high
    assert paired.high - paired.low < 0.1 * (shuffled.high - shuffled.low)
    assert np.isnan(compare_tokens(dense[:1], sparse[:1]).low)
    assert paired == compare_tokens(dense, sparse)


def test_a_tenth_of_the_intervals_or_less_misses_the_ratio():
    random = np.random.default_rng(2)
    misses = 0
    for _ in range(100):
        dense = random.lognormal(4, 0.5, 100)
        ratio = compare_tokens(dense, dense * random.lognormal(0, 0.4, 100))
        misses += not ratio.low <= np.exp(0.08) <= ratio.high
    assert 1 <= misses <= 10


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.1, 1.3, MORE), (0.7, 0.9, LESS), (0.9, 1.1, UNCLEAR), (np.nan, np.nan, None)]
)
def test_the_verdict_needs_the_whole_interval(low, high, verdict):
    assert judge_net_work(low, high) == verdict


def test_the_report_says_when_sparsity_costs_more_than_it_saves(tmp_path):
    store = thinking_study(tmp_path, lambda p: 1.05 if p > 0.9 else 1.9)
    results = compute_results(store)
    assert results.cost.set_index("p")["verdict"].to_dict()[0.8] == MORE
    [note] = [note for note in results.notes if "costs more than it saves" in note]
    assert note.startswith("fam-100m, input, gsm8k: at p = 0.8 (sparsity 38%), sparsity costs more than it saves.")
    assert "times as many tokens as the dense model" in note
    assert "95% interval: 1." in note
    assert "The length limit ended" in note and "0% of those of the dense model, so it may be more" in note


def test_the_report_says_nothing_where_sparsity_saves_work(tmp_path):
    results = compute_results(thinking_study(tmp_path, lambda p: 1.0))
    assert set(results.cost["verdict"].dropna()) == {LESS}
    assert not [note for note in results.notes if "more than it saves" in note]


def test_accuracy_over_the_finished_texts(tmp_path):
    rows = costs(thinking_study(tmp_path, lambda p: 1.9, scores_finished_only=True))
    row = rows.loc[0.8]
    assert row["limit_hit"] > 0.3
    assert row["score"] == pytest.approx(1 - row["limit_hit"])
    assert row["finished"] == round((1 - row["limit_hit"]) * 200)
    assert (row["score_finished"], row["dense_score_finished"]) == (1, 1)
    none_finished = costs(thinking_study(tmp_path / "none", lambda p: 2 * LIMIT)).loc[0.8]
    assert none_finished["finished"] == 0 and np.isnan(none_finished["score_finished"])


def test_trials_without_the_lengths_of_single_texts_have_no_interval(tmp_path):
    store = study(tmp_path, [SMALL], ("gsm8k",), ("input",), generates=("gsm8k",))
    results = compute_results(store)
    sparse = results.cost.dropna(subset="p")
    assert (sparse["token_ratio"] > 1).all() and sparse["token_ratio_low"].isna().all()
    assert sparse["verdict"].isna().all() and sparse["finished"].isna().all()
    assert set(results.segments["segment"]) == {"prefill", "generation"}


def test_a_rule_in_prefill_only_skips_no_work_in_decoding(tmp_path):
    store = thinking_study(tmp_path, lambda p: 1.5)
    trial = next(trial for trial in store.trials() if not trial.identity.is_dense)
    prefill = replace(trial, counts=tuple(count for count in trial.counts if count.phase == "prefill"))
    assert skippable_share(prefill, "generation") == 0
    assert skippable_share(prefill, "prefill") == skippable_share(trial, "prefill") > 0


def test_a_task_without_texts_has_no_costs(tmp_path):
    results = compute_results(study(tmp_path, [SMALL], ("arc_easy",), ("input",)))
    assert results.cost.empty and results.segments.empty


def test_segments_have_tokens_sparsity_and_ends(tmp_path):
    store = thinking_study(tmp_path, lambda p: 1.9)
    results = compute_results(store)
    at_p = results.segments[results.segments["p"] == 0.8].set_index("segment")
    cost = results.cost.set_index("p").loc[0.8]
    assert list(at_p.index) == ["prefill", "generation", "thinking", "answer"]
    assert at_p.loc["prefill", "tokens"] == 20
    assert at_p.loc["generation", "tokens"] == cost["generated_tokens"]
    assert at_p.loc["thinking", "tokens"] == pytest.approx(0.8 * cost["generated_tokens"])
    assert at_p.loc["answer", "sparsity"] == 0
    assert at_p.loc["generation", "sparsity"] == pytest.approx(at_p.loc["thinking", "sparsity"] / 2)
    assert at_p.loc["thinking", "unclosed"] == at_p.loc["thinking", "limit_hit"] == cost["limit_hit"]
    assert at_p.loc["answer", "limit_hit"] == 0
    dense = results.segments[results.segments["p"].isna()].set_index("segment")
    assert dense["sparsity"].isna().all() and dense.loc["thinking", "unclosed"] == 0
