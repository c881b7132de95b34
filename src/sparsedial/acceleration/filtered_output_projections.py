"""The up projection of a plain FFN, where the rule is applied to its output: site "up"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsedial.acceleration.backend import Selector
from sparsedial.acceleration.kept_input_projections import KeptInputProjections
from sparsedial.acceleration.projections import ProjectionSettings
from sparsedial.ffn.feed_forward import FFN
from sparsedial.kernels.dispatch import BoundRule


class FilteredOutputProjections(KeptInputProjections):
    """The up projection of a plain FFN, where the rule is applied to its output u.

    All of u is computed. The dropped entries become zeros of the intermediate vector, which down skips.

    Args:
        ffn: A plain FFN.
        rule: The rule for u.
        settings: What all projections of the model have in common.
    """

    def __init__(self, ffn: FFN, rule: BoundRule, settings: ProjectionSettings) -> None:
        super().__init__(ffn.input_projections, None, settings)
        self._ffn = ffn
        self._output_rule = rule
        self._select_output = self._make_selector(rule, ffn.width)

    def decode_joined(self, x: Tensor) -> Tensor:
        """Return the result of the projection for a few vectors, contiguous.

        Args:
            x: Vectors, shape [..., width].
        """
        return self._filter(super().decode_joined(x), self._select_output)

    def multiply_masked(self, x: Tensor) -> Sequence[Tensor]:
        """Return the result of the projection for many vectors, with the rule.

        Args:
            x: Vectors, shape [..., width].
        """
        return (self._filter(self.multiply_dense(x)[0], self._select_many),)

    def apply_densely(self, x: Tensor, index: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of the projection with the rule, by operations that compilers and autograd understand.

        Args:
            x: Vectors, shape [..., width].
            index: Index of the projection in ``modules``.
            inner: The forward of the module.
        """
        return self._filter(inner(x), self._select_many)

    def _filter(self, output: Tensor, select: Selector) -> Tensor:
        """Set the entries of the output to zero whose entry of u is dropped."""
        u = self._ffn.compute_vector("up", output).contiguous()
        sparse_u = select(u)
        if self._ffn.up.whole and self._ffn.branch("up").is_identity:
            return sparse_u
        output = output.clone()
        raw = self._ffn.up.select(output)
        raw.copy_(torch.where((sparse_u != 0) | (u == 0), raw, 0))
        return output

    def _select_many(self, u: Tensor) -> Tensor:
        return self._output_rule(u)[0]
