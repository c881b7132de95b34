"""The Triton kernel. Each program computes one vector, which stays in registers between its load and its store.

The search works on the bit patterns of the magnitudes, which are ordered like the magnitudes. ``q(u)`` is the mass
(top-p) or the number (top-k) of the entries whose bit pattern is at least ``u``.

Invariant: a bracket ``lo <= u < hi`` with ``q(lo) >= target > q(hi)``.

Passes: each pass evaluates ``q`` on both sides of a guess, narrows the bracket, and interpolates the next guess. After
five passes it divides the bracket into three equal parts instead. For few vectors, as in decoding, the first guess is
the threshold of the previous call.

End: the bracket contains one bit pattern or one entry. All entries of at least ``hi`` are kept. Of the entries in the
bracket, those with the lowest indices are kept until the target is reached. The vector is not sorted, and no
intermediate result is written to memory.
"""

# ruff: noqa: SIM300 (names in capitals are Triton's compile-time parameters here, not constants)
from __future__ import annotations

import triton
import triton.language as tl

from sparsedial.kernels.rule_codes import RULE_CODES

TOP_P = tl.constexpr(RULE_CODES["top_p"])
TOP_K = tl.constexpr(RULE_CODES["top_k"])
MAX_P = tl.constexpr(RULE_CODES["max_p"])


@triton.jit
def _add_pairs(first_a, second_a, first_b, second_b):
    return first_a + first_b, second_a + second_b


@triton.jit
def _sum_groups(values, EXACT: tl.constexpr):
    """Return the sums of groups of eight neighbours, in float64.

    16-bit floats are added in float32 within a group, which is exact as long as they lie within 13 binades of each
    other. Wider floats (``EXACT``) are added in float64 throughout.
    """
    if EXACT:
        values = values.to(tl.float64)
    return tl.sum(tl.reshape(values, (values.shape[0] // 8, 8)), 1).to(tl.float64)


@triton.jit
def _evaluate(values, below, above, BY_MASS: tl.constexpr, EXACT: tl.constexpr):
    """Return q, the mass or number of the entries of at least a magnitude, at two magnitudes in one reduction."""
    magnitudes = tl.abs(values)
    weights = magnitudes if BY_MASS else 1.0
    q_below = _sum_groups(tl.where(magnitudes >= below, weights, 0.0), EXACT)
    q_above = _sum_groups(tl.where(magnitudes >= above, weights, 0.0), EXACT)
    return tl.reduce((q_below, q_above), 0, _add_pairs)


@triton.jit
def _index_in_bracket(values, index, lo, hi, rank):
    """Return the index of the entry in [lo, hi) that has this rank, counted from 1 in order of the index."""
    magnitudes = tl.abs(values)
    # For each group of eight neighbours: one bit per entry inside the bracket, and above these bits their number.
    packed = tl.where((magnitudes >= lo) & (magnitudes < hi), (1 << (index & 7)) + 256, 0)
    packed = tl.sum(tl.reshape(packed, (values.shape[0] // 8, 8)), 1)
    count = packed >> 8
    count_up_to = tl.cumsum(count, 0)
    # The group that holds the entry yields its number, the rank within the group, and its eight bits.
    remaining = rank - (count_up_to - count)
    is_group = (remaining > 0) & (remaining <= count)
    group = tl.arange(0, values.shape[0] // 8)
    packed_group = tl.sum(tl.where(is_group, (group << 12) + (remaining << 8) + (packed & 255), 0), 0)
    remaining = (packed_group >> 8) & 15
    position = 0
    for bit in tl.static_range(8):
        remaining -= (packed_group >> bit) & 1
        position += tl.where(remaining > 0, 1, 0)
    return (packed_group >> 12) * 8 + position


@triton.jit
def _magnitude(bits, DTYPE: tl.constexpr):
    """Return the magnitude with this bit pattern, in float32.

    A bfloat16 is scaled by an eighth, so that the sum of eight does not overflow.
    """
    if DTYPE == tl.float32:
        magnitude = bits.to(tl.float32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        magnitude = (bits << 16).to(tl.float32, bitcast=True) * 0.125
    else:
        magnitude = bits.to(tl.int16).to(DTYPE, bitcast=True).to(tl.float32)
    return magnitude


@triton.jit
def _bit_pattern(magnitude, DTYPE: tl.constexpr):
    """Return the bit pattern of a magnitude, rounded to the dtype in either direction."""
    if DTYPE == tl.float32:
        bits = magnitude.to(tl.int32, bitcast=True)
    elif DTYPE == tl.bfloat16:
        bits = (magnitude * 8.0).to(tl.int32, bitcast=True) >> 16
    else:
        bits = magnitude.to(DTYPE).to(tl.int16, bitcast=True).to(tl.int32)
    return bits


@triton.jit
def _max_p_threshold(values, value, DTYPE: tl.constexpr):
    """Return the bit pattern of the smallest magnitude that max-p keeps."""
    largest = tl.max(tl.abs(values), 0)
    threshold = value * largest.to(tl.float64)
    bits = _bit_pattern(threshold.to(tl.float32), DTYPE)
    if _magnitude(bits, DTYPE).to(tl.float64) < threshold:
        bits += 1
    elif (bits > 0) & (_magnitude(tl.maximum(bits - 1, 0), DTYPE).to(tl.float64) >= threshold):
        bits -= 1  # rounding to float32 and then to 16 bits gave a pattern that is one too large
    return tl.maximum(bits, 1)


@triton.jit
def _probe_bits(lo, hi, guess, reach, passes, DTYPE: tl.constexpr):
    """Return the two bit patterns inside the bracket at which a pass evaluates q."""
    below = _bit_pattern(tl.maximum(guess - reach, 0.0), DTYPE)
    above = _bit_pattern(guess + reach, DTYPE) + 1
    if passes >= 5:  # interpolation does not suit this distribution
        below = lo + (hi - lo) // 3
        above = hi - (hi - lo) // 3
    below = tl.minimum(tl.maximum(below, lo + 1), hi - 1)
    above = tl.minimum(tl.maximum(above, below), hi - 1)
    return below, above


@triton.jit
def _next_guess(  # noqa: PLR0913  # what the search holds in registers
    lo, hi, q_lo, q_hi, target, total, depth, infinity, DTYPE: tl.constexpr, BY_MASS: tl.constexpr, SPREAD: tl.constexpr
):
    """Return the next guess of the threshold, and how far on both sides of it the next pass evaluates q."""
    v_lo = _magnitude(lo, DTYPE)
    v_hi = _magnitude(tl.minimum(hi, infinity - 1), DTYPE)
    if hi == infinity:  # all guesses were too low: assume an exponential tail
        guess = v_lo * depth / tl.log((q_lo / total).to(tl.float32))
        reach = guess * 2.0 * SPREAD
    elif (lo == 0) & BY_MASS:  # all guesses were too high: near zero the missing mass grows with the square
        guess = v_hi * tl.sqrt(((total - target) / (total - q_hi)).to(tl.float32))
        reach = guess * 2.0 * SPREAD
    else:
        guess = v_hi + (v_lo - v_hi) * ((target - q_hi) / (q_lo - q_hi)).to(tl.float32)
        reach = (v_hi - v_lo) * 0.03
    return guess, reach


@triton.jit
def _narrow_bracket(  # noqa: PLR0913  # what the search holds in registers
    values, target, total, mean, infinity, warm_start_ptr,
    DTYPE: tl.constexpr, BY_MASS: tl.constexpr, EXACT: tl.constexpr, SPREAD: tl.constexpr, WARM_START: tl.constexpr,
):  # fmt: skip
    """Return the final lo and hi, q at both, and the contribution of one entry at lo to q."""
    lo = tl.zeros((), tl.int32)
    hi = lo + infinity
    q_lo = total
    q_hi = total * 0.0
    # The first guess is the threshold of a normal (top-p) or Laplace vector (top-k) with this mean magnitude.
    depth = tl.log((target / total).to(tl.float32))
    ratio = 1.2533 * tl.sqrt(-2.0 * depth) if BY_MASS else -depth
    if WARM_START:
        previous_ratio = tl.load(warm_start_ptr)
        if previous_ratio > 0.0:
            ratio = previous_ratio
    guess = mean * ratio
    reach = guess * SPREAD
    increment = target * 0.0 + (0.0 if BY_MASS else 1.0)
    passes = 0
    while (hi - lo > 1) & (tl.abs(q_lo - q_hi - increment) >= 0.5 * increment):
        below, above = _probe_bits(lo, hi, guess, reach, passes, DTYPE)
        v_below = _magnitude(below, DTYPE)
        v_above = _magnitude(above, DTYPE)
        q_below, q_above = _evaluate(values, v_below, v_above, BY_MASS, EXACT)
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
        guess, reach = _next_guess(lo, hi, q_lo, q_hi, target, total, depth, infinity, DTYPE, BY_MASS, SPREAD)
        if BY_MASS:
            increment = _magnitude(lo, DTYPE).to(tl.float64)
        passes += 1
    return lo, hi, q_lo, q_hi, increment


@triton.jit
def _last_kept_tie(  # noqa: PLR0913  # what the search holds in registers
    values, index, lo, hi, q_lo, q_hi, increment, target, last_tie, DTYPE: tl.constexpr
):
    """Return the index of the last entry in the bracket that is kept: the fewest that reach the target are kept.

    ``last_tie`` is returned if all of them are kept.
    """
    increment = tl.maximum(increment, 1e-300)
    ties = tl.minimum((target - q_hi) / increment, 40000.0).to(tl.int32)
    if q_hi + ties * increment < target:
        ties += 1
    if (ties > 1) & (q_hi + (ties - 1) * increment >= target):
        ties -= 1
    ties = tl.maximum(ties, 1)
    if ties + 0.5 < (q_lo - q_hi) / increment:
        last_tie = _index_in_bracket(values, index, _magnitude(lo, DTYPE), _magnitude(hi, DTYPE), ties)
    return last_tie


@triton.jit
def select_kernel(  # noqa: PLR0913  # the parameters of one launch
    x_ptr,
    y_ptr,
    kept_ptr,
    warm_start_ptr,  # threshold of the previous call divided by the mean magnitude; 0 before the first call
    value: tl.float64,  # rule parameter, or the count for top-k; typed because Triton would make a float a float32
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    RULE: tl.constexpr,
    DTYPE: tl.constexpr,
    SPREAD: tl.constexpr,
    WARM_START: tl.constexpr,
):
    """Apply a rule to one vector: write the sparse vector and the number of entries kept, or -1 if it is not finite."""
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * WIDTH + index, mask=index < WIDTH, other=0.0)
    EXACT: tl.constexpr = DTYPE == tl.float32
    BY_MASS: tl.constexpr = RULE == TOP_P
    if DTYPE == tl.bfloat16:
        values = _magnitude(x.to(tl.int16, bitcast=True).to(tl.int32), DTYPE)
        infinity = 0x7F80
    else:
        values = x.to(tl.float32)
        infinity = 0x7F800000 if EXACT else 0x7C00
    mass = tl.sum(_sum_groups(tl.abs(values), EXACT), 0)
    is_finite = mass < float("inf")

    # Entries of at least `hi` are kept, and entries in [lo, hi) up to index `last_tie`. Initially, no entry is kept.
    lo = tl.zeros((), tl.int32) + infinity
    hi = lo
    last_tie = tl.zeros((), tl.int32) + WIDTH
    if RULE == MAX_P:
        hi = _max_p_threshold(values, value, DTYPE)
    else:
        KEEP_ALL: tl.constexpr = 1 if BY_MASS else WIDTH  # the value at which the rule keeps every entry
        if value >= KEEP_ALL:
            hi = lo * 0 + (1 if BY_MASS else 0)
        total = mass if BY_MASS else mass * 0.0 + WIDTH
        target = value * total if BY_MASS else mass * 0.0 + value
        if (value > 0.0) & (value < KEEP_ALL) & (total > 0.0) & is_finite:
            mean = (mass / WIDTH).to(tl.float32)
            lo, hi, q_lo, q_hi, increment = _narrow_bracket(
                values, target, total, mean, infinity, warm_start_ptr, DTYPE, BY_MASS, EXACT, SPREAD, WARM_START
            )
            if (row == 0) & (lo > 0) & WARM_START:
                tl.store(warm_start_ptr, _magnitude(lo, DTYPE) / mean)
            last_tie = _last_kept_tie(values, index, lo, hi, q_lo, q_hi, increment, target, last_tie, DTYPE)

    always_kept = _magnitude(hi, DTYPE)
    smallest_kept = tl.where(index <= last_tie, tl.minimum(_magnitude(lo, DTYPE), always_kept), always_kept)
    keep = (tl.abs(values) >= smallest_kept) | (is_finite == 0)
    count = tl.where(is_finite, tl.minimum(tl.sum(keep.to(tl.int32), 0), WIDTH), -1)
    tl.store(y_ptr + row * WIDTH + index, tl.where(keep, x, 0.0), mask=index < WIDTH)
    tl.store(kept_ptr + row, count)  # one number, so the alignment of `kept` does not matter
