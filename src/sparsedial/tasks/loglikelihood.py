"""Log-likelihoods of continuations: shared contexts computed once, logits only where something is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.sparsify import Dial
from sparsedial.tasks.base import Progress, no_progress, observe
from sparsedial.tasks.packing import Batch, Window, batches, lay_out, plant

NO_LIMIT = 1 << 30


@torch.inference_mode()
def loglikelihoods(
    model: Any,
    groups: Sequence[Sequence[Window]],
    *,
    max_length: int,
    share_up_to: int = 0,
    batch_tokens: int = 4096,
    dial: Dial | None = None,
    progress: Progress = no_progress,
) -> list[list[tuple[float, bool]]]:
    """Per group and window: the continuation's log-likelihood, and whether it is what the model says greedily.

    Args:
        model: a causal language model.
        groups: windows that belong together (the options of one question): they share what they begin with.
        max_length: the model's; longer windows lose tokens on the left.
        share_up_to: see `sharing`; 0 shares nothing but identical inputs.
        batch_tokens: per forward, padding included.
        dial: told that this is prefill, and which tokens are real.
        progress: told windows done.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    ...                                      num_attention_heads=2, vocab_size=64))
    >>> options = [Window([1, 2, 3], [4]), Window([1, 2, 3], [5, 6])]
    >>> [answers] = loglikelihoods(model, [options], max_length=100, share_up_to=100)
    >>> [likely < 0 and isinstance(greedy, bool) for likely, greedy in answers]
    [True, True]
    """
    trees = plant(groups, max_length, share_up_to)
    of, done = sum(map(len, groups)), 0
    results: list[torch.Tensor] = []
    keys: list[tuple[int, int]] = []
    for batch in batches(trees, batch_tokens):
        results.append(_score(model, batch, dial))
        keys += batch.keys
        done += len(batch.keys)
        progress(done, of)
    answers: list[list[tuple[float, bool]]] = [[(0.0, False)] * len(windows) for windows in groups]
    for (group, index), (total, misses) in zip(keys, torch.cat(results).tolist() if results else [], strict=True):
        answers[group][index] = (total, misses == 0)
    return answers


def _score(model: Any, batch: Batch, dial: Dial | None) -> torch.Tensor:
    """One forward: ``[windows, 2]`` in float64 on the device, (log-likelihood, tokens that are not the arg max)."""
    device = model.device
    real, at = batch.real.to(device), batch.at.to(device)  # before the forward, which shall wait for nothing
    inputs: dict[str, Any] = {"input_ids": batch.tokens.to(device), "use_cache": False}
    if batch.attends is not None and batch.positions is not None:  # else rows are padded behind what they say
        inputs["attention_mask"] = _additive(batch.attends.to(device), model.dtype)
        inputs["position_ids"] = batch.positions.to(device)
    with observe(dial, phase="prefill", real=real), _logits_only_at(model, at):
        logits = model(**inputs).logits
    if logits.shape[0] * logits.shape[1] != len(batch.at):  # there was no output layer to narrow
        logits = logits.flatten(0, 1)[at.to(logits.device)]
    logits = logits.reshape(len(batch.at), -1).float()
    row, target, window = (t.to(logits.device) for t in (batch.row, batch.target, batch.window))
    likely = logits[row, target] - logits.logsumexp(-1)[row]
    missed = logits.argmax(-1)[row] != target
    sums = torch.zeros(len(batch.keys), 2, dtype=torch.float64, device=logits.device)
    return sums.index_add_(0, window, torch.stack([likely.double(), missed.double()], 1))


def _additive(attends: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A boolean mask ``[B, T, T]`` as attention adds it: 0 where it may look, the lowest number elsewhere."""
    blocked = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=attends.device)
    return torch.where(attends, torch.zeros((), dtype=dtype, device=attends.device), blocked)[:, None]


@contextmanager
def _logits_only_at(model: Any, at: torch.Tensor) -> Iterator[None]:
    """The output layer, the widest of all, sees only the places ``at`` of the flattened batch."""
    head = model.get_output_embeddings()
    if head is None:
        yield
        return

    def narrow(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flatten(0, -2)[at.to(args[0].device, non_blocking=True)][None], *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


_sharing: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def sharing(model: Any) -> int:
    """Up to how many tokens windows can share a beginning with this model; 0 if not at all.

    It is tried out, not looked up: a small tree must give what its windows give one by one, far better than
    with its positions or its mask made wrong on purpose. A model whose attention cannot be told who sees whom
    (ALiBi, a recurrent state, a kernel without masks) fails that. Sliding and chunked attention bound the length.
    """
    if model not in _sharing:
        _sharing[model] = _try_sharing(model)
    return _sharing[model]


@torch.inference_mode()
def _try_sharing(model: Any) -> int:
    config = model.config.get_text_config()
    beginning, long = [3, 4, 5, 6], list(range(20, 120))  # a long branch: what comes after it is far off if wrong
    probe = [(beginning, long), (beginning, [15, 20, 21, 22]), (beginning, long[:9]), (beginning[:2], [16, 17])]
    windows = [Window(*([t % int(config.vocab_size) for t in part] for part in pair)) for pair in probe]
    [tree] = plant([windows], NO_LIMIT, NO_LIMIT)
    batch, size = lay_out([tree]), len(tree)
    straight = replace(batch, positions=torch.arange(size)[None])
    leaking = replace(batch, attends=torch.ones(1, size, size, dtype=torch.bool).tril())
    chains = [lay_out(plant([[w]], NO_LIMIT, 0), size, masked=True) for w in windows]  # of one shape: little noise
    plain = torch.cat([_score(model, lay_out(plant([[w]], NO_LIMIT, 0)), None)[:, 0].cpu() for w in windows])
    try:
        alone = torch.cat([_score(model, chain, None)[:, 0].cpu() for chain in chains])
        right, *wrong = ((_score(model, b, None)[:, 0].cpu() - alone).abs().sum() for b in (batch, straight, leaking))
    except Exception:  # a model may refuse the mask or the positions in any way it likes
        return 0
    if not (right <= min(wrong) / 2 and (plain - alone).abs().sum() <= plain.abs().sum() / 20):  # nor may it be NaN
        return 0
    bounds = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(b) for b in bounds if b), default=NO_LIMIT)
