"""Reuse of masks along the denoising steps of a diffusion model."""

from __future__ import annotations

import torch

from sparsedial.errors import SpecError
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.packed_masks import pack, popcount, unpack
from sparsedial.hooks.rule_applier import RuleFunction
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.hooks.thread_state import current_thread
from sparsedial.rules import Rule

_MaskKey = tuple[int, int, Rule | None]  # thread, counter and rule


class MaskReuse:
    """Wrapper that applies the rule only at every k-th denoising step and reuses each token's mask at the other steps.

    The rule is applied in every forward pass if the pass is not a denoising step, if the vector belongs to an expert,
    or if ``k`` is 1. A mask is reused by the thread that computed it, as long as the sparsifier's rule does not change.

    Args:
        k: Number of steps for which a mask is used, at least 1.

    Attributes:
        k: Number of steps for which a mask is used.

    Raises:
        SpecError: k is below 1.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise SpecError(f"MaskReuse(k={k}): expected at least 1 step.")
        self.k = k
        self._experts: set[int] = set()
        self._masks: dict[_MaskKey, torch.Tensor] = {}  # packed
        self._sparsifier: Sparsifier | None = None

    def attach(self, sparsifier: Sparsifier) -> None:
        """Start to reuse the masks of a sparsifier.

        Args:
            sparsifier: The sparsifier. An object of this class must be attached to one sparsifier only.
        """
        self._sparsifier = sparsifier
        for index, key in enumerate(sparsifier.counters):
            if key.expert is not None:
                self._experts.add(index)
        if self.k > 1:
            sparsifier.wrap(self.apply)

    def apply(
        self, counter: int, x: torch.Tensor, context: ForwardContext, inner: RuleFunction
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the rule, or the mask of an earlier step.

        Args:
            counter: Index of the counter.
            x: Vectors of shape [..., D].
            context: Context of the forward pass.
            inner: Function that applies the rule.

        Returns:
            y of shape [..., D], and the number of kept entries per vector, int32 of shape [...]. It is -1 for a
            vector with a NaN or Inf.
        """
        if context.step is None or counter in self._experts:
            return inner(counter, x, context)
        width = x.shape[-1]
        key = self._make_key(counter)
        words = self._masks.get(key)
        if context.step % self.k == 0 or words is None or len(words) != x.numel() // width:
            y, kept = inner(counter, x, context)
            self._masks[key] = pack(y.reshape(-1, width) != 0)
            return y, kept
        mask = unpack(words, width).view(x.shape)
        finite = torch.isfinite(x).all(-1)
        y = torch.where(mask | ~finite[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        return y, torch.where(finite, popcount(words).view(x.shape[:-1]), -1).to(torch.int32)

    def _make_key(self, counter: int) -> _MaskKey:
        rule = None
        if self._sparsifier is not None:
            rule = self._sparsifier.active_rule(counter)
        return current_thread(), counter, rule
