"""Products of vectors with a part of a weight matrix on a GPU, compiled by Triton.

Decoding is limited by the memory bandwidth, so the time of a product is the number of bytes that it reads.

*Kept inputs, list form.* The matrix has one row per input. `list_kept_rows` writes the indices of the rows that one of
the vectors needs, in ascending order. `multiply_listed_rows` divides this list evenly: each program adds the rows of
one part of the list, for one tile of the columns.

*Kept inputs, mask form.* `multiply_masked_rows` needs no list. Each program has a contiguous part of all rows, and
does not load rows that no vector needs.

In both forms, each program writes its sums to memory of its own. `add_partial_sums` adds them in a fixed order, so
equal inputs give equal bits.

*Kept outputs.* The matrix has one row per output. `multiply_listed_outputs` computes the dot products of listed rows.

The number of listed rows stays on the device: the grid of a launch is fixed, and each program reads the length of the
list. One program owns each counter.
"""

from __future__ import annotations

import triton
import triton.language as tl

LIST_HEADER = 4
"""Entries of a list before its first index, so that the indices are aligned. The first one is the length."""

COUNTERS = ("calls", "dense_calls", "rows_read", "kept_entries", "entries")
"""What a slot of the counters counts."""

DOT_VECTORS = 16
"""Vectors that the product of matrices is padded to."""

_HEADER = tl.constexpr(LIST_HEADER)
_COUNTERS = tl.constexpr(len(COUNTERS))
_DOT_VECTORS = tl.constexpr(DOT_VECTORS)


@triton.jit
def _add_to_counter(counts_ptr, slot, counter, value):
    """Add to a counter that only this program writes."""
    address = counts_ptr + slot * _COUNTERS + counter
    tl.store(address, tl.load(address) + value)


IS_INTERPRETED = not isinstance(_add_to_counter, triton.runtime.JITFunction)
"""True in Triton's interpreter (TRITON_INTERPRET=1), which runs the kernels on tensors of the CPU."""

_IS_INTERPRETED = tl.constexpr(IS_INTERPRETED)


@triton.jit
def _count_needed_before(x_ptr, vectors, end, ROWS: tl.constexpr, PADDED_ROWS: tl.constexpr):
    """Return how many of the first rows one of the vectors needs."""
    index = tl.arange(0, PADDED_ROWS)
    is_needed = index < 0
    for vector in range(vectors):
        is_needed |= tl.load(x_ptr + vector * ROWS + index, mask=index < end, other=0) != 0
    return tl.sum(is_needed.to(tl.int32), 0)


@triton.jit(do_not_specialize=["vectors"])
def list_kept_rows(  # noqa: PLR0913  # the parameters of one launch
    x_ptr,
    list_ptr,
    counts_ptr,
    out_ptr,
    vectors,
    ROWS: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITES_LIST: tl.constexpr,
    CLEARS_OUTPUT: tl.constexpr,
):
    """List the rows that one of the vectors of a group needs, and count.

    Programs: (segments of the rows, groups of vectors). Each program has one segment and counts the rows before it.

    With ``CLEARS_OUTPUT``, entries of the result that are not kept are set to zero. Without ``WRITES_LIST``, the call
    reads all rows and is only counted.
    """
    segment = tl.program_id(0)
    group = tl.program_id(1)
    x_ptr += group * vectors * ROWS
    own = segment * BLOCK + tl.arange(0, BLOCK)
    is_row = own < ROWS
    is_needed = own < 0
    entries = tl.zeros((BLOCK,), tl.int32)
    for vector in range(vectors):
        is_kept = tl.load(x_ptr + vector * ROWS + own, mask=is_row, other=0) != 0
        is_needed |= is_kept
        entries += is_kept.to(tl.int32)
        if CLEARS_OUTPUT:
            zeros = tl.zeros((BLOCK,), out_ptr.dtype.element_ty)
            tl.store(out_ptr + (group * vectors + vector) * ROWS + own, zeros, mask=is_row & (is_kept == 0))
    needed = tl.sum(is_needed.to(tl.int32), 0)
    slot = group * tl.num_programs(0) + segment
    is_last = segment == tl.num_programs(0) - 1
    total = needed * 0 + ROWS
    rows_read = tl.sum(is_row.to(tl.int32), 0)
    if WRITES_LIST:
        list_ptr += group * (ROWS + _HEADER)
        before = _count_needed_before(x_ptr, vectors, segment * BLOCK, ROWS, PADDED_ROWS)
        position = before + tl.cumsum(is_needed.to(tl.int32), 0) - 1
        tl.store(list_ptr + _HEADER + position, own, mask=is_needed)
        total = before + needed
        rows_read = needed
        if is_last:
            tl.store(list_ptr, total)
    _add_to_counter(counts_ptr, slot, 2, rows_read)
    _add_to_counter(counts_ptr, slot, 3, tl.sum(entries, 0))
    if is_last:
        _add_to_counter(counts_ptr, slot, 0, 1)
        _add_to_counter(counts_ptr, slot, 1, (total == ROWS).to(tl.int32))
        _add_to_counter(counts_ptr, slot, 4, vectors * ROWS)


@triton.jit
def _load_weights(  # noqa: PLR0913  # what describes a tile
    weight_ptr,
    rows,
    is_read,
    columns,
    ROW_STRIDE: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Load a tile of the matrix. Rows that are not read are zeros."""
    addresses = weight_ptr + rows.to(tl.int64)[:, None] * ROW_STRIDE + columns[None, :]
    mask = is_read[:, None]
    if COLUMNS % BLOCK_COLUMNS != 0:
        mask = mask & (columns < COLUMNS)[None, :]
    return tl.load(addresses, mask=mask, other=0.0)


@triton.jit
def _add_products(sums, x, weights, IS_MATRIX: tl.constexpr, KEEPS_ROW_SUMS: tl.constexpr):
    """Add the products of a tile to the float32 sums: of many vectors, of each row of the tile, or of all its rows."""
    if IS_MATRIX:
        if _IS_INTERPRETED:  # the interpreter cannot multiply matrices of bfloat16
            x = x.to(tl.float32)
            weights = weights.to(tl.float32)
        sums = tl.dot(x, weights, sums)
    elif KEEPS_ROW_SUMS:
        sums += x.to(tl.float32)[:, None] * weights.to(tl.float32)
    else:
        sums += tl.sum(x.to(tl.float32)[:, None] * weights.to(tl.float32), 0)
    return sums


@triton.jit
def _make_sums(
    IS_MATRIX: tl.constexpr,
    KEEPS_ROW_SUMS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    if IS_MATRIX:
        sums = tl.zeros((_DOT_VECTORS, BLOCK_COLUMNS), tl.float32)
    elif KEEPS_ROW_SUMS:
        sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
    else:
        sums = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    return sums


@triton.jit
def _store_sums(  # noqa: PLR0913  # what a program holds in registers
    partials_ptr, sums, part, vectors, columns, COLUMNS: tl.constexpr,
    IS_MATRIX: tl.constexpr, KEEPS_ROW_SUMS: tl.constexpr,
):  # fmt: skip
    """Write the sums of one part of the rows, shape [parts, vectors, columns]."""
    is_column = columns < COLUMNS
    if IS_MATRIX:
        vector = tl.arange(0, _DOT_VECTORS)
        addresses = partials_ptr + (part * vectors + vector)[:, None].to(tl.int64) * COLUMNS + columns[None, :]
        tl.store(addresses, sums, mask=(vector < vectors)[:, None] & is_column[None, :])
    else:
        if KEEPS_ROW_SUMS:
            sums = tl.sum(sums, 0)
        tl.store(partials_ptr + part.to(tl.int64) * COLUMNS + columns, sums, mask=is_column)


@triton.jit
def _load_entries(x_ptr, rows, is_read, vectors, ROWS: tl.constexpr, IS_MATRIX: tl.constexpr):
    """Load the entries of the vectors for some rows: shape [rows], or [16, rows] for several vectors."""
    if IS_MATRIX:
        vector = tl.arange(0, _DOT_VECTORS)
        x = tl.load(
            x_ptr + vector[:, None] * ROWS + rows[None, :],
            mask=(vector < vectors)[:, None] & is_read[None, :],
            other=0.0,
        )
    else:
        x = tl.load(x_ptr + rows, mask=is_read, other=0.0)
    return x


@triton.jit(do_not_specialize=["vectors", "parts"])
def multiply_listed_rows(  # noqa: PLR0913  # the parameters of one launch
    x_ptr,
    list_ptr,
    weight_ptr,
    partials_ptr,
    vectors,
    parts,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    IS_MATRIX: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    KEEPS_ROW_SUMS: tl.constexpr,
):
    """Multiply one part of the listed rows with one tile of the columns.

    Programs: (tiles of columns, parts of the list, groups of vectors). Without ``IS_MATRIX``, a group is one vector.
    """
    part = tl.program_id(1)
    group = tl.program_id(2)
    list_ptr += group * (ROWS + _HEADER)
    x_ptr += group * ROWS
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    length = tl.load(list_ptr)
    first = part * length // parts
    last = (part + 1) * length // parts
    sums = _make_sums(IS_MATRIX, KEEPS_ROW_SUMS, BLOCK_ROWS, BLOCK_COLUMNS)
    for position in tl.range(first, last, BLOCK_ROWS, num_stages=STAGES):
        positions = position + tl.arange(0, BLOCK_ROWS)
        is_read = positions < last
        rows = tl.load(list_ptr + _HEADER + positions, mask=is_read, other=0)
        weights = _load_weights(weight_ptr, rows, is_read, columns, ROW_STRIDE, COLUMNS, BLOCK_COLUMNS)
        x = _load_entries(x_ptr, rows, is_read, vectors, ROWS, IS_MATRIX)
        sums = _add_products(sums, x, weights, IS_MATRIX, KEEPS_ROW_SUMS)
    _store_sums(partials_ptr, sums, group * parts + part, vectors, columns, COLUMNS, IS_MATRIX, KEEPS_ROW_SUMS)


@triton.jit(do_not_specialize=["vectors", "parts"])
def multiply_masked_rows(  # noqa: PLR0913  # the parameters of one launch
    x_ptr,
    counts_ptr,
    weight_ptr,
    partials_ptr,
    vectors,
    parts,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    IS_MATRIX: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    KEEPS_ROW_SUMS: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
):
    """Multiply one part of all rows with one tile of the columns, and load only the rows that a vector needs.

    Programs: (tiles of columns, parts of the rows, groups of vectors). Without ``IS_MATRIX``, a group is one vector.
    """
    part = tl.program_id(1)
    group = tl.program_id(2)
    x_ptr += group * ROWS
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    first = part * ROWS // parts
    last = (part + 1) * ROWS // parts
    sums = _make_sums(IS_MATRIX, KEEPS_ROW_SUMS, BLOCK_ROWS, BLOCK_COLUMNS)
    needed = tl.zeros((BLOCK_ROWS,), tl.int32)
    entries = tl.zeros((BLOCK_ROWS,), tl.int32)
    for start in tl.range(first, last, BLOCK_ROWS, num_stages=STAGES):
        rows = start + tl.arange(0, BLOCK_ROWS)
        x = _load_entries(x_ptr, rows, rows < last, vectors, ROWS, IS_MATRIX)
        kept = (x != 0).to(tl.int32)
        if IS_MATRIX:
            kept = tl.sum(kept, 0)
        weights = _load_weights(weight_ptr, rows, kept > 0, columns, ROW_STRIDE, COLUMNS, BLOCK_COLUMNS)
        sums = _add_products(sums, x, weights, IS_MATRIX, KEEPS_ROW_SUMS)
        needed += (kept > 0).to(tl.int32)
        entries += kept
    _store_sums(partials_ptr, sums, group * parts + part, vectors, columns, COLUMNS, IS_MATRIX, KEEPS_ROW_SUMS)
    if tl.program_id(0) == 0:
        slot = group * parts + part
        _add_to_counter(counts_ptr, slot, 2, tl.sum(needed, 0))
        _add_to_counter(counts_ptr, slot, 3, tl.sum(entries, 0))
        if part == 0:
            total = _count_needed_before(x_ptr, vectors, ROWS, ROWS, PADDED_ROWS)
            _add_to_counter(counts_ptr, slot, 0, 1)
            _add_to_counter(counts_ptr, slot, 1, (total == ROWS).to(tl.int32))
            _add_to_counter(counts_ptr, slot, 4, vectors * ROWS)


@triton.jit(do_not_specialize=["vectors", "parts"])
def add_partial_sums(  # noqa: PLR0913  # the parameters of one launch
    partials_ptr,
    bias_ptr,
    out_ptr,
    vectors,
    parts,
    COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Add the sums of all parts in a fixed order, add the bias, and round.

    Programs: (tiles of columns, all vectors). The vectors of a group have their sums next to each other.
    """
    row = tl.program_id(1)
    columns = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    is_column = columns < COLUMNS
    part = tl.arange(0, PADDED_PARTS)
    line = (row // vectors * parts + part) * vectors + row % vectors
    sums = tl.load(
        partials_ptr + line.to(tl.int64)[:, None] * COLUMNS + columns[None, :],
        mask=(part < parts)[:, None] & is_column[None, :],
        other=0.0,
    )
    total = tl.sum(sums, 0)
    if HAS_BIAS:
        total += tl.load(bias_ptr + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(out_ptr + row.to(tl.int64) * COLUMNS + columns, total.to(out_ptr.dtype.element_ty), mask=is_column)


@triton.jit(do_not_specialize=["vectors"])
def multiply_listed_outputs(  # noqa: PLR0913  # the parameters of one launch
    x_ptr,
    kept_ptr,
    list_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    vectors,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute the dot products of the listed rows with each vector that keeps them.

    Programs: any number, which share the listed rows evenly. A row that several vectors keep is read again for each of
    them, from the cache.
    """
    length = tl.load(list_ptr)
    step = tl.num_programs(0) * BLOCK_ROWS
    for first in range(tl.program_id(0) * BLOCK_ROWS, length, step):
        positions = first + tl.arange(0, BLOCK_ROWS)
        is_listed = positions < length
        rows = tl.load(list_ptr + _HEADER + positions, mask=is_listed, other=0)
        for vector in range(vectors):
            is_kept = is_listed & (tl.load(kept_ptr + vector * ROWS + rows, mask=is_listed, other=0) != 0)
            sums = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), tl.float32)
            for start in range(0, COLUMNS, BLOCK_COLUMNS):
                columns = start + tl.arange(0, BLOCK_COLUMNS)
                x = tl.load(x_ptr + vector * COLUMNS + columns, mask=columns < COLUMNS, other=0.0)
                weights = _load_weights(weight_ptr, rows, is_kept, columns, ROW_STRIDE, COLUMNS, BLOCK_COLUMNS)
                sums += x.to(tl.float32)[None, :] * weights.to(tl.float32)
            total = tl.sum(sums, 1)
            if HAS_BIAS:
                total += tl.load(bias_ptr + rows, mask=is_kept, other=0.0).to(tl.float32)
            tl.store(out_ptr + vector * ROWS + rows, total.to(out_ptr.dtype.element_ty), mask=is_kept)
