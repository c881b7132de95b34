"""The CUDA backend (Triton): one program per vector, which stays in registers from the read to the write.

With q(u) the mass (top-p) or number (top-k) of the entries whose magnitude's bit pattern is at least
``u``, the program narrows a bracket ``lo <= u < hi`` with ``q(lo) >= target > q(hi)``, two evaluations
a pass, interpolating; a bracket of one pattern, or of one entry, settles the vector: everything from
``hi`` up stays, and of the entries in the bracket the first few. Nothing is sorted and nothing leaves
the chip in between. With few vectors a call (decoding) the search begins where the call before ended.
"""

# ruff: noqa: SIM300 (capitals are Triton's compile-time parameters here, not constants)
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from sparsedial.errors import SpecError
from sparsedial.kernels import reference

TOP_P, TOP_K, MAX_P = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
RULES = {"top_p": 0, "top_k": 1, "max_p": 2}
WIDEST = 32768  # the widest vector that fits on chip; wider ones take the reference


@triton.jit
def _add(a, b, c, d):
    return a + c, b + d


@triton.jit
def _eights(v, EXACT: tl.constexpr):
    """The sums of each eight neighbours, in float64.

    16-bit floats are added in float32 within the eight, which loses nothing as long as these lie
    within 13 binades of each other; wider floats in float64 throughout.
    """
    if EXACT:
        v = v.to(tl.float64)
    return tl.sum(tl.reshape(v, (v.shape[0] // 8, 8)), 1).to(tl.float64)


@triton.jit
def _q(s, below, above, BY_MASS: tl.constexpr, EXACT: tl.constexpr):
    """The mass (or number) at two magnitudes and above, in one reduction."""
    a = tl.abs(s)
    one = a if BY_MASS else 1.0
    p = _eights(tl.where(a >= below, one, 0.0), EXACT)
    q = _eights(tl.where(a >= above, one, 0.0), EXACT)
    return tl.reduce((p, q), 0, _add)


@triton.jit
def _last(s, index, lo, hi, more):
    """The index of the entry in [lo, hi) that is number ``more``."""
    a = tl.abs(s)
    # Per eight neighbours: which are inside, a bit each, and above these bits how many.
    packed = tl.where((a >= lo) & (a < hi), (1 << (index & 7)) + 256, 0)
    packed = tl.sum(tl.reshape(packed, (s.shape[0] // 8, 8)), 1)
    n = packed >> 8
    upto = tl.cumsum(n, 0)
    # The eight in which it lies hands over its number, its bits, and how many of them to pass.
    take = more - (upto - n)
    here = (take > 0) & (take <= n)
    eight = tl.arange(0, s.shape[0] // 8)
    found = tl.sum(tl.where(here, (eight << 12) + (take << 8) + (packed & 255), 0), 0)
    take = (found >> 8) & 15
    last = 0
    for bit in tl.static_range(8):
        take -= (found >> bit) & 1
        last += tl.where(take > 0, 1, 0)
    return (found >> 12) * 8 + last


@triton.jit
def _value(u, DTYPE: tl.constexpr):
    """The magnitude with bit pattern ``u``, in float32; of bfloat16 an eighth, so that eight do not overflow."""
    if DTYPE == tl.float32:
        v = u.to(tl.float32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        v = (u << 16).to(tl.float32, bitcast=True) * 0.125
    else:
        v = u.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return v


@triton.jit
def _pattern(v, DTYPE: tl.constexpr):
    """The bit pattern of a magnitude, rounded to the dtype (one way or another)."""
    if DTYPE == tl.float32:
        u = v.to(tl.int32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        u = (v * 8.0).to(tl.int32, bitcast=True) >> 16
    else:
        u = v.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    return u


@triton.jit
def _select(
    x_ptr,
    y_ptr,
    kept_ptr,
    hint_ptr,  # the threshold that the call before found, over the mean magnitude; 0: none yet
    value: tl.float64,  # the dial; for top-k, the count. Typed, because Triton takes a float for float32
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
    SPREAD: tl.constexpr,
    FEW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * WIDTH + index, mask=index < WIDTH, other=0.0)
    EXACT: tl.constexpr = DTYPE == tl.float32
    BY_MASS: tl.constexpr = RULE == TOP_P
    if DTYPE == tl.bfloat16:
        s = _value(x.to(tl.int16, bitcast=True).to(tl.int32), DTYPE)
        infinity = 0x7F80
    else:
        s = x.to(tl.float32)
        infinity = 0x7F800000 if EXACT else 0x7C00
    mass = tl.sum(_eights(tl.abs(s), EXACT), 0)
    finite = mass < float("inf")

    # What stays: `hi` and above, and of [lo, hi) all up to index `last`. To begin with, nothing.
    lo = tl.zeros((), tl.int32) + infinity
    hi = lo
    last = WIDTH
    if RULE == MAX_P:
        top = tl.max(tl.abs(s), 0)
        exact = value * top.to(tl.float64)
        hi = _pattern(exact.to(tl.float32), DTYPE)
        if _value(hi, DTYPE).to(tl.float64) < exact:
            hi += 1
        elif (hi > 0) & (_value(tl.maximum(hi - 1, 0), DTYPE).to(tl.float64) >= exact):
            hi -= 1  # rounded twice on its way to 16 bits
        hi = tl.maximum(hi, 1)
    else:
        if BY_MASS:
            total = mass
            target = value * total
            todo = (value > 0.0) & (value < 1.0) & (total > 0.0) & finite
            if value >= 1.0:
                hi = lo * 0 + 1
        else:
            total = mass * 0.0 + WIDTH
            target = mass * 0.0 + value
            todo = (value > 0.0) & (value < WIDTH) & finite
            if value >= WIDTH:
                hi = lo * 0
        if todo:
            lo = lo * 0
            q_lo = total
            q_hi = total * 0.0
            # The first guess: where a normal (top-p) or a Laplace vector (top-k) of this mean has it.
            mean = (mass / WIDTH).to(tl.float32)
            depth = tl.log((target / total).to(tl.float32))
            ratio = 1.2533 * tl.sqrt(-2.0 * depth) if BY_MASS else -depth
            if FEW:
                hint = tl.load(hint_ptr)
                if hint > 0.0:
                    ratio = hint
            guess = mean * ratio
            reach = guess * SPREAD
            step = target * 0.0 + (0.0 if BY_MASS else 1.0)  # what one entry at lo adds
            tries = 0
            while (hi - lo > 1) & (tl.abs(q_lo - q_hi - step) >= 0.5 * step):
                below = _pattern(tl.maximum(guess - reach, 0.0), DTYPE)
                above = _pattern(guess + reach, DTYPE) + 1
                if tries >= 5:  # a distribution that interpolation does not suit
                    below = lo + (hi - lo) // 3
                    above = hi - (hi - lo) // 3
                below = tl.minimum(tl.maximum(below, lo + 1), hi - 1)
                above = tl.minimum(tl.maximum(above, below), hi - 1)
                v_below = _value(below, DTYPE)
                v_above = _value(above, DTYPE)
                q_below, q_above = _q(s, v_below, v_above, BY_MASS, EXACT)
                if q_below < target:
                    hi = below
                    q_hi = q_below
                elif q_above < target:
                    lo = below
                    q_lo = q_below
                    hi = above
                    q_hi = q_above
                else:
                    lo = above
                    q_lo = q_above
                v_lo = _value(lo, DTYPE)
                v_hi = _value(tl.minimum(hi, infinity - 1), DTYPE)
                if hi == infinity:  # all guesses were too low: the tail taken for exponential
                    guess = v_lo * depth / tl.log((q_lo / total).to(tl.float32))
                    reach = guess * 2.0 * SPREAD
                elif (lo == 0) & BY_MASS:  # all too high: near zero the mass left out grows with the square
                    guess = v_hi * tl.sqrt(((total - target) / (total - q_hi)).to(tl.float32))
                    reach = guess * 2.0 * SPREAD
                else:
                    guess = v_hi + (v_lo - v_hi) * ((target - q_hi) / (q_lo - q_hi)).to(tl.float32)
                    reach = (v_hi - v_lo) * 0.03
                if BY_MASS:
                    step = v_lo.to(tl.float64)
                tries += 1
            if (row == 0) & (lo > 0) & FEW:
                tl.store(hint_ptr, _value(lo, DTYPE) / mean)
            # Of the bracket's entries (all equal, or one), as many as the target takes.
            step = tl.maximum(step, 1e-300)
            more = tl.minimum((target - q_hi) / step, 40000.0).to(tl.int32)
            if q_hi + more * step < target:
                more += 1
            if (more > 1) & (q_hi + (more - 1) * step >= target):
                more -= 1
            more = tl.maximum(more, 1)
            if more + 0.5 < (q_lo - q_hi) / step:
                last = _last(s, index, _value(lo, DTYPE), _value(hi, DTYPE), more)

    hi_v = _value(hi, DTYPE)
    least = tl.where(index <= last, tl.minimum(_value(lo, DTYPE), hi_v), hi_v)
    keep = (tl.abs(s) >= least) | (finite == 0)
    count = tl.where(finite, tl.minimum(tl.sum(keep.to(tl.int32), 0), WIDTH), -1)
    tl.store(y_ptr + row * WIDTH + index, tl.where(keep, x, 0.0), mask=index < WIDTH)
    tl.store(kept_ptr + row, count)  # one number: it may lie anywhere, and not as the first call's did


_ready: dict[Any, Callable[..., None]] = {}  # compiled kernels, by all that a launch depends on but its addresses
_hints: dict[Any, torch.Tensor] = {}  # by the same keys, where a search with few vectors begins
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_INTERPRETED = not isinstance(_select, triton.runtime.JITFunction)
MANY = 132  # rows, from which there is more than one for each multiprocessor


def _options(block: int, rows: int) -> dict[str, int]:
    """32 entries a thread, up to 8 warps; with rows to fill the machine, registers for several programs at a time."""
    most = {4096: 96, 16384: 128}.get(block, 0) if rows > MANY else 0
    return {"num_warps": min(max(block // 1024, 1), 8)} | ({"maxnreg": most} if most else {})


def _spread(width: int) -> float:
    """How far around its first guess a search looks: about what chance does to a vector that wide."""
    return min(2.5 / math.sqrt(width), 0.1)


def select(
    x: torch.Tensor, rule: str, value: float, kept: torch.Tensor | None = None, again: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on a CUDA tensor: see `sparsedial.kernels.reference.select`, whose answer it gives.

    float64, and vectors wider than `WIDEST`, take the reference. Not ``again`` from a compiled model, whose graphs
    have memory of their own: where a search ended is kept for good.
    """
    # In a decode step the host's time is what counts: nothing is asked twice, and all that can be known is looked up.
    x = x.contiguous()
    width, index, address = x.shape[-1], x.get_device(), x.data_ptr()
    rows = x.numel() // width if width else 0
    key = (rule, width, x.dtype, index, rows > MANY, again, address % 16)
    launch = _ready.get(key)
    if launch is None or rows == 0:
        return _first(x, rule, value, again, key)
    if rule == "top_k":
        value = float(reference.top_k(value, width))
    y = torch.empty_like(x)
    if kept is None:
        kept = x.new_empty(x.shape[:-1], dtype=torch.int32)
    if index == torch._C._cuda_getDevice():
        launch(rows, index, address, y.data_ptr(), kept.data_ptr(), value)
    else:
        with torch.cuda.device(index):
            launch(rows, index, address, y.data_ptr(), kept.data_ptr(), value)
    return y, kept


def _first(x: torch.Tensor, rule: str, value: float, again: bool, key: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The long way: a contiguous x is looked at in every way, and the kernel compiled and kept under ``key``."""
    width = x.shape[-1]
    dtype = _DTYPES.get(x.dtype)
    if width > WIDEST or dtype is None or x.numel() == 0:
        return reference.select(x, rule, value)
    if not (x.is_cuda or _INTERPRETED):
        raise SpecError(f"the triton backend needs a CUDA tensor (or TRITON_INTERPRET=1), got one on {x.device}")
    y = torch.empty_like(x)
    kept = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    rows = x.numel() // width
    block = max(triton.next_power_of_2(width), 16)
    few = again and rows <= MANY
    constants = (width, block, RULES[rule], dtype, _spread(width), few)
    hint = _hints.setdefault(key, torch.zeros(1, dtype=torch.float32, device=x.device)) if few else kept
    if rule == "top_k":
        value = float(reference.top_k(value, width))
    if _INTERPRETED:
        _select[(rows, 1, 1)](x, y, kept, hint, value, *constants)
        return y, kept
    with torch.cuda.device(x.device):
        kernel = _select[(rows, 1, 1)](x, y, kept, hint, value, *constants, **_options(block, rows))
    _ready[key] = _launcher(kernel, hint, constants)
    return y, kept


def _launcher(kernel: Any, hint: torch.Tensor, constants: tuple[Any, ...]) -> Callable[..., None]:
    """Triton's own looks every argument over on each call; what it would find does not change here."""
    run, function, metadata = kernel.run, kernel.function, kernel.packed_metadata
    stream_of, hint_at = torch._C._cuda_getCurrentRawStream, hint.data_ptr()

    def launch(rows: int, index: int, x: int, y: int, kept: int, value: float) -> None:
        run(rows, 1, 1, stream_of(index), function, metadata, None, None, None, x, y, kept, hint_at, value, *constants)

    return launch
