"""Requests grouped into windows, and scores put together again."""

from sparsedial.inference.backend import WindowScore
from sparsedial.inference.prefix_tree import Window
from sparsedial.tasks.lm_eval.answering import LoglikelihoodPlan
from sparsedial.tasks.lm_eval.requests import (
    LOGLIKELIHOOD,
    ROLLING_LOGLIKELIHOOD,
    ContinuationToScore,
    GenerationRequest,
    LoglikelihoodRequest,
    PreparedRequests,
)


def request(doc, *continuations, kind=LOGLIKELIHOOD):
    windows = tuple(ContinuationToScore(doc, list(tokens)) for tokens in continuations)
    return LoglikelihoodRequest(doc, 0, 1, kind, windows)


def test_windows_are_grouped_by_document_and_summed_by_request():
    text = GenerationRequest(2, 0, 1, 0, (), 4, {})
    requests = (request(0, [7], [8]), text, request(1, [9]), request(0, [5]))
    plan = LoglikelihoodPlan.from_requests(PreparedRequests(16, ([1], [2]), requests))
    assert [window.continuation for window in plan.groups[0]] == [[7], [8], [5]]
    assert [window.continuation for window in plan.groups[1]] == [[9]]
    assert [group[0].context for group in plan.groups] == [[1], [2]]
    scores = plan.scatter(
        [[WindowScore(-1.0, True), WindowScore(-2.0, False), WindowScore(-4.0, True)], [WindowScore(-8.0, True)]]
    )
    assert scores == {0: WindowScore(-3.0, False), 3: WindowScore(-4.0, True), 2: WindowScore(-8.0, True)}


def test_the_windows_of_a_rolling_request_are_separate_groups():
    requests = (request(0, [7], [8], kind=ROLLING_LOGLIKELIHOOD), request(0, kind=ROLLING_LOGLIKELIHOOD))
    plan = LoglikelihoodPlan.from_requests(PreparedRequests(16, ([1],), requests))
    assert plan.groups == ([Window([1], [7])], [Window([1], [8])])
    assert plan.scatter([[WindowScore(-1.0, True)], [WindowScore(-2.0, True)]]) == {0: WindowScore(-3.0, True)}
