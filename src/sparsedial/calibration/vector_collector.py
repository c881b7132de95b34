"""Values of the vectors of a site, while a dense model scores the examples of a task."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sparsedial.errors import AttachError
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.rule_applier import RuleFunction
from sparsedial.hooks.sparsifier import Sparsifier


class VectorCollector:
    """Copies of the first vectors of each counter of a sparsifier, whose rule keeps every entry.

    Args:
        sparsifier: The sparsifier, which the collector wraps.
        tokens: Number of tokens after which the vectors of a counter are no longer copied.
    """

    def __init__(self, sparsifier: Sparsifier, tokens: int) -> None:
        self._keys = sparsifier.counters
        self._tokens = tokens
        self._chunks: list[list[torch.Tensor]] = [[] for _ in self._keys]
        self._counts = [0] * len(self._keys)
        sparsifier.wrap(self._observe)

    @property
    def keys(self) -> Sequence[CounterKey]:
        """Description of each counter."""
        return self._keys

    @property
    def most_tokens(self) -> int:
        """Number of tokens of the counter that has seen the most, at most the requested number.

        Counters of experts differ. All others have seen the same tokens.
        """
        return max(self._counts)

    def vectors(self, counter: int) -> torch.Tensor:
        """Return the values of a vector, shape [tokens, D], in the dtype of the model, on the CPU.

        Args:
            counter: Index of the counter.
        """
        width = self._keys[counter].width
        return torch.cat([torch.empty(0, width), *self._chunks[counter]])

    def _observe(
        self, counter: int, x: torch.Tensor, context: ForwardContext, inner: RuleFunction
    ) -> tuple[torch.Tensor, torch.Tensor]:
        missing = self._tokens - self._counts[counter]
        if missing > 0:
            rows = self._select_real(counter, x.detach(), context)[:missing]
            self._chunks[counter].append(rows.cpu())
            self._counts[counter] += len(rows)
        return inner(counter, x, context)

    def _select_real(self, counter: int, x: torch.Tensor, context: ForwardContext) -> torch.Tensor:
        """Return the vectors of real tokens, shape [tokens, D]."""
        rows = x.reshape(-1, x.shape[-1])
        real = context.real_tokens
        if real is None and context.unknown_padding is None:
            return rows
        if real is not None and bool(real.all()):
            return rows
        if real is not None and real.numel() == len(rows) and not self._keys[counter].is_time_major:
            return rows[real.reshape(-1).to(rows.device)]
        raise AttachError(
            f"{self._keys[counter].module}: calibration cannot tell which of its {len(rows)} vectors are padding. "
            "Calibrate on texts of equal length, such as the model's own samples."
        )
