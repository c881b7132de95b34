"""The suite for kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from sparsedial.kernels.kernel_registry import Kernel
from sparsedial.rules import Rule, VectorRule
from sparsedial.testing.conformance import DTYPES, Tally, check_result, make_cases

WIDTHS = (1, 2, 31, 33, 576)
DISTANCES = (0.0, 0.001, 0.1, 0.7, 1.0)
"""Distances from the dense value at which rules are checked."""

SHAPES = ((0,), (0, 5), (3, 0), (2, 0, 4), (5,), (2, 3, 4, 5))


def rules_at_distances(rule_class: type[Rule]) -> Iterator[Rule]:
    """Yield a rule at several values, from the dense to the sparsest one.

    Args:
        rule_class: Class of the rule.

    Yields:
        Rule: The rule.
    """
    for distance in DISTANCES:
        yield rule_class(rule_class.value_at(distance))  # type: ignore[call-arg]  # the first field of every rule


def check_kernel(
    kernel: Kernel,
    rules: type[Rule] | Callable[[int], Iterable[VectorRule]],
    *,
    device: str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
    widths: Sequence[int] = WIDTHS,
    max_differing_entries: int = 0,
) -> Tally:
    """Check that a kernel keeps the same entries as the definition of its rule, and returns what `apply_rule` does.

    An `AssertionError` is raised for the first difference. The vectors have ties, zeros, outliers, subnormal and very
    large numbers, NaN and infinities. Views with other strides and empty tensors are checked as well.

    Args:
        kernel: Function of ``(x, rule)`` that is or will be registered with `register_kernel`.
        rules: Class of the rule, which is checked at five values. Or a function that returns the rules to check for a
            width, for example objects that `Rule.bind` has returned.
        device: Device of the vectors. Defaults to "cpu".
        dtypes: Dtypes of the vectors. Defaults to all that `apply_rule` accepts.
        widths: Numbers of entries of the vectors.
        max_differing_entries: Number of entries of a vector in which the kept set may differ from that of the
            definition. Defaults to 0. 1 is reasonable for a kernel that adds magnitudes in another order.

    Returns:
        The number of vectors, and of those in which other entries are kept.

    Example:
        >>> import sparsedial as sd
        >>> from sparsedial.kernels import cpu_backend
        >>> check_kernel(cpu_backend.select, sd.TopK, widths=(5,), dtypes=(torch.float32,)).differing
        0
    """
    tally = Tally()
    generator_state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        for dtype in dtypes:
            for width in widths:
                for x in _make_inputs(width, dtype):
                    for rule in _list_rules(rules, width):
                        check_result(kernel, x.to(device), rule, tally, max_differing_entries=max_differing_entries)
        for shape in SHAPES:
            for rule in _list_rules(rules, shape[-1]):
                x = torch.randn(shape, device=device).to(dtypes[0])
                check_result(kernel, x, rule, tally, max_differing_entries=max_differing_entries)
    finally:
        torch.set_rng_state(generator_state)
    return tally


def _list_rules(rules: Any, width: int) -> Iterable[VectorRule]:
    if isinstance(rules, type):
        return rules_at_distances(rules)
    return rules(width)


def _make_inputs(width: int, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    for name, x in make_cases(width, 3, dtype):
        if name == "large" and dtype == torch.float64:
            continue  # a sum overflows float64, so a definition can have no answer
        yield x
    storage = torch.randn(4, width, 6).to(dtype)
    yield storage[:, :, 0]
    yield storage.transpose(1, 2)[1::2]
    yield storage[:1, :, 1].expand(3, width)
