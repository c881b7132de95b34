"""Threshold search on the CPU, compiled by numba: one vector at a time, exact, without sorting.

A rule keeps the entries whose magnitude is above a threshold and, of the entries equal to it, those with the lowest
indices. The search finds this threshold. In the formulas ``t`` is a candidate for the threshold, ``n(t)`` is the number
of entries of magnitude at least ``t``, and ``q(t)`` is the quantity that must reach the target: the mass of these
entries (top-p) or their number (top-k). ``q`` decreases as ``t`` grows. The threshold is the largest ``t`` with
``q(t) >= target``.

Invariant: a bracket ``lo <= threshold < hi`` with ``q(lo) >= target > q(hi)``.

Passes: each pass evaluates ``q`` at one guess and moves one end of the bracket there. It reads a copy of the
magnitudes that stays in cache. The first guess is the threshold of the previous search, the second is a Newton step,
and the next ones are secant steps. If a guess is outside the bracket, or after many passes, the bracket is bisected.
Bisection works on bit patterns, because the bit patterns of non-negative floats are ordered like the floats.

End: the bracket contains a single magnitude, or at most `MAX_CANDIDATES` entries, which are then tested one by one.

Ties: of the entries equal to the threshold, the fewest that reach the target are kept, lowest index first.

All sums are float64. Every function that numba compiles is in this file, because numba's cache on disk notices only
changes in the file of the function that it compiled.
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
from numba.extending import intrinsic, register_jitable

from sparsedial.kernels.rule_codes import TOP_K, TOP_P

BFLOAT16_SHIFT = 16  # left shift that turns the bits of a bfloat16 into those of the equal float32
FLOAT16_SHIFT = 13  # left shift that aligns the mantissa of a float16; its exponent is then rescaled
ENTRIES_PER_CLAIM = 16384  # entries that a thread claims at a time
MAX_CANDIDATES = 32  # entries in the bracket that are cheaper to search one by one than by another pass
MAX_GUESSED_PASSES = 8  # passes after which every second one bisects

# Records that Python writes and the kernels read, by the same field names.
SEARCH_START = np.dtype([("threshold", np.float64), ("slope", np.float64)], align=True)
"""Start of a search: the ratio of threshold and mean magnitude, and the slope of q / total with respect to this ratio.

A slope of zero means that there was no search yet.
"""

COUNTS = np.dtype([("dropped", np.int64), ("total", np.int64), ("non_finite", np.int64)], align=True)
"""Dropped entries, all entries, and vectors with a NaN or Inf (whose entries are not in ``total``)."""


class BatchArguments(ctypes.Structure):
    """Arguments of one call of the batch kernel.

    A record is created for every call, which is faster with ctypes than with NumPy. The kernel reads the record as
    `BATCH_ARGUMENTS`.
    """

    _fields_ = (
        ("x_address", ctypes.c_int64),
        ("y_address", ctypes.c_int64),
        ("kept_address", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("rule_code", ctypes.c_int64),
        ("rule_value", ctypes.c_double),
        ("next_row", ctypes.c_int64),  # the first row that no thread has claimed
    )


BATCH_ARGUMENTS = np.dtype(BatchArguments)
NEXT_ROW_OFFSET = BATCH_ARGUMENTS.fields["next_row"][1]  # type: ignore[index]  # a structured dtype has fields

DECODE_SLOT = np.dtype(
    [
        ("width", np.int64),
        ("rule_code", np.int64),
        ("rule_value", np.float64),
        ("scratch_address", np.int64),
        ("current_round_address", np.int64),
        ("search_start", SEARCH_START),
        ("committed", COUNTS),  # counts of all rounds before `round`
        ("round", np.int64),  # the round of the slot's last vector
        ("pending", COUNTS),  # counts of that round
        ("padding", np.int64, (2,)),  # fills the record up to two cache lines
    ],
    align=True,
)
"""Arguments and state of one slot of the decode kernel."""

_sum_loop = njit(
    inline="never", cache=True, fastmath={"reassoc", "nsz", "contract"}
)  # innermost loops; finite values only
_compiled = njit(cache=True, error_model="numpy")
# The parts of a search are inlined. As calls they pass every array of `_Scratch`, which was up to 20% slower.
_inlined = njit(cache=True, error_model="numpy", inline="always")


class _Scratch(NamedTuple):
    """One thread's memory for vectors of one width and dtype."""

    magnitudes: Any  # magnitudes of the vector, shape [width], float32 or float64
    bits: Any  # the same memory as integers
    is_inside: Any  # one byte for each entry: 1 if it is inside the bracket
    inside_words: Any  # the same memory, eight entries at a time
    candidates: Any  # magnitudes of the last entries in the bracket
    cell: Any  # one float, to convert between floats and bit patterns
    cell_bits: Any  # the same memory as an integer
    shift: Any  # bits by which the bit patterns of a 16-bit dtype are shifted, or 0


class _Goal(NamedTuple):
    """The target of a search, and the sums of the vector that it needs."""

    by_mass: Any  # True to add up magnitudes (top-p), False to count entries (top-k)
    target: Any  # the value that q must reach
    total: Any  # q of the whole vector
    mean: Any  # mean magnitude of the vector


class _Evaluation(NamedTuple):
    """The threshold t, its bit pattern, q(t) and n(t)."""

    t: Any
    bits: Any
    q: Any
    n: Any


class _RuleArguments(NamedTuple):
    """The code of a rule (see `sparsedial.kernels.rule_codes`) and its parameter."""

    code: Any
    value: Any


class _NumberFormat(NamedTuple):
    """The types with which the kernels read one dtype."""

    raw: Any  # integer type of the dtype's bits
    real: Any  # float type of the magnitudes
    bits: Any  # integer type of the magnitudes' bits
    shift: int  # bits by which `raw` is shifted to become `bits`


@register_jitable
def scratch_words(width):
    """Return the number of float64 that a search needs for vectors of this width."""
    return 2 * width + MAX_CANDIDATES + 2


@_compiled
def _scratch(memory, width, number_format):
    """Divide memory of `scratch_words` float64 values into the arrays of a `_Scratch`."""
    real_type = number_format.real
    magnitudes = memory[:width].view(real_type)[:width]
    inside_words = memory[width : width + (width + 7) // 8].view(np.uint64)
    inside_words[-1] = 0  # the vector may end before the last word does
    # One more than `MAX_CANDIDATES`, because `_gather` writes an entry before it tests whether to keep it.
    candidates = memory[2 * width : 2 * width + MAX_CANDIDATES + 1].view(real_type)[: MAX_CANDIDATES + 1]
    cell = memory[2 * width + MAX_CANDIDATES + 1 :].view(real_type)[:1]
    return _Scratch(
        magnitudes,
        magnitudes.view(number_format.bits),
        inside_words.view(np.uint8),
        inside_words,
        candidates,
        cell,
        cell.view(number_format.bits),
        number_format.shift,
    )


@_compiled
def _largest(values):
    largest = values[0]
    for i in range(values.size):
        largest = max(largest, values[i])
    return largest


@_compiled
def _load_magnitudes(x, magnitudes, bits, shift):
    """Copy a vector's magnitudes into the scratch memory and return True if all of them are finite.

    The check compares bit patterns, because fastmath flags allow the compiler to remove a floating-point check.
    """
    if shift == BFLOAT16_SHIFT:
        for i in range(x.size):
            bits[i] = (x[i] & 0x7FFF) << BFLOAT16_SHIFT
    elif shift == FLOAT16_SHIFT:
        for i in range(x.size):
            bits[i] = (x[i] & 0x7FFF) << FLOAT16_SHIFT
        if _largest(bits) >= 0x7C00 << FLOAT16_SHIFT:
            return False
        for i in range(x.size):  # from float16's exponent bias to float32's; exact, also for subnormals
            magnitudes[i] *= np.float32(2.0**112)
    elif bits.itemsize == 8:
        for i in range(x.size):
            bits[i] = x[i] & 0x7FFFFFFFFFFFFFFF
        return _largest(bits) < 0x7FF0000000000000
    else:
        for i in range(x.size):
            bits[i] = x[i] & 0x7FFFFFFF
    return _largest(bits) < 0x7F800000


@_sum_loop
def _total_mass(magnitudes):
    total = 0.0
    for i in range(magnitudes.size):
        total += np.float64(magnitudes[i])
    return total


@_sum_loop
def _mass(magnitudes, t):
    total = 0.0
    for i in range(magnitudes.size):
        total += np.float64(magnitudes[i]) if magnitudes[i] >= t else 0.0
    return total


@_sum_loop
def _count(magnitudes, t):
    n = np.int32(0)
    for i in range(magnitudes.size):
        n += np.int32(1) if magnitudes[i] >= t else np.int32(0)
    return n


@_inlined
def _smallest_positive(scratch):
    real = scratch.magnitudes.dtype.type
    return np.nextafter(real(0), real(1))


@_inlined
def _evaluate(scratch, bits, by_mass):
    """Evaluate q and n at the threshold with this bit pattern."""
    scratch.cell_bits[0] = bits
    t = scratch.cell[0]
    n = _count(scratch.magnitudes, t)
    q = _mass(scratch.magnitudes, t) if by_mass else np.float64(n)
    return _Evaluation(t, np.int64(bits), q, np.int64(n))


@_inlined
def _set_first_start(start, by_mass, share):
    """Set the start of the first search to the threshold of a normal (top-p) or Laplace vector (top-k)."""
    z = math.sqrt(-2.0 * math.log(max(share, 1e-9)))
    if by_mass:
        start.threshold = 1.2533 * z
        start.slope = -0.8 * max(z * share, 1e-3)
    else:
        start.threshold = z * z / 2
        start.slope = -max(share, 1e-3)


@_inlined
def _guess(passes, goal, start, first, lo, hi):
    """Return the threshold to evaluate in the next pass. It may lie outside the bracket."""
    if passes == 0:
        return start.threshold * goal.mean
    if passes == 1:  # a Newton step, extended so that the root is likely between the two evaluations
        first_t = np.float64(first.t)
        gap = goal.target - first.q
        reach = 4.0 * (first_t if goal.by_mass else 1.0)
        return first_t + (gap * 1.15 + (reach if gap > 0 else -reach)) / start.slope * (goal.mean / goal.total)
    # A secant step, extended beyond the estimated root towards the farther end, so that the smaller part remains.
    share = (goal.target - hi.q) / (lo.q - hi.q)
    share = share * 1.1 + 0.03 if share < 0.5 else share * 1.1 - 0.13
    return hi.t + (lo.t - hi.t) * share


@_inlined
def _pattern_inside(scratch, passes, t, lo, hi):
    """Return the dtype's first bit pattern from ``t`` up, or the bracket's middle if it is not inside the bracket."""
    step = 1 << scratch.shift
    scratch.cell[0] = t
    bits = (scratch.cell_bits[0] + (step - 1)) & ~(step - 1)
    is_stuck = passes > MAX_GUESSED_PASSES and passes % 2 == 0
    if not (lo.t < t < hi.t) or bits <= lo.bits or bits >= hi.bits or is_stuck:
        return (lo.bits + (hi.bits - lo.bits) // 2) & ~(step - 1)
    return bits


@_inlined
def _narrow(scratch, start, goal):
    """Return both ends of a bracket that contains a single magnitude or at most `MAX_CANDIDATES` entries.

    The slope of ``start`` is updated for the next vector.
    """
    step = 1 << scratch.shift
    scratch.cell_bits[0] = 0
    lo = _Evaluation(scratch.cell[0], np.int64(0), goal.total, np.int64(scratch.magnitudes.size))
    hi_bits = np.int64(_largest(scratch.bits) + step)
    scratch.cell_bits[0] = hi_bits
    hi = _Evaluation(scratch.cell[0], hi_bits, 0.0, np.int64(0))
    first = hi
    passes = 0
    while lo.n - hi.n > MAX_CANDIDATES and hi.bits - lo.bits > step:
        t = _guess(passes, goal, start, first, lo, hi)
        middle = _evaluate(scratch, _pattern_inside(scratch, passes, t, lo, hi), goal.by_mass)
        if passes == 0:
            first = middle
        elif passes == 1 and first.q != middle.q:
            start.slope = (middle.q - first.q) / (middle.t - np.float64(first.t)) * (goal.mean / goal.total)
        if middle.q >= goal.target:
            lo = middle
        else:
            hi = middle
        passes += 1
    return lo, hi


@_compiled
def _gather(magnitudes, lo, hi, candidates, is_inside, inside_words):
    """Copy the entries in [lo, hi), at most `MAX_CANDIDATES`, into ``candidates`` and return how many there are."""
    for i in range(magnitudes.size):
        is_inside[i] = (magnitudes[i] >= lo) & (magnitudes[i] < hi)
    n = 0
    for word in range(inside_words.size):
        if inside_words[word]:
            for i in range(word * 8, min(word * 8 + 8, magnitudes.size)):
                candidates[n] = magnitudes[i]
                n += is_inside[i]  # an addition, because a branch would be unpredictable
    return n


@_inlined
def _search_candidates(scratch, goal, lo, hi):
    """Find the threshold by testing the entries of the bracket one by one.

    Returns the threshold, how many entries reach it, how many are above it, and q of those above it.
    """
    candidates = scratch.candidates
    candidate_count = _gather(scratch.magnitudes, lo.t, hi.t, candidates, scratch.is_inside, scratch.inside_words)
    candidates[candidate_count:] = -1  # below every threshold
    t = lo.t
    if goal.by_mass and t == 0:
        t = _smallest_positive(scratch)
    t_above = hi.t
    q_above = hi.q
    for i in range(candidate_count):
        candidate = candidates[i]
        if t < candidate < t_above:
            q = hi.q + (_mass(candidates, candidate) if goal.by_mass else np.float64(_count(candidates, candidate)))
            if q >= goal.target:
                t = candidate
            else:
                t_above = candidate
                q_above = q
    return t, hi.n + _count(candidates, t), hi.n + _count(candidates, t_above), q_above


@_compiled
def _search(scratch, start, by_mass, target, total):
    """Return the threshold, how many entries reach it, and how many of them are kept.

    ``start`` is a `SEARCH_START` record. It is updated for the next vector.
    """
    if start.slope == 0.0:
        _set_first_start(start, by_mass, target / total)
    width = scratch.magnitudes.size
    mean = total / width if by_mass else _total_mass(scratch.magnitudes) / width
    goal = _Goal(by_mass, target, total, mean)
    lo, hi = _narrow(scratch, start, goal)
    if hi.bits - lo.bits <= 1 << scratch.shift:  # every entry of the bracket equals lo
        t, n, n_above, q = lo.t, lo.n, hi.n, hi.q
    else:
        t, n, n_above, q = _search_candidates(scratch, goal, lo, hi)
    kept = n_above
    while kept < n and (q < target or kept == n_above):  # keep the fewest entries equal to t
        q += np.float64(t) if by_mass else 1.0
        kept += 1
    if mean > 0.0:
        start.threshold = t / mean
    return t, n, kept


@_inlined
def _max_p_threshold(scratch, share):
    """Return the smallest positive magnitude that is at least ``share`` times the largest, compared in float64."""
    real = scratch.magnitudes.dtype.type
    scratch.cell_bits[0] = _largest(scratch.bits)
    exact = share * np.float64(scratch.cell[0])
    t = real(exact)
    if np.float64(t) < exact:
        t = np.nextafter(t, real(np.inf))
    return max(t, _smallest_positive(scratch))


@_inlined
def _threshold(scratch, start, rule):
    """Return the threshold of a finite vector, how many entries reach it, and how many of them are kept."""
    magnitudes = scratch.magnitudes
    real = magnitudes.dtype.type
    width = magnitudes.size
    t = real(np.inf)  # keeps no entry
    n = 0
    kept = 0
    if rule.code == TOP_P:
        total = _total_mass(magnitudes)
        if rule.value == 1.0 and total > 0.0:
            t = _smallest_positive(scratch)
            n = kept = _count(magnitudes, t)
        elif rule.value > 0.0 and total > 0.0:
            t, n, kept = _search(scratch, start, True, rule.value * total, total)
    elif rule.code == TOP_K:
        kept = min(width, math.floor(rule.value * width + 0.5))
        if kept == width:
            t = real(0)
            n = width
        elif kept > 0:
            t, n, kept = _search(scratch, start, False, np.float64(kept), np.float64(width))
    else:
        t = _max_p_threshold(scratch, rule.value)
        n = kept = _count(magnitudes, t)
    return t, n, kept


@_compiled
def _sparsify_vector(x, y, scratch, start, rule):
    """Apply a rule to one vector of raw bits and return the number of entries kept, or -1 if it is not finite.

    ``start`` is a `SEARCH_START` record, zeros before the first vector.
    """
    magnitudes = scratch.magnitudes
    if not _load_magnitudes(x, magnitudes, scratch.bits, scratch.shift):
        y[:] = x
        return -1
    t, n, kept = _threshold(scratch, start, rule)
    zero = x.dtype.type(0)
    for i in range(x.size):
        y[i] = x[i] if magnitudes[i] >= t else zero
    i = x.size
    while n > kept:  # of the entries equal to the threshold, drop those of the highest index
        i -= 1
        if magnitudes[i] == t:
            y[i] = zero
            n -= 1
    return kept


@intrinsic
def _pointer(typing_context: Any, address: Any, item: Any) -> Any:
    """Convert an address to a pointer to items of a number type or record dtype."""
    pointer_type = types.CPointer(item.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return pointer_type(types.int64, item), generate


@intrinsic
def _fetch_and_add(typing_context: Any, pointer: Any, amount: Any) -> Any:
    """Add to an integer atomically and return its value before the addition."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], arguments[1], "monotonic")

    return types.int64(pointer, types.int64), generate


@_compiled
def _run_batch(address, number_format):
    """Claim rows and apply the rule to them until all rows are claimed. Every thread of a call runs this function."""
    call = carray(_pointer(address, BATCH_ARGUMENTS), (1,))[0]  # type: ignore[call-arg]  # numba passes the context
    rows = call.rows
    width = call.width
    x = carray(_pointer(call.x_address, number_format.raw), (rows, width))
    y = carray(_pointer(call.y_address, number_format.raw), (rows, width))
    kept = carray(_pointer(call.kept_address, np.int32), (rows,))
    rule = _RuleArguments(call.rule_code, call.rule_value)
    scratch = _scratch(np.empty(scratch_words(width)), width, number_format)
    start = np.zeros(1, SEARCH_START)[0]
    next_row = _pointer(address + NEXT_ROW_OFFSET, np.int64)
    claim = max(1, ENTRIES_PER_CLAIM // width)
    first = _fetch_and_add(next_row, claim)
    while first < rows:
        for i in range(first, min(rows, first + claim)):
            kept[i] = _sparsify_vector(x[i], y[i], scratch, start, rule)
        first = _fetch_and_add(next_row, claim)


@_compiled
def _run_slot(address, x_address, y_address, number_format):
    """Apply a slot's rule to one vector and count the dropped entries."""
    slot = carray(_pointer(address, DECODE_SLOT), (1,))[0]  # type: ignore[call-arg]  # numba passes the context
    width = slot.width
    memory = carray(_pointer(slot.scratch_address, np.float64), (scratch_words(width),))
    x = carray(_pointer(x_address, number_format.raw), (width,))
    y = carray(_pointer(y_address, number_format.raw), (width,))
    rule = _RuleArguments(slot.rule_code, slot.rule_value)
    kept = _sparsify_vector(x, y, _scratch(memory, width, number_format), slot.search_start, rule)
    _count_vector(slot, kept)


@_inlined
def _count_vector(slot, kept):
    """Add one vector to the slot's counts. Counts of an earlier round are committed first."""
    address = slot.current_round_address
    current_round = carray(_pointer(address, np.int64), (1,))[0]  # type: ignore[call-arg]  # numba passes the context
    committed = slot.committed
    pending = slot.pending
    if slot.round != current_round:
        slot.round = current_round
        committed.dropped += pending.dropped
        committed.total += pending.total
        committed.non_finite += pending.non_finite
        pending.dropped = 0
        pending.total = 0
        pending.non_finite = 0
    if kept < 0:
        pending.non_finite += 1
    else:
        pending.dropped += slot.width - kept
        pending.total += slot.width


_NUMBER_FORMATS = {
    torch.float32: _NumberFormat(np.int32, np.float32, np.int32, 0),
    torch.bfloat16: _NumberFormat(np.int16, np.float32, np.int32, BFLOAT16_SHIFT),
    torch.float16: _NumberFormat(np.int16, np.float32, np.int32, FLOAT16_SHIFT),
    torch.float64: _NumberFormat(np.int64, np.float64, np.int64, 0),
}


@functools.cache
def compile_batch_kernel(dtype: torch.dtype) -> tuple[int, Callable[[int], None]]:
    """Compile the batch kernel for one dtype. Later processes load it from numba's cache on disk.

    Args:
        dtype: float32, bfloat16, float16 or float64.

    Returns:
        The kernel's address, for an OpenMP runtime, and the kernel as a Python function. Both take the address of a
        `BATCH_ARGUMENTS` record.
    """
    number_format = _NUMBER_FORMATS[dtype]

    @cfunc(types.void(types.int64), cache=True)
    def run_batch(address):
        _run_batch(address, number_format)

    kernel_address = int(run_batch.address or 0)
    return kernel_address, ctypes.CFUNCTYPE(None, ctypes.c_int64)(kernel_address)


@functools.cache
def compile_decode_function(dtype: torch.dtype) -> int:
    """Compile the decode kernel for one dtype as a C function, which other compiled code calls.

    Args:
        dtype: float32, bfloat16, float16 or float64.

    Returns:
        The address of the function. Its arguments are those of `compile_decode_kernel`.
    """
    number_format = _NUMBER_FORMATS[dtype]

    @cfunc(types.void(types.int64, types.int64, types.int64), cache=True)
    def run_slot(address, x_address, y_address):
        _run_slot(address, x_address, y_address, number_format)

    return int(run_slot.address or 0)


@functools.cache
def compile_decode_kernel(dtype: torch.dtype) -> Callable[[int, int, int], None]:
    """Compile the decode kernel for one dtype. Later processes load it from numba's cache on disk.

    The kernel is called through numba's own entry point, which takes a quarter of the time of a ctypes call. A call
    holds the global interpreter lock, so slots may share their scratch memory.

    Args:
        dtype: float32, bfloat16, float16 or float64.

    Returns:
        A function of the addresses of a `DECODE_SLOT` record, of the vector, and of the result.
    """
    number_format = _NUMBER_FORMATS[dtype]

    @njit(types.void(types.int64, types.int64, types.int64), cache=True)
    def run_slot(address, x_address, y_address):
        _run_slot(address, x_address, y_address, number_format)

    return run_slot.overloads[run_slot.signatures[0]].entry_point  # type: ignore[attr-defined]  # defined in C
