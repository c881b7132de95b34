"""The work of the requests of an lm-eval task, counted from their tokens."""

from __future__ import annotations

from collections.abc import Mapping

from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.prefix_tree import MAX_TREE_TOKENS, build_prefix_trees
from sparsedial.models.kind import CAUSAL
from sparsedial.tasks.lm_eval.answering import LoglikelihoodPlan
from sparsedial.tasks.lm_eval.requests import PreparedRequests
from sparsedial.tasks.workload import Workload


def count_work(
    prepared: PreparedRequests,
    kind: str,
    diffusion: DiffusionOptions,
    target_tokens: Mapping[int, int],
    need_greedy: bool,
) -> Workload:
    """Return the work of requests.

    Args:
        prepared: The requests in the tokens of a model.
        kind: Kind of the model.
        diffusion: Settings for diffusion models.
        target_tokens: Tokens of the expected answer of each document, by its index.
        need_greedy: Whether a diffusion model also has to generate each continuation.

    Returns:
        The work. For a causal model, beginnings that requests of a document share are counted once.
    """
    if kind == CAUSAL:
        return _count_causal_work(prepared, target_tokens)
    return _count_denoising_work(prepared, diffusion, need_greedy)


def _count_causal_work(prepared: PreparedRequests, target_tokens: Mapping[int, int]) -> Workload:
    groups = LoglikelihoodPlan.from_requests(prepared).groups
    trees = build_prefix_trees(groups, prepared.max_length, MAX_TREE_TOKENS)
    prefill = float(sum(map(len, trees)))
    scored = float(sum(tree.scored_tokens for tree in trees))
    longest = max(map(len, trees), default=0)
    fewest = most = 0.0
    for request in prepared.generation_requests().values():
        prompt = len(prepared.contexts[request.context])
        prefill += request.repeats * prompt
        scored += request.repeats
        fewest += request.repeats * min(request.limit, target_tokens.get(request.doc, 1))
        most += request.repeats * request.limit
        longest = max(longest, prompt + request.limit)
    return Workload(len(prepared.documents()), prefill, scored, fewest, most, longest)


def _count_denoising_work(prepared: PreparedRequests, diffusion: DiffusionOptions, need_greedy: bool) -> Workload:
    """Return the work of a diffusion model, which reads whole sequences in every forward pass."""
    rows = diffusion.denoising.rows_per_sequence
    prefill = scored = 0.0
    longest = 0
    for group in LoglikelihoodPlan.from_requests(prepared).groups:
        for window in group:
            length = len(window.tokens)
            passes = diffusion.mc_samples + need_greedy * len(window.continuation)
            prefill += passes * length * rows
            scored += passes * length * rows  # these models compute the logits of all positions
            longest = max(longest, length)
    for request in prepared.generation_requests().values():
        length = len(prepared.contexts[request.context]) + request.limit
        steps = diffusion.denoising.steps or request.limit
        prefill += request.repeats * steps * length * rows
        scored += request.repeats * steps * length * rows
        longest = max(longest, length)
    return Workload(len(prepared.documents()), prefill, scored, longest_row=longest)
