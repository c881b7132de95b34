"""Log-likelihoods of continuations under a causal model.

Prefixes that windows share are computed once, and the output layer is run only at positions that score a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sparsedial.hooks.output_positions import state_output_positions
from sparsedial.inference.backend import WindowScore
from sparsedial.inference.batching import regroup, values_in_key_order
from sparsedial.inference.logit_budget import LOGITS_PER_CHUNK, max_logit_positions
from sparsedial.inference.model_limits import find_padding_token
from sparsedial.inference.nonfinite_outputs import mark_nonfinite
from sparsedial.inference.prefix_tree import Batch, BatchLimits, Window, WindowKey, batch_trees, build_prefix_trees
from sparsedial.inference.run_context import DEFAULT_RUN, RunContext


@torch.inference_mode()
def compute_loglikelihoods(
    model: Any,
    groups: Sequence[Sequence[Window]],
    *,
    max_length: int,
    max_shared_length: int = 0,
    run: RunContext = DEFAULT_RUN,
) -> list[list[WindowScore]]:
    """Compute the log-likelihood of every continuation, and whether greedy decoding generates it.

    Args:
        model: Causal language model.
        groups: Windows that belong together, such as the options of one question. Common prefixes are computed once.
        max_length: Maximum number of tokens that the model reads. Longer windows are cut on the left.
        max_shared_length: Maximum number of tokens of windows that share prefixes, see `find_max_shared_length`.
            0 shares identical inputs only.
        run: Settings of the evaluation. The progress counts windows.

    Returns:
        The scores, in the order of `groups` and of the windows in each group. A log-likelihood is NaN if the model's
        logits are not finite.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    ...                                      num_attention_heads=2, vocab_size=64))
    >>> options = [Window([1, 2, 3], [4]), Window([1, 2, 3], [5, 6])]
    >>> [scores] = compute_loglikelihoods(model, [options], max_length=100, max_shared_length=100)
    >>> [score.loglikelihood < 0 for score in scores]
    [True, True]
    """
    total = sum(map(len, groups))
    limits = BatchLimits(run.batch_tokens, max_logit_positions(model))
    trees = build_prefix_trees(groups, max_length, min(max_shared_length, limits.tree_tokens))
    batch_scores: list[torch.Tensor] = []
    keys: list[WindowKey] = []
    for batch in batch_trees(trees, limits, find_padding_token(model)):
        batch_scores.append(score_batch(model, batch, run))
        keys += batch.keys
        run.progress(len(keys), total)

    scores: dict[WindowKey, WindowScore] = {}
    # The scores of all batches are copied together, so that the device is synchronized only once.
    rows = torch.cat(batch_scores).tolist() if batch_scores else []
    for key, (loglikelihood, misses) in zip(keys, rows, strict=True):
        scores[key] = WindowScore(loglikelihood, is_greedy=misses == 0)
    return regroup(values_in_key_order(scores), groups)


def score_batch(model: Any, batch: Batch, run: RunContext = DEFAULT_RUN) -> torch.Tensor:
    """Score the windows of one batch in one forward pass.

    Args:
        model: Causal language model.
        batch: Prefix trees.
        run: Settings of the evaluation.

    Returns:
        Tensor of shape [windows, 2] and dtype float64 on the model's device: the log-likelihood, and the number of
        tokens that are not the model's most probable prediction. The log-likelihood is NaN if a logit that it depends
        on is NaN or plus infinity.
    """
    return _score_logits(compute_logits(model, batch, run), batch)


def compute_logits(model: Any, batch: Batch, run: RunContext = DEFAULT_RUN) -> torch.Tensor:
    """Compute the logits with which the windows of one batch are scored, in one forward pass.

    Args:
        model: Causal language model.
        batch: Prefix trees.
        run: Settings of the evaluation.

    Returns:
        Logits at `batch.logit_positions`, shape [N, vocabulary], in the data type and on the device of the model.
    """
    device = model.device
    # These tensors are transferred before the forward pass, because a later transfer would have to wait for it.
    real = batch.real.to(device)
    logit_positions = batch.logit_positions.to(device)
    inputs: dict[str, Any] = {"input_ids": batch.tokens.to(device), "use_cache": False}
    # Rows of trees that do not branch need no mask, because a causal model does not attend to padding on the right.
    if batch.attention_mask is not None and batch.position_ids is not None:
        inputs["attention_mask"] = _additive_mask(batch.attention_mask.to(device), model.dtype)
        inputs["position_ids"] = batch.position_ids.to(device)
    with run.observe(phase="prefill", real=real), only_logits_at(model, logit_positions):
        logits = model(**inputs).logits
    positions = len(batch.logit_positions)
    has_all_logits = logits.shape[0] * logits.shape[1] != positions  # True if the output layer could not be restricted.
    if has_all_logits:
        logits = logits.flatten(0, 1)[logit_positions.to(logits.device)]
    return logits.reshape(positions, -1)


def _score_logits(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Compute the result of `score_batch` from the logits at `batch.logit_positions`, shape [N, vocabulary]."""
    rows = batch.logit_rows.to(logits.device)
    targets = batch.targets.to(logits.device)
    windows = batch.windows.to(logits.device)
    chunked_normalizers = []
    predictions = []
    for chunk in logits.split(max(1, LOGITS_PER_CHUNK // logits.shape[-1])):  # float32 needs up to twice the memory
        precise = chunk.float()
        chunked_normalizers.append(precise.logsumexp(-1))
        predictions.append(precise.argmax(-1))
    normalizers = mark_nonfinite(torch.cat(chunked_normalizers))
    loglikelihoods = logits[rows, targets].float() - normalizers[rows]
    misses = torch.cat(predictions)[rows] != targets
    sums = torch.zeros(len(batch.keys), 2, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, windows, torch.stack([loglikelihoods.double(), misses.double()], 1))


def _additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Convert a boolean mask of shape [B, T, T] to a mask that is added to attention scores, shape [B, 1, T, T]."""
    blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=attention_mask.device)
    allowed = torch.zeros((), dtype=dtype, device=attention_mask.device)
    return torch.where(attention_mask, allowed, blocked)[:, None]


@contextmanager
def only_logits_at(model: Any, positions: torch.Tensor) -> Iterator[None]:
    """Restrict the output layer, which is the widest layer, to a few positions inside the `with` block.

    Args:
        model: Causal language model. Nothing is restricted if its output layer is unknown.
        positions: Indices of the positions in the flattened batch, int64 of shape [positions].

    Yields:
        None: Nothing. The logits have the shape [1, positions, vocabulary].
    """
    output_layer = model.get_output_embeddings()
    if output_layer is None:
        yield
        return

    def select_positions(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0].flatten(0, -2)
        return (hidden[positions.to(hidden.device, non_blocking=True)][None], *args[1:])

    handle = output_layer.register_forward_pre_hook(select_positions)
    try:
        with state_output_positions(positions):
            yield
    finally:
        handle.remove()
