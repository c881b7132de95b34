"""Checks that the scores of a dense trial can be compared with those of sparse trials (docs/retention.md)."""

from __future__ import annotations

import numpy as np

from sparsedial.curves.chance import is_at_chance
from sparsedial.curves.curve import describe_negative_score
from sparsedial.study.records import TrialRecord

NAMES_OF_INCREASING_METRICS = (
    "acc",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "acc_all",
    "exact_match",
    "prompt_level_strict_acc",
    "prompt_level_loose_acc",
    "inst_level_strict_acc",
    "inst_level_loose_acc",
    "prompt_and_inst_level_strict_acc",
    "inverse_perplexity",
    "inverse_word_perplexity",
    "inverse_byte_perplexity",
    "agreement",
    "expected_agreement",
    "accuracy",
    "restored",
)
"""Metrics of lm-eval and of this package of which higher is better.

The names are needed for records that do not state a direction.
"""


def find_direction(record: TrialRecord) -> bool | None:
    """Return whether higher is better for the metric of a trial.

    Args:
        record: A trial.

    Returns:
        The direction that the record states or, if it states none, that of a metric with a fixed meaning. None if the
        direction is not known. It is never guessed.
    """
    if record.result.higher_is_better is not None:
        return record.result.higher_is_better
    name = record.result.metric.partition(",")[0]  # without the filter
    if name in NAMES_OF_INCREASING_METRICS:
        return True
    return None


def find_score_problem(record: TrialRecord, scores: np.ndarray) -> str | None:
    """Return why no sparse score can be compared with the scores of a dense trial, or None if it can.

    Args:
        record: The dense trial.
        scores: Its per-example scores, shape [examples].

    Returns:
        What was seen, what was expected and what to do.
    """
    result = record.result
    if find_direction(record) is None:
        return (
            f"the record of metric {result.metric!r} does not state whether higher or lower is better; expected a "
            "direction. Set higher_is_better in the metric_list of the task (lm-eval), or in the Scores that the task "
            "returns, and measure again with --out set to a new directory"
        )
    if scores.min() < 0:
        return describe_negative_score(float(scores.min()))
    if result.score > 0:
        return None
    consequence = "there is nothing to retain"
    if not find_direction(record):
        consequence = "no ratio of scores is defined"
    return (
        f"{result.metric} of the dense model is {result.score:g} on {result.examples} examples, so {consequence}. "
        "Use another metric or another model, or leave the task out"
    )


def has_score_at_chance(record: TrialRecord, scores: np.ndarray) -> bool:
    """Return True if the score of a dense trial cannot be told from chance, so that there is nothing to retain.

    Args:
        record: The dense trial. If it does not state the score of random choices, this score is 0.
        scores: Its per-example scores, shape [examples].

    Returns:
        False also for a metric of which lower is better.
    """
    if find_direction(record) is False:
        return False
    return is_at_chance([scores], record.result.chance or 0.0)
