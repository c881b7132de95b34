"""Checks of what is counted in an architecture: padding, and the phase of a step with a cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import nn

import sparsedial as sd
from sparsedial.cache_arguments import cache_argument, returned_cache
from sparsedial.errors import AttachError
from sparsedial.ffn import FFN, FFNs
from sparsedial.hook_arguments import first_argument

LENGTH = 8
SHORT_LENGTH = 5
ROUNDING = (
    0.02  # Batched and single rows are rounded differently, which moves a few entries across the rule's boundary.
)

COUNTED = "counted"
ERROR = "error"
NO_CACHE = "no cache"
NOT_CALLED = "not called"


def check_padding(model: nn.Module, ffns: FFNs) -> str:
    """Assert that a padded batch is counted like its rows, one by one and without padding.

    Args:
        model: The model.
        ffns: Its FFNs.

    Returns:
        "counted", or "error" if the sparsifier raises an error instead of counting padding.
    """
    tokens = _make_tokens()
    mask = torch.ones_like(tokens)
    mask[1, SHORT_LENGTH:] = 0
    try:
        padded = _count(model, ffns, [{"input_ids": tokens, "attention_mask": mask}])
    except AttachError:
        return ERROR
    single_rows = [{"input_ids": tokens[:1]}, {"input_ids": tokens[1:, :SHORT_LENGTH]}]
    unpadded = _count(model, ffns, single_rows)
    assert padded["tokens"].equals(unpadded["tokens"]), "padding is counted"
    difference = padded["dropped"] / padded["total"] - unpadded["dropped"] / unpadded["total"]
    assert difference.abs().max() <= ROUNDING, "the counts of a padded batch differ from those of its rows"
    return COUNTED


def check_cached_step(model: Any, ffns: FFNs) -> str:
    """Assert that each forward with a cache is counted in the right phase.

    The forwards are those of `generate`. If it fails for the tiny model, they are one over all tokens and one over the
    last token with the cache of the first. A forward that computes fewer vectors than the first one uses a cache, so it
    belongs to the phase "generation".

    Args:
        model: The model.
        ffns: Its FFNs.

    Returns:
        "counted", "no cache" if each forward computes all tokens again, or "not called" if the model cannot be called
        with a cache, also without a sparsifier.
    """
    for config in (model.config, model.generation_config):
        config.use_cache = True
    run = _find_cached_run(model)
    if run is None:
        return NOT_CALLED
    ffn = ffns[0]
    counts = _VectorCounts(model, ffn)
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5), ffns=ffns) as sparsifier:
        run(model)
    counts.remove()
    first, *following = counts.per_forward
    generation = sum(vectors for vectors in following if vectors < first)
    prefill = sum(counts.per_forward) - generation
    table = sparsifier.stats()
    is_same_layer = table["module"].str.startswith(ffn.moe_path or ffn.name) & (table["layer"] == ffn.layer)
    counted = table[is_same_layer].groupby("phase")["tokens"].sum().to_dict()
    # An expert counts each token that is routed to it, so the counts have a common factor.
    assert counted.get("generation", 0) * prefill == counted["prefill"] * generation, (
        f"the phases are {counted}, expected a ratio of {prefill} to {generation}"
    )
    return COUNTED if generation else NO_CACHE


def _find_cached_run(model: nn.Module) -> Callable[[Any], None] | None:
    """Return a function that runs the model with a cache, or None if the model supports none of them."""
    for run in (_generate, _call_twice):
        try:
            with torch.no_grad():
                run(model)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            continue
        return run
    return None


def _generate(model: Any) -> None:
    tokens = _make_tokens()
    model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, min_new_tokens=3, do_sample=False,
        pad_token_id=0, eos_token_id=None, use_cache=True,
    )  # fmt: skip


def _call_twice(model: Any) -> None:
    tokens = _make_tokens()
    cache = returned_cache(model(input_ids=tokens, use_cache=True))
    model(input_ids=tokens[:, -1:], **{cache_argument(model.forward): cache})


class _VectorCounts:
    """Number of input vectors of one FFN in each forward of a model, counted without a sparsifier."""

    def __init__(self, model: nn.Module, ffn: FFN) -> None:
        self.per_forward: list[int] = []
        reader = ffn.stacked_module or ffn.up.module
        self._handles = [
            model.register_forward_pre_hook(self._start_forward, prepend=True),
            reader.register_forward_pre_hook(self._add_vectors, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _start_forward(self, *_: Any) -> None:
        self.per_forward.append(0)

    def _add_vectors(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = first_argument(args, kwargs)
        self.per_forward[-1] += x.shape[:-1].numel()


def _make_tokens() -> torch.Tensor:
    return torch.randint(3, 128, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def _count(model: nn.Module, ffns: FFNs, calls: list[dict[str, torch.Tensor]]) -> pd.DataFrame:
    """Return the sums over the experts of each layer, because padding does not change the routing of real tokens."""
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopP(0.5), ffns=ffns) as sparsifier:
        for arguments in calls:
            model(**arguments)
    table = sparsifier.stats()
    paths = {ffn.name: ffn.moe_path or ffn.name for ffn in ffns}
    return table.groupby(table["module"].map(paths))[["tokens", "dropped", "total"]].sum()
