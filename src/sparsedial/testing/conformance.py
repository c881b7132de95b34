"""Comparison of the result of a kernel with that of the definition of its rule.

The kept entries must be those of the float64 reference. A kernel may be allowed to differ in boundary entries, where
rounding decides. Kept entries must keep their bits. Vectors that are not finite must stay unchanged and have the count
-1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sparsedial.kernels import reference
from sparsedial.kernels.kernel_registry import Kernel
from sparsedial.rules import MaxP, Rule, TopP, VectorRule
from sparsedial.testing.expectation import expect

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MASS_TOLERANCE = 1e-12
"""Relative rounding error of a sum of magnitudes in float64."""


@dataclass
class Tally:
    """Counts of the checked vectors, and of those whose boundary entry differs from the float64 definition.

    Attributes:
        vectors: Number of checked vectors.
        differing: Number of vectors in which another entry was kept.
    """

    vectors: int = 0
    differing: int = 0


def make_cases(width: int, rows: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield inputs that are difficult for kernels.

    Args:
        width: Number of entries of a vector.
        rows: Number of vectors.
        dtype: Dtype of the inputs.

    Yields:
        tuple[str, torch.Tensor]: Why the input is difficult, and random vectors of shape [rows, width].
    """
    normal = torch.randn(rows, width)
    swiglu = torch.nn.functional.silu(torch.randn(rows, width)) * normal
    outlier = normal.clone()
    outlier[:, width // 2] = 2000.0
    not_finite = normal.clone()
    not_finite[0, 0] = float("nan")
    not_finite[rows - 1, width - 1] = float("-inf")
    inputs = {
        "normal": normal,
        "swiglu": swiglu,
        "scales": normal * torch.randn(rows, width).exp() * torch.rand(rows, 1),
        "ties": (normal * 2).round(),
        "equal": torch.full((rows, width), -0.1),
        "zeros": torch.zeros(rows, width),
        "sparse": normal * (torch.rand(rows, width) < 0.1),
        "outlier": outlier,
        "subnormal": normal.double() * torch.finfo(dtype).smallest_normal / 4,
        "large": normal.clamp(-3, 3).double() * torch.finfo(dtype).max / 3.1,
        "not finite": not_finite,
    }
    for name, x in inputs.items():
        yield name, x.to(dtype)


def check_result(
    kernel: Kernel,
    x: torch.Tensor,
    rule: VectorRule,
    tally: Tally | None = None,
    *,
    max_differing_entries: int = 0,
) -> None:
    """Check the result of a kernel. An `AssertionError` is raised if it is wrong.

    Args:
        kernel: Function of x and the rule.
        x: Vectors of shape [..., D].
        rule: The rule.
        tally: Receives the number of vectors, and of those in which other entries are kept. Defaults to None.
        max_differing_entries: Number of entries of a vector in which the kept set may differ from that of the
            definition, because rounding moved the boundary. Defaults to 0.
    """
    tally = tally or Tally()
    original = x.clone()
    y, kept = kernel(x, rule)
    expect(y.shape == x.shape and y.dtype == x.dtype, f"{rule}: y is {y.dtype} {tuple(y.shape)}, not as {x.dtype} x")
    expect(y.is_contiguous(), f"{rule}: y is not contiguous")
    expect(kept.shape == x.shape[:-1], f"{rule}: the counts have the shape {tuple(kept.shape)}")
    expect(kept.dtype == torch.int32, f"{rule}: the counts are {kept.dtype}, expected torch.int32")
    expect(torch.equal(bits(x), bits(original)), f"{rule}: the input was changed")
    if not x.numel():
        return
    expected_y, expected_kept = reference.select(x, rule)
    width = x.shape[-1]
    vectors = zip(x.reshape(-1, width), y.reshape(-1, width), expected_y.reshape(-1, width), strict=True)
    counts = zip(kept.flatten().tolist(), expected_kept.flatten().tolist(), strict=True)
    for (vector, result, expected), (count, expected_count) in zip(vectors, counts, strict=True):
        tally.vectors += 1
        if not torch.isfinite(vector).all():
            expect(count == -1, f"{rule}: the count of a vector with NaN or Inf is {count}, expected -1")
            expect(torch.equal(bits(vector), bits(result)), f"{rule}: a vector with NaN or Inf was changed")
            continue
        _check_values(vector, result, rule)
        nonzero = int((result != 0).sum())
        counts_zeros = expected_count > int((expected != 0).sum())  # top-k can keep zeros
        expect(count == nonzero or (count > nonzero and counts_zeros), f"{rule}: count {count}, {nonzero} entries kept")
        difference = int(((result != 0) != (expected != 0)).sum())
        expect(
            max(difference, abs(count - expected_count)) <= max_differing_entries,
            f"{rule}: {difference} entries differ from the definition; kept {count}, expected {expected_count}",
        )
        tally.differing += difference > 0 or count != expected_count
        if isinstance(rule, MaxP) or (isinstance(rule, Rule) and rule.keeps_lowest_index_first):
            check_order(vector, result, rule)
        if isinstance(rule, TopP) and 0 < rule.value < 1 and difference == 0:
            _check_mass(vector, result, rule)


def check_order(vector: torch.Tensor, result: torch.Tensor, rule: object) -> None:
    """Check that the largest entries are kept and, of equal ones, those with the lowest index.

    Args:
        vector: Vector of shape [D].
        result: The vector with dropped entries set to zero.
        rule: The rule, for the error message.
    """
    magnitudes = vector.double().abs()
    is_kept = result != 0
    if not is_kept.any() or is_kept.all():
        return
    smallest_kept = magnitudes[is_kept].min()
    expect(magnitudes[~is_kept].max() <= smallest_kept, f"{rule}: dropped an entry that is larger than a kept one")
    ties = is_kept[magnitudes == smallest_kept].long()
    expect((ties[:-1] >= ties[1:]).all(), f"{rule}: of equal entries, the lowest index was not kept first")


def bits(x: torch.Tensor) -> torch.Tensor:
    """Return the bits of floats as integers, so that NaN and the sign of zero can be compared.

    Args:
        x: Float tensor.
    """
    integer_types = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(integer_types[x.element_size()])


def _check_values(vector: torch.Tensor, result: torch.Tensor, rule: object) -> None:
    is_nonzero = result != 0
    expect(torch.equal(bits(result[is_nonzero]), bits(vector[is_nonzero])), f"{rule}: a kept entry was changed")
    expect(not bits(result[~is_nonzero] + 0.0).any(), f"{rule}: a dropped entry is not zero")


def _check_mass(vector: torch.Tensor, result: torch.Tensor, rule: TopP) -> None:
    magnitudes = vector.double().abs()
    if rule.q != 1.0:
        magnitudes = (magnitudes / magnitudes.max().clamp_min(torch.finfo(torch.float64).tiny)) ** rule.q
    is_kept = result != 0
    if not is_kept.any():
        return
    total = magnitudes.sum()
    mass = magnitudes[is_kept].sum()
    slack = float(total) * MASS_TOLERANCE
    expect(mass >= rule.p * total - slack, f"{rule}: the mass that is kept does not reach p")
    expect(mass - magnitudes[is_kept].min() <= rule.p * total + slack, f"{rule}: one entry fewer would reach p")
