"""The CUDA backend (Triton): one program per vector, which stays in registers from the read to the write.

With q(u) the mass (top-p) or number (top-k) of the entries whose magnitude's bit pattern is at least
``u``, the program narrows a bracket ``lo <= u < hi`` with ``q(lo) >= target > q(hi)``, two evaluations
a pass, interpolating; a bracket of one pattern, or of one entry, settles the vector: everything from
``hi`` up stays, and of the entries in the bracket the first few. Nothing is sorted and nothing leaves
the chip in between.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
import triton
import triton.language as tl

from sparsedial.kernels import reference

TOP_P, TOP_K, MAX_P = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
RULES = {"top_p": 0, "top_k": 1, "max_p": 2}
WIDEST = 32768  # the widest vector that fits on chip; wider ones take the reference


@triton.jit
def _q(a, u, at, BY_MASS: tl.constexpr, EXACT: tl.constexpr):
    """Mass or number of the entries with pattern ``at`` or above, in float64.

    16-bit floats are first added eight by eight in float32, which loses nothing as long as the eight
    lie within 13 binades of each other; wider floats are added in float64 throughout.
    """
    if BY_MASS:
        if EXACT:
            return tl.sum(tl.where(u >= at, a, 0.0).to(tl.float64), 0)
        part = tl.sum(tl.reshape(tl.where(u >= at, a, 0.0), (a.shape[0] // 8, 8)), 1)
        return tl.sum(part.to(tl.float64), 0)
    return tl.sum((u >= at).to(tl.int32), 0).to(tl.float64)


@triton.jit
def _value(u, DTYPE: tl.constexpr):
    """The magnitude with bit pattern ``u``, in float32."""
    if DTYPE == tl.float32:
        return u.to(tl.float32, bitcast=True)
    return u.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)


@triton.jit
def _pattern(v, DTYPE: tl.constexpr):
    """The bit pattern of a magnitude, rounded to the dtype."""
    if DTYPE == tl.float32:
        return v.to(tl.int32, bitcast=True)
    return v.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)


@triton.jit
def _select(
    x_ptr, y_ptr, kept_ptr, low, high, WIDTH: tl.constexpr, BLOCK: tl.constexpr, RULE: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * WIDTH + index, mask=index < WIDTH, other=0.0)
    # The dial's float64 bits come in two halves, because Triton rounds a float argument to float32.
    value = ((high.to(tl.int64) << 32) | (low.to(tl.int64) & 0xFFFFFFFF)).to(tl.float64, bitcast=True)
    EXACT: tl.constexpr = DTYPE == tl.float32
    BY_MASS: tl.constexpr = RULE == TOP_P
    if EXACT:
        u = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        infinity = 0x7F800000
    else:
        u = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
        infinity = 0x7F80 if DTYPE == tl.bfloat16 else 0x7C00
    a = tl.abs(x.to(tl.float32))
    top = tl.max(u, 0)

    # What stays: all of `hi` and above, and the first `more` of [lo, hi). To begin with, nothing.
    lo = top + 1
    hi = top + 1
    more = 0
    if top >= infinity:
        lo = top * 0
        hi = top * 0
    elif RULE == MAX_P:
        exact = value * _value(top, DTYPE).to(tl.float64)
        hi = _pattern(exact.to(tl.float32), DTYPE)
        if _value(hi, DTYPE).to(tl.float64) < exact:
            hi += 1
        elif (hi > 0) & (_value(tl.maximum(hi - 1, 0), DTYPE).to(tl.float64) >= exact):
            hi -= 1  # rounded twice on its way to 16 bits
        hi = tl.maximum(hi, 1)
        lo = hi
    else:
        mass = _q(a, u, 1, True, EXACT)
        if BY_MASS:
            total = mass
            target = value * total
            todo = (value > 0.0) & (value < 1.0) & (total > 0.0)
            if value >= 1.0:
                lo = top * 0 + 1
                hi = lo
        else:
            total = mass * 0.0 + WIDTH
            target = ((value * WIDTH + 0.5).to(tl.int32)).to(tl.float64)
            todo = (target > 0.0) & (target < WIDTH)
            if target >= WIDTH:
                lo = top * 0
                hi = lo
        if todo:
            lo = top * 0
            q_lo = total
            q_hi = total * 0.0
            # The first guess: where a normal (top-p) or a Laplace vector (top-k) of this mean has it.
            mean = (mass / WIDTH).to(tl.float32)
            share = (target / total).to(tl.float32)
            if BY_MASS:
                guess = mean * 1.2533 * tl.sqrt(-2.0 * tl.log(share))
            else:
                guess = mean * -tl.log(share)
            reach = guess * 0.06
            tries = 0
            while (hi - lo > 1) & (q_lo - q_hi > (1.5 * _value(lo, DTYPE).to(tl.float64) if BY_MASS else 1.5)):
                below = _pattern(tl.maximum(guess - reach, 0.0), DTYPE)
                above = _pattern(guess + reach, DTYPE) + 1
                if tries >= 5:  # a distribution that interpolation does not suit
                    below = lo + (hi - lo) // 3
                    above = hi - (hi - lo) // 3
                below = tl.minimum(tl.maximum(below, lo + 1), hi - 1)
                above = tl.minimum(tl.maximum(above, below), hi - 1)
                q_below = _q(a, u, below, BY_MASS, EXACT)
                q_above = _q(a, u, above, BY_MASS, EXACT)
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
                guess = v_hi + (v_lo - v_hi) * ((target - q_hi) / (q_lo - q_hi)).to(tl.float32)
                reach = (v_hi - v_lo) * 0.06
                tries += 1
            # Of the bracket's entries (all equal, or one), as many as the target takes.
            step = _value(lo, DTYPE).to(tl.float64) if BY_MASS else target * 0.0 + 1.0
            more = ((target - q_hi) / step).to(tl.int32) if step > 0.0 else 1
            if q_hi + more * step < target:
                more += 1
            if (more > 1) & (q_hi + (more - 1) * step >= target):
                more -= 1
            more = tl.maximum(more, 1)

    keep = u >= hi
    count = tl.sum(keep.to(tl.int32), 0)
    if more > 0:
        inside = (u >= lo) & (u < hi) & (index < WIDTH)
        n = tl.sum(inside.to(tl.int32), 0)
        if more < n:
            inside = inside & (tl.cumsum(inside.to(tl.int32), 0) <= more)
        keep = keep | inside
        count += tl.minimum(n, more)
    if top >= infinity:
        count = top * 0 - 1
    tl.store(y_ptr + row * WIDTH + index, tl.where(keep, x, 0.0), mask=index < WIDTH)
    tl.store(kept_ptr + row, count)
