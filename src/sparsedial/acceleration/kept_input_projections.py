"""Projections that skip the weights of the dropped entries of the vector that they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsedial.acceleration.backend import (
    MAX_DECODE_VECTORS,
    KeptInputProduct,
    ProductCounts,
    ProductLimits,
    Selector,
)
from sparsedial.acceleration.dense_calls import DenseCalls
from sparsedial.acceleration.projections import Projections, ProjectionSettings
from sparsedial.acceleration.weight_layout import WeightLayout, WeightMemory
from sparsedial.kernels.dispatch import BoundRule


@dataclass(frozen=True)
class DecodeDescription:
    """Describes a decode step of projections.

    Attributes:
        product: The product of all projections.
        rule: The rule, or None.
        dense_steps: Numbers of vectors for which the product runs without the rule.
        dense_calls: Counts of such calls.
    """

    product: KeptInputProduct
    rule: BoundRule | None
    dense_steps: frozenset[int]
    dense_calls: DenseCalls


class KeptInputProjections(Projections):
    """Projections of a vector whose dropped entries are skipped.

    Args:
        modules: The projections.
        rule: The rule for the vector. None to skip only entries that are zero already.
        settings: What all projections of the model have in common.
        kept_share: Share of the entries that are expected not to be zero if there is no rule. Defaults to 1.
    """

    def __init__(
        self,
        modules: Sequence[nn.Module],
        rule: BoundRule | None,
        settings: ProjectionSettings,
        kept_share: float = 1.0,
    ) -> None:
        super().__init__(modules, rule, settings)
        self.layout = WeightLayout(modules, "input-major")
        self.memory = WeightMemory(modules)
        self._bias = _join_biases(modules, self.output_widths)
        weight = self.layout.joined
        assert weight is not None
        self._limits = ProductLimits(joins_vectors=False)  # of a measurement
        if settings.limits is not None:
            self._limits = settings.limits.find_limits(
                weight, rule, kept_share, times_rule=settings.when_slower == "dense"
            )
        self._dense_steps: frozenset[int] = frozenset()  # numbers of vectors
        if settings.when_slower == "dense":
            is_slower = self._limits.rule_is_slower
            self._dense_steps = frozenset(index + 1 for index, slower in enumerate(is_slower) if slower)
        self._dense_calls = DenseCalls(weight)
        self._product = settings.backend.make_kept_input_product(weight, self._bias, self._limits)
        self._single_products = self._make_single_products()
        self._select: Selector = _identity
        if rule is not None:
            self._select = self._make_selector(rule, self.width)

    def decode(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for a few vectors, which are contiguous.

        Args:
            x: Vectors, shape [..., width].
        """
        return self._split(self.decode_joined(x))

    def decode_joined(self, x: Tensor) -> Tensor:
        """Return the results of `decode` side by side, contiguous.

        Args:
            x: Vectors, shape [..., width].
        """
        if self._is_dense_step(x):
            self._dense_calls.add(x.numel() // self.width)
            return self._product.multiply_dense(x)
        return self._multiply(x)

    def multiply_dense(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, without the rule.

        Args:
            x: Vectors, shape [..., width].
        """
        is_on_gpu = self._device_index >= 0
        if self._single_products and (is_on_gpu or self._limits.prefers_library(x.numel() // self.width)):
            return [product.multiply_dense(x) for product in self._single_products]
        return self._split(self._product.multiply_dense(x))

    def multiply_masked(self, x: Tensor) -> Sequence[Tensor]:
        """Return the results of all projections for many vectors, with the rule.

        Args:
            x: Vectors, shape [..., width].
        """
        if self.rule is not None:
            x, _ = self.rule.call_backend(x)
        return self.multiply_dense(x)

    def apply_densely(self, x: Tensor, index: int, inner: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the result of one projection with the rule, by operations that compilers and autograd understand.

        Args:
            x: Vectors, shape [..., width].
            index: Index of the projection in ``modules``.
            inner: The forward of the module.
        """
        if self.rule is not None:
            x, _ = self.rule(x)
        return inner(x)

    def describe_decode(self) -> DecodeDescription:
        """Return what a decode step computes."""
        return DecodeDescription(self._product, self.rule, self._dense_steps, self._dense_calls)

    def counts(self) -> list[ProductCounts]:
        """Return the counts of all products."""
        return [self._product.counts(), self._dense_calls.counts()]

    def calls_without_rule(self) -> int:
        """Return the number of calls in decode steps that ran without the rule."""
        return self._dense_calls.counts().calls

    def reset(self) -> None:
        """Set the counts to zero."""
        self.prefill_calls = 0
        self._dense_calls.reset()
        self._product.reset()

    def _make_single_products(self) -> list[KeptInputProduct]:
        """Return a product for each projection, for prefill, if there are two.

        PyTorch's activations take longer for parts of a joined result, and so do its float32 products on a CPU.
        """
        products: list[KeptInputProduct] = []
        if not self._shares:
            return products
        start = 0
        for matrix, width in zip(self.layout.matrices, self.output_widths, strict=True):
            bias = self._bias
            if bias is not None:
                bias = bias[start : start + width]
            start += width
            products.append(self.settings.backend.make_kept_input_product(matrix, bias, self._limits))
        return products

    def _is_dense_step(self, x: Tensor) -> bool:
        return x.numel() // self.width in self._dense_steps

    def _multiply(self, x: Tensor) -> Tensor:
        if x.numel() <= MAX_DECODE_VECTORS * self.width:
            return self._product(self._select(x))
        vectors = x.reshape(-1, self.width)
        parts = [self._product(self._select(part)) for part in vectors.split(MAX_DECODE_VECTORS)]
        return torch.cat(parts).unflatten(0, x.shape[:-1])

    def _split(self, joined: Tensor) -> Sequence[Tensor]:
        if self._shares:
            return joined.split(self.output_widths, dim=-1)
        return (joined,)


def _join_biases(modules: Sequence[nn.Module], widths: Sequence[int]) -> Tensor | None:
    """Return the biases of all projections side by side, with zeros for a projection without one."""
    biases = [module._parameters.get("bias") for module in modules]
    if all(bias is None for bias in biases):
        return None
    if len(biases) == 1:
        return biases[0]
    weight = modules[0].weight
    assert isinstance(weight, Tensor)
    parts = []
    for bias, width in zip(biases, widths, strict=True):
        parts.append(weight.new_zeros(width) if bias is None else bias.detach())
    return torch.cat(parts)


def _identity(x: Tensor) -> Tensor:
    return x
