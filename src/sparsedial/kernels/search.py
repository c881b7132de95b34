"""Threshold search on the CPU, compiled by numba: one vector at a time, exact, without a sort.

A rule keeps the entries above a threshold ``t`` and, of those equal to it, the first few; so the work
is to find ``t``. With q(t) the mass (top-p) or the number (top-k) of entries at or above ``t``, a
bracket ``lo <= t < hi`` with ``q(lo) >= target > q(hi)`` is narrowed by vectorised passes over a copy
of the magnitudes that stays in cache, starting from where another search ended; when few entries are
left inside, the search goes on among these alone. All sums are float64.

Everything that numba compiles is here: what it caches on disk is stamped with its own file only.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]  # numba exports it untyped
from numba.extending import intrinsic

RULES = {"top_p": 0, "top_k": 1, "max_p": 2}
TOP_P, TOP_K = RULES["top_p"], RULES["top_k"]
BF16, F16 = 16, 13  # left shifts
CHUNK = 16384  # elements a thread claims at a time
FEW = 32  # candidates that are cheaper to sort than to split further
ENDS = FEW + 2  # words that a search needs besides two for every entry

_sums = njit(inline="never", cache=True, fastmath={"reassoc", "nsz", "contract"})  # leaf loops only; never on NaN
_plain = njit(cache=True, error_model="numpy")


@_plain
def _largest(bits):
    top = bits[0]
    for i in range(bits.size):
        top = max(top, bits[i])
    return top


class Scratch(NamedTuple):
    """One thread's memory."""

    a: Any  # the row's magnitudes
    bits: Any  # the same memory, as integers
    inside: Any  # one byte per entry
    words: Any  # the same memory, eight entries at a time
    few: Any  # the last candidates
    at: Any  # one number
    at_bits: Any  # its bits


@_plain
def _scratch(memory, width, a_type, bits_type):
    """Memory for a search in vectors of one width, laid out: ``2 * width + ENDS`` float64."""
    a = memory[:width].view(a_type)[:width]
    words = memory[width : width + (width + 7) // 8].view(np.uint64)
    words[-1] = 0  # the vector's end need not fill it
    few = memory[2 * width : 2 * width + FEW + 1].view(a_type)[: FEW + 1]  # `_gather` writes before it decides
    at = memory[2 * width + FEW + 1 :].view(a_type)[:1]
    return Scratch(a, a.view(bits_type), words.view(np.uint8), words, few, at, at.view(bits_type))


@_plain
def _cold(warm, by_mass, share):
    """A first search begins at the threshold of a normal vector (top-p), of a Laplace one (top-k)."""
    z = math.sqrt(-2.0 * math.log(max(share, 1e-9)))
    if by_mass:
        warm[0], warm[1] = 1.2533 * z, -0.8 * max(z * share, 1e-3)
    else:
        warm[0], warm[1] = z * z / 2, -max(share, 1e-3)


@_plain
def _load(x, a, bits, shift):
    """A row's magnitudes into scratch ``a`` (``bits`` is the same memory); whether all are finite.

    All on the bits, so that no float flag can optimise the check away. ``shift`` moves a 16-bit
    float's bits to where float32 has them.
    """
    if shift == BF16:
        for i in range(x.size):
            bits[i] = (x[i] & 0x7FFF) << BF16
    elif shift == F16:
        for i in range(x.size):
            bits[i] = (x[i] & 0x7FFF) << F16
        if _largest(bits) >= 0x7C00 << F16:
            return False
        for i in range(x.size):
            a[i] *= np.float32(2.0**112)  # from float16's exponent bias to float32's; exact, subnormals too
    elif bits.itemsize == 8:
        for i in range(x.size):
            bits[i] = x[i] & 0x7FFFFFFFFFFFFFFF
        return _largest(bits) < 0x7FF0000000000000
    else:
        for i in range(x.size):
            bits[i] = x[i] & 0x7FFFFFFF
    return _largest(bits) < 0x7F800000


@_sums
def _total(a):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i])
    return total


@_sums
def _mass(a, t):
    total = 0.0
    for i in range(a.size):
        total += np.float64(a[i]) if a[i] >= t else 0.0
    return total


@_sums
def _count(a, t):
    n = np.int32(0)
    for i in range(a.size):
        n += np.int32(1) if a[i] >= t else np.int32(0)
    return n


@_plain
def _gather(a, lo, hi, few, inside, words):
    """The entries in [lo, hi), of which there are at most ``FEW``, into ``few``; how many there are."""
    for i in range(a.size):
        inside[i] = (a[i] >= lo) & (a[i] < hi)
    n = 0
    for word in range(words.size):  # the same memory as `inside`, eight entries at a time
        if words[word]:
            for i in range(word * 8, min(word * 8 + 8, a.size)):
                few[n] = a[i]
                n += inside[i]  # rather than a branch, which the processor could not foresee
    return n


@_plain
def _search(scratch, warm, step, by_mass, target, total, tiny):
    """The threshold, how many entries at or above it there are, and how many of those stay.

    ``warm`` holds where the search begins: the threshold in units of the mean magnitude, and the
    slope of q there in units of q's total; it is updated for the next row.
    """
    a, bits, inside, words, few, at, at_bits = scratch
    if warm[1] == 0.0:
        _cold(warm, by_mass, target / total)
    width = a.size
    at_bits[0] = 0
    unit = total / width if by_mass else _total(a) / width
    lo, lo_bits, q_lo, n_lo = at[0], 0, total, width
    hi_bits = _largest(bits) + step
    at_bits[0] = hi_bits
    hi, q_hi, n_hi = at[0], 0.0, 0
    first_t, first_q, tries = 0.0, 0.0, 0
    while n_lo - n_hi > FEW and hi_bits - lo_bits > step:
        if tries == 0:
            t = warm[0] * unit
        elif tries == 1:  # a Newton step, and a little beyond, so that the root lies between the two
            gap = target - first_q
            reach = 4.0 * (first_t if by_mass else 1.0)
            t = first_t + (gap * 1.15 + (reach if gap > 0 else -reach)) / warm[1] * (unit / total)
        else:  # a secant step through the bracket, again a little beyond, on the side that leaves less
            share = (target - q_hi) / (q_lo - q_hi)
            share = share * 1.1 + 0.03 if share < 0.5 else share * 1.1 - 0.13
            t = hi + (lo - hi) * share
        at[0] = t
        t_bits = (at_bits[0] + (step - 1)) & ~(step - 1)
        if not (lo < t < hi) or t_bits <= lo_bits or t_bits >= hi_bits or (tries > 8 and tries % 2 == 0):
            t_bits = (lo_bits + (hi_bits - lo_bits) // 2) & ~(step - 1)
        at_bits[0] = t_bits
        n = _count(a, at[0])
        q = _mass(a, at[0]) if by_mass else np.float64(n)
        if tries == 0:
            first_t, first_q = np.float64(at[0]), q
        elif tries == 1 and first_q != q:
            warm[1] = (q - first_q) / (at[0] - first_t) * (unit / total)
        if q >= target:
            lo, lo_bits, q_lo, n_lo = at[0], t_bits, q, n
        else:
            hi, hi_bits, q_hi, n_hi = at[0], t_bits, q, n
        tries += 1
    if hi_bits - lo_bits <= step:  # every candidate equals lo
        t, n, above, q = lo, n_lo, n_hi, q_hi
    else:  # the same search among the few candidates, one by one
        found = _gather(a, lo, hi, few, inside, words)
        few[found:] = -1
        t, beyond, q = (tiny if by_mass and lo == 0 else lo), hi, q_hi
        for i in range(found):
            v = few[i]
            if t < v < beyond:
                more = q_hi + (_mass(few, v) if by_mass else np.float64(_count(few, v)))
                if more >= target:
                    t = v
                else:
                    beyond, q = v, more
        n, above = n_hi + _count(few, t), n_hi + _count(few, beyond)
    kept = above
    while kept < n and (q < target or kept == above):  # of those equal to t, as many as it takes
        q += np.float64(t) if by_mass else 1.0
        kept += 1
    if unit > 0.0:
        warm[0] = t / unit
    return t, n, kept


@_plain
def _row(x, y, scratch, warm, shift, rule, value):
    """Apply the rule to one vector of raw bits ``x``; the number kept, or -1 where it is not finite.

    ``warm``, two float64, is where the search begins, zeros before the first: see `_search`.
    """
    a, bits, at, at_bits = scratch.a, scratch.bits, scratch.at, scratch.at_bits
    real = a.dtype.type
    tiny = np.nextafter(real(0), real(1))
    width = x.size
    if not _load(x, a, bits, shift):
        y[:] = x
        return -1
    t, n, kept = real(np.inf), 0, 0  # nothing
    if rule == TOP_P:
        total = _total(a)
        if value == 1.0 and total > 0.0:
            t = tiny
            n = kept = _count(a, t)
        elif value > 0.0 and total > 0.0:
            t, n, kept = _search(scratch, warm, 1 << shift, True, value * total, total, tiny)
    elif rule == TOP_K:
        kept = min(width, math.floor(value * width + 0.5))
        if kept == width:
            t, n = real(0), width
        elif kept > 0:
            t, n, kept = _search(scratch, warm, 1 << shift, False, np.float64(kept), np.float64(width), tiny)
    else:
        at_bits[0] = _largest(bits)
        exact = value * np.float64(at[0])
        t = real(exact)
        if np.float64(t) < exact:
            t = np.nextafter(t, real(np.inf))
        t = max(t, tiny)
        n = kept = _count(a, t)
    zero = x.dtype.type(0)
    for i in range(width):
        y[i] = x[i] if a[i] >= t else zero
    i = width
    while n > kept:  # ties: the last ones go
        i -= 1
        if a[i] == t:
            y[i] = zero
            n -= 1
    return kept


@intrinsic
def _pointer(typingctx: Any, address: Any, number: Any) -> Any:
    """An address as a pointer to numbers of a type."""
    result = types.CPointer(number.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return result(types.int64, number), codegen


@intrinsic
def _claim(typingctx: Any, words: Any, index: Any, amount: Any) -> Any:
    """Atomically add to a word; its value before."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), args[2], "monotonic")

    return types.int64(words, types.int64, types.int64), codegen


class Call(ctypes.Structure):
    """What `_work` reads: 8 words."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("x", "y", "kept", "rows", "width", "rule")),
        ("value", ctypes.c_double),
        ("next", ctypes.c_int64),
    )


@_plain
def _work(call, x_type, a_type, bits_type, shift):
    """What each thread does: claim rows and work them, until none is left."""
    args = carray(call, 8)
    rows, width, rule = args[3], args[4], args[5]
    value = args.view(np.float64)[6]
    x = carray(_pointer(args[0], x_type), (rows, width))  # type: ignore[call-arg]  # an intrinsic: numba gives the first argument
    y = carray(_pointer(args[1], x_type), (rows, width))
    kept = carray(_pointer(args[2], np.int32), (rows,))
    memory, warm = _scratch(np.empty(2 * width + ENDS), width, a_type, bits_type), np.zeros(2)
    chunk = max(1, CHUNK // width)
    first = _claim(call, 7, chunk)
    while first < rows:
        for i in range(first, min(rows, first + chunk)):
            kept[i] = _row(x[i], y[i], memory, warm, shift, rule, value)
        first = _claim(call, 7, chunk)


class Place(ctypes.Structure):
    """What `_single` reads and writes: 16 words, as long as two cache lines."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "rule")),
        ("value", ctypes.c_double),
        *((name, ctypes.c_int64) for name in ("memory", "round")),  # where they are
        *((name, ctypes.c_double) for name in ("threshold", "slope")),  # where the search begins
        *((name, ctypes.c_int64) for name in ("dropped", "total", "bad")),  # of rounds that are over
        *((name, ctypes.c_int64) for name in ("last", "last_dropped", "last_total", "last_bad")),  # of the last
        *((name, ctypes.c_int64) for name in ("unused", "unused_too")),
    )


WARM, COUNTED, LAST = 5, 7, 10  # the words from "threshold", "dropped" and "last" on


@_plain
def _single(place, x, y, x_type, a_type, bits_type, shift):
    """One vector at its place."""
    words = carray(_pointer(place, np.int64), (16,))  # type: ignore[call-arg]  # as above
    reals = words.view(np.float64)
    width, rule, value = words[0], words[1], reals[2]
    kept = carray(_pointer(words[3], np.float64), (2 * width + ENDS,))
    own = _scratch(kept, width, a_type, bits_type)
    bits, out = carray(_pointer(x, x_type), (width,)), carray(_pointer(y, x_type), (width,))
    n = _row(bits, out, own, reals[WARM : WARM + 2], shift, rule, value)
    this = carray(_pointer(words[4], np.int64), (1,))[0]
    if words[LAST] != this:
        words[LAST] = this
        for i in range(3):
            words[COUNTED + i] += words[LAST + 1 + i]
            words[LAST + 1 + i] = 0
    if n < 0:
        words[LAST + 3] += 1
    else:
        words[LAST + 1] += width - n
        words[LAST + 2] += width


_RAW = {  # per dtype: its bits, its magnitudes, their bits, and how far the bits lie apart
    torch.float32: (np.int32, np.float32, np.int32, 0),
    torch.bfloat16: (np.int16, np.float32, np.int32, BF16),
    torch.float16: (np.int16, np.float32, np.int32, F16),
    torch.float64: (np.int64, np.float64, np.int64, 0),
}


@functools.cache
def compiled(dtype: torch.dtype) -> tuple[int, Callable[[int], None]]:
    """`_work` for one dtype, its address and itself: compiled on first use, then cached on disk."""
    x_type, a_type, bits_type, shift = _RAW[dtype]

    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def work(call):
        _work(call, x_type, a_type, bits_type, shift)

    address = int(work.address or 0)
    return address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@functools.cache
def compiled_single(dtype: torch.dtype) -> Callable[[int, int, int], None]:
    """`_single` likewise, called with addresses: numba's own way in from Python is a quarter of what ctypes takes.

    No other Python thread runs meanwhile: they share the memory, and it is soon over.
    """
    x_type, a_type, bits_type, shift = _RAW[dtype]

    @njit(types.void(types.int64, types.int64, types.int64), cache=True)
    def single(place, x, y):
        _single(place, x, y, x_type, a_type, bits_type, shift)

    return single.overloads[single.signatures[0]].entry_point  # type: ignore[attr-defined]  # made in C
