"""A conformance suite for backends: `check` compares a backend, or a kernel from elsewhere, with the definition.

`make_cases` gives the inputs. Each is tried with every rule and several rule parameters. The kept entries must be those
of the float64 reference. In a vector whose mass falls within rounding of the target, the one boundary entry may differ.
Kept entries must keep their bits. Vectors that are not finite must stay unchanged and have the count -1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sparsedial.kernels import reference
from sparsedial.rules import Rule, make_rule

Select = Callable[[torch.Tensor, Rule], tuple[torch.Tensor, torch.Tensor]]
RULE_NAMES = ("top_p", "top_k", "max_p")
RULE_VALUES = (0.0, 0.3, 0.9, 0.999, 1.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass
class Tally:
    """Counts the checked vectors, and those whose boundary entry differs from the float64 definition."""

    vectors: int = 0
    differing: int = 0


def make_cases(width: int, rows: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield random inputs, shape [rows, width], each with a name that says why it is difficult."""
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


def check(select: Select, x: torch.Tensor, rule: Rule, tally: Tally | None = None) -> None:
    """Assert that a backend gives the right result, and count in ``tally`` where rounding moved the boundary."""
    tally = tally or Tally()
    original = x.clone()
    y, kept = select(x, rule)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.is_contiguous()
    assert kept.shape == x.shape[:-1]
    assert kept.dtype == torch.int32
    assert torch.equal(_bits(x), _bits(original)), "the input was written to"
    if not x.numel():
        return
    expected_y, expected_kept = reference.select(x, rule)
    width = x.shape[-1]
    vectors = zip(x.reshape(-1, width), y.reshape(-1, width), expected_y.reshape(-1, width), strict=True)
    counts = zip(kept.flatten().tolist(), expected_kept.flatten().tolist(), strict=True)
    for (vector, result, expected), (count, expected_count) in zip(vectors, counts, strict=True):
        tally.vectors += 1
        if not torch.isfinite(vector).all():
            assert count == -1
            assert torch.equal(_bits(vector), _bits(result))
            continue
        _check_values(vector, result, count, rule)
        difference = int(((result != 0) != (expected != 0)).sum())
        assert difference <= 1 and abs(count - expected_count) <= 1, f"{rule}: kept {count}, not {expected_count}"
        tally.differing += difference > 0 or count != expected_count
        _check_order(vector, result)
        if rule.name == "top_p" and 0 < rule.value < 1 and difference == 0:
            _check_mass(vector, result, rule.value)


def make_rules() -> Iterator[Rule]:
    """Yield every rule with every rule parameter to try."""
    for name in RULE_NAMES:
        for value in RULE_VALUES:
            yield make_rule(name, value)


def _check_values(vector: torch.Tensor, result: torch.Tensor, count: int, rule: Rule) -> None:
    is_nonzero = result != 0
    nonzero = int(is_nonzero.sum())
    assert torch.equal(_bits(result[is_nonzero]), _bits(vector[is_nonzero])), "a kept entry was changed"
    assert not _bits(result[~is_nonzero] + 0.0).any(), "a dropped entry is not zero"
    assert count == nonzero or (rule.name == "top_k" and count > nonzero)  # top-k may keep zeros


def _check_order(vector: torch.Tensor, result: torch.Tensor) -> None:
    magnitudes = vector.double().abs()
    is_kept = result != 0
    if not is_kept.any() or is_kept.all():
        return
    smallest_kept = magnitudes[is_kept].min()
    assert magnitudes[~is_kept].max() <= smallest_kept, "an entry was dropped that is larger than one that was kept"
    ties = is_kept[magnitudes == smallest_kept].long()
    assert bool((ties[:-1] >= ties[1:]).all()), "of equal entries, the lowest index was not kept first"


def _check_mass(vector: torch.Tensor, result: torch.Tensor, p: float) -> None:
    magnitudes = vector.double().abs()
    is_kept = result != 0
    if not is_kept.any():
        return
    total = magnitudes.sum()
    mass = magnitudes[is_kept].sum()
    slack = float(total) * 1e-12
    assert mass >= p * total - slack, "the mass that is kept does not reach p"
    assert mass - magnitudes[is_kept].min() <= p * total + slack, "one entry fewer would reach p"


def _bits(x: torch.Tensor) -> torch.Tensor:
    integer_types = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.contiguous().view(integer_types[x.element_size()])
