"""Sparsity and overlap of kept sets along the denoising steps of a diffusion model.

Kept sets are packed bit masks on the device. Only those of the first step and of the previous step are stored for
each counter, so memory does not grow with the number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pandas as pd
import torch

from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.packed_masks import jaccard, pack, popcount
from sparsedial.hooks.rule_applier import RuleFunction
from sparsedial.hooks.sparsifier import Sparsifier

STATES = ("masked", "revealed")


@dataclass(frozen=True)
class _OverlapRow:
    layer: int
    module: str
    vector: str
    expert: int | None
    step: int
    state: str
    tokens: int
    dropped: int
    total: int
    sparsity: float
    compared: int
    overlap_previous: float
    overlap_first: float


class _TokenSums(NamedTuple):
    """Sums over the tokens of one counter, step and state, in the order of the columns of the sums tensor."""

    tokens: float
    kept: float
    compared: float
    overlap_previous: float
    overlap_first: float


class KeptSetOverlap:
    """Observer of a sparsifier that measures sparsity and overlap of kept sets per counter and denoising step.

    The kept set of a token's vector contains the entries that are not zero after the rule was applied. A token is
    identified by its position in the batch, which is the same in all steps. Step 0 starts a new batch. Experts are not
    observed, because the tokens that they read change from step to step. Kept sets stay on the device.

    Args:
        sparsifier: The sparsifier to observe.

    Attributes:
        counters: Description of each counter of the sparsifier.

    Example:
        >>> import sparsedial as sd
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        ...                                      num_attention_heads=2, vocab_size=64))
        >>> with sd.sparsify(model, site="input", rule=sd.TopK(0.5)) as sparsifier:
        ...     overlap = KeptSetOverlap(sparsifier)
        ...     for step in (0, 1):
        ...         with sparsifier.observe(step=step):
        ...             _ = model(torch.arange(6)[None])
        >>> overlap.table()[["step", "state", "tokens", "sparsity", "overlap_previous", "overlap_first"]]
           step     state  tokens  sparsity  overlap_previous  overlap_first
        0     0  revealed       6       0.5               NaN            NaN
        1     1  revealed       6       0.5               1.0            1.0
    """

    def __init__(self, sparsifier: Sparsifier) -> None:
        self.counters: list[CounterKey] = list(sparsifier.counters)
        self._first: dict[int, torch.Tensor] = {}  # packed kept sets of the first step, by counter
        self._previous: dict[int, torch.Tensor] = {}  # packed kept sets of the previous step, by counter
        # Sums over tokens, by step: float64 of shape [counters, states, fields of `_TokenSums`].
        self._sums: dict[tuple[int, torch.device], torch.Tensor] = {}
        self._kept_counts: dict[int, torch.Tensor] = {}  # how often each entry was kept, float64, by counter
        sparsifier.wrap(self._observe)

    def table(self) -> pd.DataFrame:
        """Return sparsity and overlap per counter, step and state of the tokens.

        Returns:
            Table with the columns layer, module, vector, expert, step, state ("masked" if the tokens are not
            filled in yet, otherwise "revealed"), tokens, dropped, total, sparsity, compared (number of tokens that have
            an earlier step), overlap_previous and overlap_first (mean Jaccard index with the previous and with the
            first step, NaN if there is none).
        """
        sums_on_host: dict[int, torch.Tensor] = {}
        for (step, _), sums in self._sums.items():
            sums_on_host[step] = sums_on_host.get(step, 0) + sums.cpu()
        rows: list[_OverlapRow] = []
        for step in sorted(sums_on_host):
            rows += self._make_rows(step, sums_on_host[step])
        return pd.DataFrame([asdict(row) for row in rows])

    def kept_share(self) -> dict[int, torch.Tensor]:
        """Return the share of tokens for which each entry was kept.

        Returns:
            float64 tensor of shape [width] with values in [0, 1], for each counter that was reached.
        """
        tokens = [0.0] * len(self.counters)
        for sums in self._sums.values():
            for counter, count in enumerate(sums[:, :, 0].sum(1).tolist()):
                tokens[counter] += count
        shares = {}
        for counter, kept in sorted(self._kept_counts.items()):
            shares[counter] = kept.cpu() / max(1.0, tokens[counter])
        return shares

    def usage(self) -> dict[str, float]:
        """Summarise `kept_share` over all entries of all counters.

        Returns:
            "never_kept" and "always_kept": share of the entries that were never or always kept. "kept_median": median
            of the kept share. Empty if no counter was reached.
        """
        shares = list(self.kept_share().values())
        if not shares:
            return {}
        entries = torch.cat(shares)
        return {
            "never_kept": float((entries == 0).double().mean()),
            "always_kept": float((entries == 1).double().mean()),
            "kept_median": float(entries.median()),
        }

    def stored_words(self) -> int:
        """Return the number of 64-bit words in which kept sets of earlier steps are stored."""
        return sum(words.numel() for words in (*self._first.values(), *self._previous.values()))

    def _observe(
        self, counter: int, x: torch.Tensor, context: ForwardContext, inner: RuleFunction
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, kept = inner(counter, x, context)
        if context.step is not None and self.counters[counter].expert is None:
            self._record(counter, context.step, y.reshape(-1, y.shape[-1]) != 0, context)
        return y, kept

    def _record(self, counter: int, step: int, kept: torch.Tensor, context: ForwardContext) -> None:
        count = len(kept)
        device = kept.device
        masked = _flatten_flags(context.masked_tokens, count, device)
        if masked is None:
            masked = torch.zeros(count, dtype=torch.bool, device=device)
        real = _flatten_flags(context.real_tokens, count, device)
        if real is None:
            real = torch.ones_like(masked)
        states = torch.stack([masked & real, ~masked & real]).double()
        columns = self._compare(counter, step, pack(kept))
        with torch.inference_mode(False):  # so that the sums can also be changed outside of inference mode
            if (step, device) not in self._sums:
                shape = (len(self.counters), len(STATES), len(_TokenSums._fields))
                self._sums[step, device] = torch.zeros(shape, dtype=torch.float64, device=device)
            if counter not in self._kept_counts:
                self._kept_counts[counter] = torch.zeros(kept.shape[-1], dtype=torch.float64, device=device)
        self._sums[step, device][counter] += states @ columns
        self._kept_counts[counter] += (kept & real[:, None]).sum(0)

    def _compare(self, counter: int, step: int, words: torch.Tensor) -> torch.Tensor:
        """Return the fields of `_TokenSums` for each token: float64 of shape [tokens, fields]."""
        one = torch.ones(len(words), dtype=torch.float64, device=words.device)
        zero = one * 0
        columns = [one, popcount(words).double()]
        previous = self._previous.get(counter)
        if step and previous is not None and previous.shape == words.shape:
            columns += [one, jaccard(words, previous), jaccard(words, self._first[counter])]
        else:
            columns += [zero, zero, zero]
            self._first[counter] = words
        self._previous[counter] = words
        return torch.stack(columns, 1)

    def _make_rows(self, step: int, sums: torch.Tensor) -> Iterator[_OverlapRow]:
        for key, states in zip(self.counters, sums.tolist(), strict=True):
            for state, values in zip(STATES, states, strict=True):
                counted = _TokenSums(*values)
                if counted.tokens:
                    yield _make_row(key, step, state, counted)


def _make_row(key: CounterKey, step: int, state: str, sums: _TokenSums) -> _OverlapRow:
    total = int(sums.tokens) * key.width
    overlap_previous = float("nan")
    overlap_first = float("nan")
    if sums.compared:
        overlap_previous = sums.overlap_previous / sums.compared
        overlap_first = sums.overlap_first / sums.compared
    return _OverlapRow(
        layer=key.layer,
        module=key.module,
        vector=key.vector,
        expert=key.expert,
        step=step,
        state=state,
        tokens=int(sums.tokens),
        dropped=total - int(sums.kept),
        total=total,
        sparsity=1 - sums.kept / total,
        compared=int(sums.compared),
        overlap_previous=overlap_previous,
        overlap_first=overlap_first,
    )


def _flatten_flags(flags: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor | None:
    """Return one flag per vector, or None if the number of flags differs."""
    if flags is None or flags.numel() != count:
        return None
    return flags.reshape(-1).to(device, non_blocking=True)
