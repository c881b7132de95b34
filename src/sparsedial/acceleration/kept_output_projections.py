"""Projections of an FFN of which one selects the entries that the other one has to compute: sites "up" and "gate"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsedial.acceleration.backend import Backend, KeptOutputProduct, ProductCounts, ProductLimits
from sparsedial.acceleration.projections import Projections, ProjectionSettings, call_class_forward
from sparsedial.acceleration.weight_layout import WeightLayout, WeightMemory
from sparsedial.errors import ModelError
from sparsedial.ffn.expression import OutputSlice
from sparsedial.ffn.feed_forward import FFN
from sparsedial.kernels.dispatch import BoundRule

OTHER_VECTOR = {"up": "gate", "gate": "up"}


class KeptOutputProjections(Projections):
    """Up and gate, where the rule is applied to u or g, and the other vector is computed for the kept entries only.

    Args:
        ffn: A gated FFN.
        vector: The vector that the rule is applied to, "up" for u or "gate" for g.
        rule: The rule.
        settings: What all projections of the model have in common.
    """

    def __init__(self, ffn: FFN, vector: str, rule: BoundRule, settings: ProjectionSettings) -> None:
        check_outputs_can_be_skipped(ffn, vector)
        super().__init__(ffn.input_projections, rule, settings)
        self._ffn = ffn
        self._vector = vector
        self._clears_own = ffn.preserves_zero(vector)
        self._own_part, _ = ffn.branch(vector)
        self._other_part, _ = ffn.branch(OTHER_VECTOR[vector])
        self.layout = WeightLayout(self.modules, "output-major")
        self.memory = WeightMemory(self.modules)
        self._own = self._make_product(self._own_part, settings.backend)
        self._other = self._make_product(self._other_part, settings.backend)
        self._select = self._make_selector(rule, ffn.width)

    def decode(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for a few vectors, which are contiguous.

        Args:
            x: Vectors, shape [..., width].
        """
        all_outputs = torch.ones((*x.shape[:-1], self._ffn.width), dtype=torch.bool, device=x.device)
        own = self._own(x, all_outputs)
        activation = self._compute_activation(own)
        kept = self._select(activation.contiguous()) != 0
        if self._clears_own:
            own = torch.where(kept | (activation == 0), own, 0)
        return self._arrange_outputs(own, self._other(x, kept))

    def multiply_dense(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, without the rule.

        Args:
            x: Vectors, shape [..., width].
        """
        return [call_class_forward(module, x) for module in self.modules]

    def multiply_masked(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, with the rule.

        Args:
            x: Vectors, shape [..., width].
        """
        outputs = self.multiply_dense(x)
        own = self._own_part.select(outputs[self.modules.index(self._own_part.module)])
        other = self._other_part.select(outputs[self.modules.index(self._other_part.module)])
        activation = self._compute_activation(own)
        assert self.rule is not None
        kept = self.rule(activation)[0] != 0
        if self._clears_own:
            own = torch.where(kept | (activation == 0), own, 0)
        return self._arrange_outputs(own, torch.where(kept, other, 0))

    def apply_densely(self, x: Tensor, index: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of one projection with the rule, by operations that compilers and autograd understand.

        Args:
            x: Vectors, shape [..., width].
            index: Index of the projection in ``modules``.
            inner: The forward of the module.
        """
        return self.multiply_masked(x)[index]

    def counts(self) -> list[ProductCounts]:
        """Return the counts of all products."""
        return [self._own.counts(), self._other.counts()]

    def reset(self) -> None:
        """Set the counts to zero."""
        self.prefill_calls = 0
        self._own.reset()
        self._other.reset()

    def _make_product(self, part: OutputSlice, backend: Backend) -> KeptOutputProduct:
        module = part.module
        weight = self.layout.matrices[self.modules.index(module)]
        rows = slice(part.start, part.start + part.step * part.width, part.step)
        bias: Tensor | None = module._parameters.get("bias")
        if bias is not None:
            bias = bias[rows]
        return backend.make_kept_output_product(weight[rows], bias, ProductLimits())

    def _compute_activation(self, own: Tensor) -> Tensor:
        """Return u or g for the slice of the projection's output that it is computed from."""
        part, value = self._ffn.branch(self._vector)
        if value is None or value.part is not None:
            return own
        return value({part: own})

    def _arrange_outputs(self, own: Tensor, other: Tensor) -> Sequence[Tensor]:
        """Return the outputs of the projections, which contain both slices."""
        if len(self.modules) == 2:
            if self._own_part.module is self.modules[0]:
                return own, other
            return other, own
        output = own.new_empty((*own.shape[:-1], 2 * self._ffn.width))
        self._own_part.select(output).copy_(own)
        self._other_part.select(output).copy_(other)
        return (output,)


def check_outputs_can_be_skipped(ffn: FFN, vector: str) -> None:
    """Raise an error if an FFN does not multiply u by g, or has further outputs.

    Args:
        ffn: A gated FFN.
        vector: The vector that the rule is applied to.

    Raises:
        ModelError: Dropped entries of the vector do not make entries of the other one superfluous.
    """
    is_product = ffn.intermediate_is_product and (ffn.preserves_zero("up") or ffn.preserves_zero("gate"))
    parts = [ffn.branch(name)[0] for name in OTHER_VECTOR]
    modules = {part.module for part in parts}
    is_complete = len(modules) == 2 or sum(part.width for part in parts) == 2 * ffn.width
    if not is_product or not (is_complete and (len(modules) == 1 or all(part.whole for part in parts))):
        raise ModelError(
            f"accelerate: {ffn.name} cannot skip weights at the site {vector!r}, because its intermediate vector is "
            "not the product of two complete outputs of its projections. Choose the site input, intermediate or "
            "all_inputs."
        )
