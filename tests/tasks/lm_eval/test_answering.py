"""Requests grouped into windows, and scores put together again."""

from sparsedial.inference.backend import WindowScore
from sparsedial.tasks.lm_eval.answering import LoglikelihoodPlan
from sparsedial.tasks.lm_eval.requests import (
    ROLLING_LOGLIKELIHOOD,
    ContinuationToScore,
    GenerationRequest,
    LoglikelihoodRequest,
    PreparedRequests,
)


def request(doc, *continuations):
    windows = tuple(ContinuationToScore(doc, list(tokens)) for tokens in continuations)
    return LoglikelihoodRequest(doc, 0, 1, ROLLING_LOGLIKELIHOOD, windows)


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
