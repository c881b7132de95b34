"""What any backend (or a third party's kernel) must answer: `check(select)` over one table of cases.

Each case is a tensor; each is tried under every rule and a few dials, and held to the definition:
kept sets equal to the float64 reference, but for at most the one boundary entry of a vector, and that
rarely; properties that need no reference; bits of what is kept; -1 and no change where not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from sparsedial.kernels import reference

Select = Callable[[torch.Tensor, str, float], tuple[torch.Tensor, torch.Tensor]]
RULES = ("top_p", "top_k", "max_p")
DIALS = (0.0, 0.3, 0.9, 0.999, 1.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass
class Tally:
    """Vectors seen, and those whose boundary entry differs from the float64 definition."""

    vectors: int = 0
    differ: int = 0


def cases(width: int, rows: int, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The table: fresh random inputs under names that say what is hard about them."""
    normal = torch.randn(rows, width)
    swiglu = torch.nn.functional.silu(torch.randn(rows, width)) * normal
    outlier = normal.clone()
    outlier[:, width // 2] = 2000.0
    broken = normal.clone()
    broken[0, 0] = float("nan")
    broken[rows - 1, width - 1] = float("-inf")
    table = {
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
        "not finite": broken,
    }
    for name, x in table.items():
        yield name, x.to(dtype)


def check(select: Select, x: torch.Tensor, rule: str, dial: float, tally: Tally | None = None) -> None:
    """Assert that ``select(x, rule, dial)`` is right; ``tally`` counts what rounding may move."""
    tally = tally or Tally()
    before = x.clone()
    y, kept = select(x, rule, dial)
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous()
    assert kept.shape == x.shape[:-1] and kept.dtype == torch.int32
    assert torch.equal(_bits(x), _bits(before)), "the input was written to"
    want, want_kept = reference.select(x, rule, dial)
    width = x.shape[-1]
    rows = zip(*(t.reshape(-1, width) for t in (x, y, want)), kept.flatten(), want_kept.flatten(), strict=True)
    for v, got, due, n, due_n in rows if x.numel() else ():
        tally.vectors += 1
        if not torch.isfinite(v).all():
            assert n == -1 and torch.equal(_bits(v), _bits(got))
            continue
        held = got != 0
        assert torch.equal(_bits(got[held]), _bits(v[held])), "a kept entry was changed"
        assert not _bits(got[~held] + 0.0).any(), "a dropped entry is not zero"
        assert int(n) == int(held.sum()) or (rule == "top_k" and int(n) > int(held.sum()))  # zeros may be kept
        differs = int(((got != 0) != (due != 0)).sum())
        assert differs <= 1 and abs(int(n) - int(due_n)) <= 1, f"{rule} {dial}: kept {n}, not {due_n}"
        tally.differ += differs > 0 or int(n) != int(due_n)
        _properties(v, got, rule, dial, exact=differs == 0)


def _properties(v: torch.Tensor, y: torch.Tensor, rule: str, dial: float, exact: bool) -> None:
    """What the definition says, without the reference."""
    size, held = v.double().abs(), y != 0
    if held.any() and not held.all():
        least, most = size[held].min(), size[~held].max()
        assert most <= least, "an entry was dropped that is larger than one that was kept"
        at = (size == least).nonzero().flatten()
        ties = held[at].long()
        assert bool((ties[:-1] >= ties[1:]).all()), "ties: not the lowest index first"
    if rule == "top_p" and 0 < dial < 1 and held.any() and exact:
        total, mass = size.sum(), size[held].sum()
        slack = float(total) * 1e-12
        assert mass >= dial * total - slack, "the mass kept does not reach p"
        assert mass - size[held].min() <= dial * total + slack, "one entry fewer would do"


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
