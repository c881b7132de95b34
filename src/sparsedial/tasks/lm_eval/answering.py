"""Answer the requests of an lm-eval task with a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sparsedial.errors import NonFiniteOutputError
from sparsedial.inference.backend import InferenceBackend, WindowScore
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import Progress, RunContext
from sparsedial.tasks.lm_eval.generation_statistics import TextStatistics, average_texts
from sparsedial.tasks.lm_eval.requests import ROLLING_LOGLIKELIHOOD, LoglikelihoodRequest, PreparedRequests

EMPTY_TEXT_SCORE = WindowScore(0.0, is_greedy=True)
"""Score of a request that has no token to score."""


@dataclass(frozen=True)
class Answers:
    """Answers to all requests of a task.

    Attributes:
        responses: For each request, one answer per repeat in lm-eval's format: a pair of the log-likelihood and
            whether the continuation is greedy, a log-likelihood (rolling), or a text.
        texts: Statistics of the generated texts. Empty if no text was generated.
    """

    responses: list[list[Any]]
    texts: tuple[TextStatistics, ...] = ()

    @property
    def details(self) -> dict[str, float]:
        """Means over the generated texts by name. Empty if no text was generated."""
        return average_texts(self.texts) if self.texts else {}


@dataclass(frozen=True)
class LoglikelihoodPlan:
    """Windows of all requests for log-likelihoods, in groups that are scored together.

    The windows of a document share their beginnings, so they form a group. The windows of a rolling request are
    consecutive parts of one text, so each is a group of its own.

    Attributes:
        groups: Windows of each document, or a single window of a rolling request.
        request_indices: For each window in `groups`, the index of its request.
    """

    groups: tuple[list[Window], ...]
    request_indices: tuple[list[int], ...]

    @classmethod
    def from_requests(cls, prepared: PreparedRequests) -> LoglikelihoodPlan:
        """Return the plan for all requests of a task.

        Args:
            prepared: Requests of the task. Generation requests are ignored.

        Returns:
            The groups, in the order of the first request of each.
        """
        windows: dict[tuple[int, ...], list[Window]] = defaultdict(list)
        indices: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, request in prepared.loglikelihood_requests().items():
            for part, window in enumerate(request.windows):
                key: tuple[int, ...] = (request.doc,)
                if request.kind == ROLLING_LOGLIKELIHOOD:
                    key = (request.doc, index, part)
                windows[key].append(Window(prepared.contexts[window.context], window.continuation))
                indices[key].append(index)
        return cls(tuple(windows.values()), tuple(indices.values()))

    def scatter(self, scores: Sequence[Sequence[WindowScore]]) -> dict[int, WindowScore]:
        """Sum the scores of the windows of each request.

        Args:
            scores: Score of each window in `groups`.

        Returns:
            The scores by the index of the request. A request is greedy if all its windows are. Requests without
            windows are missing.
        """
        by_request: dict[int, list[WindowScore]] = defaultdict(list)
        for group_indices, group_scores in zip(self.request_indices, scores, strict=True):
            for index, score in zip(group_indices, group_scores, strict=True):
                by_request[index].append(score)
        return {index: _add_scores(window_scores) for index, window_scores in by_request.items()}


def answer_requests(
    backend: InferenceBackend, prepared: PreparedRequests, task_name: str, need_greedy: bool, run: RunContext
) -> Answers:
    """Run a model on all requests of a task.

    Args:
        backend: Inference backend of the model.
        prepared: Requests in the tokens of the model.
        task_name: Name of the task, for error messages.
        need_greedy: Whether a metric needs to know if continuations are greedy, which needs more forward passes of
            diffusion models.
        run: Sparsifier, progress, batch size and seed of the evaluation.

    Returns:
        The answers, in the order of the requests.

    Raises:
        NonFiniteOutputError: A log-likelihood is NaN, or the logits of a generation are.
        TaskError: The model refuses the options of a generation.
    """
    responses: list[list[Any]] = [[] for _ in prepared.requests]
    scored = prepared.loglikelihood_requests()
    generated = _repeat_indices(prepared)
    total = len(scored) + len(generated)
    if scored:
        scoring_run = replace(run, progress=_progress_in_requests(run.progress, len(scored), total))
        scores = _score_requests(backend, prepared, need_greedy, scoring_run)
        for index, request in scored.items():
            score = scores.get(index, EMPTY_TEXT_SCORE)
            if math.isnan(score.loglikelihood):  # minus infinity is allowed
                alone = replace(prepared, requests=(request,), max_shared_length=0)
                raise NonFiniteOutputError(_describe_nan(backend, alone, task_name, run))
            responses[index] = [_lm_eval_response(request, score)] * request.repeats
    if not generated:
        return Answers(responses)
    texts = _generate_texts(backend, prepared, generated, run.part(len(scored), total))
    generations = prepared.generation_requests()
    statistics = []
    for index, text in zip(generated, texts, strict=True):
        generation = generations[index]
        responses[index].append(_decode(backend, text, generation.until))
        prompt = prepared.contexts[generation.context]
        statistics.append(TextStatistics.from_text(generation.doc, prompt, text, run.divider))
    return Answers(responses, tuple(statistics))


def _score_requests(
    backend: InferenceBackend, prepared: PreparedRequests, need_greedy: bool, run: RunContext
) -> dict[int, WindowScore]:
    """Return the scores of the log-likelihood requests, by their index."""
    plan = LoglikelihoodPlan.from_requests(prepared)
    scores = backend.loglikelihoods(
        plan.groups,
        max_length=prepared.max_length,
        max_shared_length=prepared.max_shared_length,
        need_greedy=need_greedy,
        run=run,
    )
    return plan.scatter(scores)


def _progress_in_requests(progress: Progress, requests: int, total: int) -> Progress:
    """Return a callback that converts progress in windows into progress in requests."""

    def report(completed_windows: int, windows: int) -> None:
        progress(completed_windows * requests // windows, total)

    return report


def _add_scores(scores: Sequence[WindowScore]) -> WindowScore:
    """Return the sum of the log-likelihoods, which is greedy if all windows are greedy."""
    loglikelihood = sum(score.loglikelihood for score in scores)
    return WindowScore(loglikelihood, all(score.is_greedy for score in scores))


def _describe_nan(backend: InferenceBackend, prepared: PreparedRequests, task_name: str, run: RunContext) -> str:
    """Return the error message for the NaN log-likelihood of the only request in ``prepared``."""
    repeat = partial(_score_requests, backend, prepared, False, run.without_progress())
    description = describe_nonfinite_logits(backend.lm.model, repeat)
    return f"task {task_name!r}, document {prepared.requests[0].doc}: {description}"


def _lm_eval_response(request: LoglikelihoodRequest, score: WindowScore) -> float | tuple[float, bool]:
    """Return a score in the form that lm-eval's tasks expect."""
    if request.kind == ROLLING_LOGLIKELIHOOD:
        return score.loglikelihood
    return score.loglikelihood, score.is_greedy


def _repeat_indices(prepared: PreparedRequests) -> list[int]:
    """Return the indices of the generation requests, each repeated once per text that lm-eval expects."""
    indices = []
    for index, request in prepared.generation_requests().items():
        indices += [index] * request.repeats
    return indices


def _generate_texts(
    backend: InferenceBackend, prepared: PreparedRequests, indices: Sequence[int], run: RunContext
) -> list[GeneratedTokens]:
    requests = prepared.generation_requests()
    prompts = []
    for index in indices:
        request = requests[index]
        tokens = prepared.contexts[request.context]
        prompts.append(Prompt(tokens, request.until, request.limit, dict(request.options)))
    return backend.generate(prompts, run)


def _decode(backend: InferenceBackend, text: GeneratedTokens, until: Sequence[str]) -> str:
    """Return the generated text, truncated at the first stop string as in lm-eval."""
    from lm_eval.models.utils import postprocess_generated_text

    decoded = backend.lm.tokenizer.decode(text.tokens, skip_special_tokens=True)
    return postprocess_generated_text(decoded, stop=list(until), think_end_token=None)
