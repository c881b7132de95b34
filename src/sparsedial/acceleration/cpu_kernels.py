"""Products of vectors with a part of a weight matrix on the CPU, compiled by numba.

The kernels read a weight matrix once, row by row, and skip rows. Decoding is limited by the memory bandwidth, so the
time of a product is the number of bytes that it reads.

*Kept inputs.* The matrix has one row per input (input-major). The indices of the inputs that are not zero in one of
the vectors are written to a list. The rows of the matrix are divided into parts, each with sums of its own, because
whole rows are read at a higher rate than pieces of them. A thread streams eight rows of the list per pass and adds them
to the float32 sums of the part, which stay in its caches. At the end, the sums of the parts are added.

*Kept outputs.* The matrix has one row per output. The dot products of the rows that are kept are computed, four rows
at a time. They are apart from each other, so that each is the first of a sequence of neighboring rows. The same code
computes all outputs of a matrix that nothing is skipped of.

The products of an output are added in an order that depends on the shape of the matrix alone, and not on the number of
threads, on the tiles, or on what other vectors keep. So equal inputs give equal bits.

The innermost loops are written with LLVM vectors, because the compiler does not vectorise the conversion of 16-bit
floats by itself. The compiler divides a vector of 16 entries if the processor's vectors are shorter.

Every function that numba compiles is in this file, because numba's cache on disk notices only changes in the file of
the function that it compiled.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types  # type: ignore[attr-defined]  # numba exports it untyped
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from sparsedial.acceleration.weight_layout import CACHE_LINE_BYTES

LANES = 16  # entries of an LLVM vector
ROWS_PER_PASS = 8  # rows that a pass adds to the sums
ROWS_AT_END = 4  # rows of a pass, if fewer than `ROWS_PER_PASS` are left
PARTS = 4  # parts of a matrix, whose kept rows are added to separate sums
DOT_ROWS = 4  # rows of which dot products are computed at the same time
MAX_VECTORS = 8  # vectors for which a matrix is read once
SHORT_ROW_BYTES = 8192  # float32 rows up to this length are prefetched; longer ones take up to 20% more time then

PRODUCT = np.dtype(
    [
        ("weight_address", np.int64),
        ("row_bytes", np.int64),  # distance of two rows of the matrix
        ("rows", np.int64),  # rows that may be skipped: inputs or outputs
        ("columns", np.int64),  # entries of a row
        ("bias_address", np.int64),  # entries of the dtype of the matrix; 0 if there is no bias
        ("indices_address", np.int64),  # memory for the list of rows: rows + 1 entries, int64
        ("values_address", np.int64),  # memory for entries of x: MAX_VECTORS * (max(rows, columns) + 1), float32
        ("sums_address", np.int64),  # memory for the sums: PARTS * MAX_VECTORS * columns, float32
        ("out_address", np.int64),
        ("vectors", np.int64),
        ("kept", np.int64),  # rows in the list
        ("limit", np.int64),  # longest list that the kernel may be used for
        ("tile", np.int64),  # columns of a part (kept inputs) or rows of the list (kept outputs) that a thread claims
        ("threads", np.int64),
        ("next_tile", np.int64),
        ("parallel_address", np.int64),  # GOMP_parallel, if there is more than one thread
        ("calls", np.int64),
        ("dense_calls", np.int64),  # calls that read the whole matrix
        ("rows_read", np.int64),
        ("kept_entries", np.int64),  # entries that are not zero, over all vectors
        ("entries", np.int64),
    ],
    align=True,
)
"""Arguments and counts of one product."""

NEXT_TILE_OFFSET = PRODUCT.fields["next_tile"][1]  # type: ignore[index]  # a structured dtype has fields

_ONE_LANE = (0,)
_intrinsic: Any = intrinsic
_compiled = njit(cache=True, error_model="numpy")
_FLOAT = ir.FloatType()
_INT16 = ir.IntType(16)
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class _WeightFormat(NamedTuple):
    """Describes how the kernels read and write one dtype.

    The type of the bits identifies the dtype when a kernel is compiled.
    """

    name: str
    raw: Any  # NumPy type of the bits; bfloat16 is signed and float16 is not, so that they differ
    size: int  # bytes of an entry
    magnitude: int  # mask of the bits without the sign


FORMATS = {
    torch.float32: _WeightFormat("float32", np.int32, 4, 0x7FFFFFFF),
    torch.bfloat16: _WeightFormat("bfloat16", np.int16, 2, 0x7FFF),
    torch.float16: _WeightFormat("float16", np.uint16, 2, 0x7FFF),
}
_NAMES = {types.int32: "float32", types.int16: "bfloat16", types.uint16: "float16"}


def _lanes_per_step(size: int, vectors: int) -> int:
    """Return the number of neighboring sums of one step of the innermost loop.

    For eight vectors, a step reads a whole cache line of each row, so that an entry of x is loaded half as often for
    16-bit weights, which takes 10% less time. This needs the registers of AVX-512.

    Args:
        size: Bytes of an entry of the matrix.
        vectors: Number of vectors.
    """
    has_avx512 = platform.machine() in ("x86_64", "AMD64") and llvmlite.binding.get_host_cpu_features().get("avx512f")
    return CACHE_LINE_BYTES // size if has_avx512 and vectors == MAX_VECTORS else LANES


def _load_weights(builder: Any, address: Any, name: str, lanes: int) -> Any:
    """Load neighboring entries of a matrix and convert them to float32."""
    element = _FLOAT if name == "float32" else _INT16
    loaded = builder.load(builder.inttoptr(address, ir.VectorType(element, lanes).as_pointer()))
    loaded.align = _entry_size(name)
    result = ir.VectorType(_FLOAT, lanes)
    if name == "float16":
        return builder.fpext(builder.bitcast(loaded, ir.VectorType(ir.HalfType(), lanes)), result)
    if name == "bfloat16":
        wide = ir.VectorType(_INT32, lanes)
        return builder.bitcast(builder.shl(builder.zext(loaded, wide), ir.Constant(wide, [16] * lanes)), result)
    return loaded


def _entry_size(name: str) -> int:
    return 4 if name == "float32" else 2


def _load_vector(builder: Any, address: Any, lanes: int) -> Any:
    loaded = builder.load(builder.inttoptr(address, ir.VectorType(_FLOAT, lanes).as_pointer()))
    loaded.align = 4
    return loaded


def _load_copies(builder: Any, address: Any, lanes: int) -> Any:
    """Load one float32 and return a vector of copies of it."""
    scalar = builder.load(builder.inttoptr(address, _FLOAT.as_pointer()))
    undefined = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


def _declare(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Return an LLVM function, which is declared in the module on its first use."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, arguments), name)
    return function


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, in one instruction if the processor has one."""
    function = _declare(builder, f"llvm.fmuladd.v{a.type.count}f32", a.type, [a.type] * 3)
    return builder.call(function, [a, b, c])


def _prefetch(builder: Any, address: Any) -> None:
    """Load a cache line into the second-level cache. The first level is too small for the rows of a pass."""
    pointer = ir.IntType(8).as_pointer()
    function = _declare(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _INT32, _INT32, _INT32])
    read, second_level, data = (ir.Constant(_INT32, value) for value in (0, 2, 1))
    builder.call(function, [builder.inttoptr(address, pointer), read, second_level, data])


def _offset(builder: Any, address: Any, index: Any, size: int) -> Any:
    return builder.add(address, builder.mul(index, ir.Constant(_INT64, size)))


@_intrinsic
def _add_rows(  # noqa: PLR0913  # what one step of the innermost loop needs
    typing_context: Any,
    raw: Any,
    vectors: Any,
    lanes: Any,
    sums: Any,
    pitch: Any,
    row_addresses: Any,
    next_addresses: Any,
    values: Any,
    column: Any,
) -> Any:
    """Add the products of some rows with entries of x to neighboring sums, and prefetch the same columns of other rows.

    ``vectors`` and ``lanes`` are tuples, whose lengths are the number of vectors and of neighboring sums.
    """
    name = _NAMES[raw.dtype]
    size = _entry_size(name)
    vector_count = len(vectors)
    lane_count = len(lanes)
    row_count = len(row_addresses)
    next_count = len(next_addresses) if lane_count > 1 else 0

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums, pitch, row_addresses, next_addresses, values, column = arguments[3:]
        weights = []
        for row in range(row_count):
            address = _offset(builder, builder.extract_value(row_addresses, row), column, size)
            weights.append(_load_weights(builder, address, name, lane_count))
            if row < next_count:
                _prefetch(builder, _offset(builder, builder.extract_value(next_addresses, row), column, size))
        for vector in range(vector_count):
            vector_sums = builder.add(sums, builder.mul(pitch, ir.Constant(_INT64, vector)))
            address = _offset(builder, vector_sums, column, 4)
            total = _load_vector(builder, address, lane_count)
            for row in range(row_count):
                value_address = builder.add(values, ir.Constant(_INT64, 4 * (row * vector_count + vector)))
                total = _multiply_add(builder, weights[row], _load_copies(builder, value_address, lane_count), total)
            builder.store(total, builder.inttoptr(address, total.type.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(
        raw, vectors, lanes, types.int64, types.int64, row_addresses, next_addresses, types.int64, types.int64
    ), generate


@_intrinsic
def _dot(typing_context: Any, raw: Any, row_addresses: Any, x: Any, columns: Any) -> Any:
    """Return the dot products of some rows with one vector of float32. ``columns`` is a multiple of `LANES`."""
    name = _NAMES[raw.dtype]
    size = _entry_size(name)
    row_count = len(row_addresses)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, row_addresses, x, columns = arguments
        zeros = ir.Constant(ir.VectorType(_FLOAT, LANES), [0.0] * LANES)
        totals = [cgutils.alloca_once_value(builder, zeros) for _ in range(row_count)]
        for total in totals:
            builder.store(zeros, total)
        step = ir.Constant(_INT64, LANES)
        with cgutils.for_range_slice(builder, ir.Constant(_INT64, 0), columns, step, _INT64) as (column, _):
            entries = _load_vector(builder, _offset(builder, x, column, 4), LANES)
            for row, total in enumerate(totals):
                address = _offset(builder, builder.extract_value(row_addresses, row), column, size)
                weights = _load_weights(builder, address, name, LANES)
                builder.store(_multiply_add(builder, weights, entries, builder.load(total)), total)
        sums = [_sum_lanes(builder, builder.load(total)) for total in totals]
        return context.make_tuple(builder, signature.return_type, sums)

    result = types.UniTuple(types.float32, row_count)
    return result(raw, row_addresses, types.int64, types.int64), generate


def _sum_lanes(builder: Any, vector: Any) -> Any:
    """Return the sum of the entries of a vector, added in pairs."""
    entries = [builder.extract_element(vector, ir.Constant(_INT32, lane)) for lane in range(LANES)]
    while len(entries) > 1:
        half = len(entries) // 2
        entries = [builder.fadd(entries[i], entries[i + half]) for i in range(half)]
    return entries[0]


@_intrinsic
def to_float32(typing_context: Any, bits: Any) -> Any:
    """Convert the bits of one entry to float32.

    Args:
        typing_context: Passed by numba.
        bits: Numba type of the bits, which identifies the dtype.

    Returns:
        The signature, and the function that generates the code.
    """
    name = _NAMES[bits]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        if name == "float16":
            return builder.fpext(builder.bitcast(value, ir.HalfType()), _FLOAT)
        if name == "bfloat16":
            value = builder.shl(builder.zext(value, _INT32), ir.Constant(_INT32, 16))
        return builder.bitcast(value, _FLOAT)

    return types.float32(bits), generate


@_intrinsic
def from_float32(typing_context: Any, raw: Any, value: Any) -> Any:
    """Convert a float32 to the bits of the nearest value, ties to even.

    Args:
        typing_context: Passed by numba.
        raw: Numba type of the bits, which identifies the dtype.
        value: Numba type of the float32.

    Returns:
        The signature, and the function that generates the code.
    """
    name = _NAMES[raw.dtype]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = arguments[1]
        if name == "float16":
            return builder.bitcast(builder.fptrunc(value, ir.HalfType()), _INT16)
        bits = builder.bitcast(value, _INT32)
        if name == "float32":
            return bits
        is_odd = builder.and_(builder.lshr(bits, ir.Constant(_INT32, 16)), ir.Constant(_INT32, 1))
        rounded = builder.add(builder.add(bits, is_odd), ir.Constant(_INT32, 0x7FFF))
        high = builder.trunc(builder.lshr(rounded, ir.Constant(_INT32, 16)), _INT16)
        is_nan = builder.fcmp_unordered("uno", value, value)  # its bits would overflow
        return builder.select(is_nan, ir.Constant(_INT16, 0x7FC0), high)

    return raw.dtype(raw, types.float32), generate


@_intrinsic
def pointer_to(typing_context: Any, address: Any, item: Any) -> Any:
    """Convert an address to a pointer to items of a number type or record dtype.

    Args:
        typing_context: Passed by numba.
        address: Numba type of the address.
        item: Numba type of the item.

    Returns:
        The signature, and the function that generates the code.
    """
    pointer_type = types.CPointer(item.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return pointer_type(types.int64, item), generate


@_intrinsic
def _fetch_and_add(typing_context: Any, pointer: Any, amount: Any) -> Any:
    """Add to an integer atomically and return its value before the addition."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], arguments[1], "monotonic")

    return types.int64(pointer, types.int64), generate


@_intrinsic
def _call_parallel(typing_context: Any, parallel: Any, worker: Any, argument: Any, threads: Any) -> Any:
    """Call ``GOMP_parallel(worker, argument, threads, 0)``. The functions are given by their addresses."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parallel, worker, argument, threads = arguments
        function_type = ir.FunctionType(ir.VoidType(), [_INT64, _INT64, _INT32, _INT32])
        function = builder.inttoptr(parallel, function_type.as_pointer())
        builder.call(function, [worker, argument, builder.trunc(threads, _INT32), ir.Constant(_INT32, 0)])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


@_compiled
def _record(address):
    return carray(pointer_to(address, PRODUCT), (1,))[0]


@register_jitable
def _four_rows(start, indices, i, row_bytes):
    """Return the addresses of the four rows of the list from position i on."""
    return (
        start + indices[i] * row_bytes,
        start + indices[i + 1] * row_bytes,
        start + indices[i + 2] * row_bytes,
        start + indices[i + 3] * row_bytes,
    )


@register_jitable
def _eight_rows(start, indices, i, row_bytes):
    """Return the addresses of the eight rows of the list from position i on."""
    return _four_rows(start, indices, i, row_bytes) + _four_rows(start, indices, i + 4, row_bytes)


@_compiled
def _find_position(indices, kept, row):
    """Return the position in the list of the first row that is not before the given one."""
    low = 0
    high = kept
    while low < high:
        middle = (low + high) // 2
        if indices[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@_compiled
def _add_pass(  # noqa: PLR0913  # what one pass needs
    raw, vectors, lanes, sums, pitch, rows, following, values, width
):
    """Add the products of some rows with entries of x to the sums of a tile, and prefetch the rows that follow."""
    vector_width = width - width % len(lanes)
    for column in range(0, vector_width, len(lanes)):
        _add_rows(raw, vectors, lanes, sums, pitch, rows, following, values, column)
    for column in range(vector_width, width):
        _add_rows(raw, vectors, _ONE_LANE, sums, pitch, rows, following, values, column)


@_compiled
def _sum_tile(  # noqa: PLR0913  # the tile, and what the code is compiled for
    product, part, first, last, raw, size, vectors, lanes
):
    """Compute the sums of a tile of columns, over the rows of the list that belong to a part of the matrix."""
    indices = carray(pointer_to(product.indices_address, np.int64), (product.rows + 1,))
    pitch = product.columns * 4
    width = last - first
    row_bytes = product.row_bytes
    start = product.weight_address + first * size
    sums = product.sums_address + (part * len(vectors) * product.columns + first) * 4
    for vector in range(len(vectors)):
        tile_sums = carray(pointer_to(sums + vector * pitch, np.float32), (width,))
        for column in range(width):
            tile_sums[column] = np.float32(0)
    i = _find_position(indices, product.kept, part * product.rows // PARTS)
    end = _find_position(indices, product.kept, (part + 1) * product.rows // PARTS)
    entry_bytes = len(vectors) * 4
    prefetches = size == 2 or width * size <= SHORT_ROW_BYTES
    while i + ROWS_PER_PASS <= end:
        rows = _eight_rows(start, indices, i, row_bytes)
        values = product.values_address + i * entry_bytes
        if prefetches:  # also rows of the next part, so that the last rows of this one are among them
            following = _eight_rows(start, indices, min(i + ROWS_PER_PASS, product.kept - ROWS_PER_PASS), row_bytes)
            _add_pass(raw, vectors, lanes, sums, pitch, rows, following, values, width)
        else:
            _add_pass(raw, vectors, lanes, sums, pitch, rows, (), values, width)
        i += ROWS_PER_PASS
    if i + ROWS_AT_END <= end:
        some = _four_rows(start, indices, i, row_bytes)
        _add_pass(raw, vectors, lanes, sums, pitch, some, (), product.values_address + i * entry_bytes, width)
        i += ROWS_AT_END
    while i < end:
        row = (start + indices[i] * row_bytes,)
        _add_pass(raw, vectors, lanes, sums, pitch, row, (), product.values_address + i * entry_bytes, width)
        i += 1


@_compiled
def _store_sums(product, raw, size, vectors):
    """Add the sums of the parts and the bias, and round them to the dtype of the result."""
    columns = product.columns
    part_entries = len(vectors) * columns
    for vector in range(product.vectors):
        sums = carray(pointer_to(product.sums_address + vector * columns * 4, np.float32), (PARTS * part_entries,))
        out = carray(pointer_to(product.out_address + vector * columns * size, raw), (columns,))
        for part in range(1, PARTS):
            for column in range(columns):
                sums[column] += sums[part * part_entries + column]
        if product.bias_address != 0:
            bias = carray(pointer_to(product.bias_address, raw), (columns,))
            for column in range(columns):
                out[column] = from_float32(raw, sums[column] + to_float32(bias[column]))
        else:
            for column in range(columns):
                out[column] = from_float32(raw, sums[column])


@_compiled
def _multiply_kept_inputs(address, raw, size, vectors, lanes):
    """Claim tiles of the parts and compute them until all are claimed. Every thread of a call runs this function."""
    product = _record(address)
    next_tile = pointer_to(address + NEXT_TILE_OFFSET, np.int64)
    claimed = _fetch_and_add(next_tile, 1)
    while claimed // PARTS * product.tile < product.columns:
        first = claimed // PARTS * product.tile
        last = min(first + product.tile, product.columns)
        _sum_tile(product, claimed % PARTS, first, last, raw, size, vectors, lanes)
        claimed = _fetch_and_add(next_tile, 1)


@_compiled
def _list_kept_inputs(product, x_address, raw, magnitude, vectors):
    """Write the list of the inputs that are not zero in one of the vectors, and their entries. Update the counts."""
    rows = product.rows
    indices = carray(pointer_to(product.indices_address, np.int64), (rows + 1,))
    values = carray(pointer_to(product.values_address, np.float32), ((rows + 1) * len(vectors),))
    x = carray(pointer_to(x_address, raw), (product.vectors * rows,))
    kept = 0
    kept_entries = 0
    for i in range(rows):
        any_bits = 0
        for vector in range(len(vectors)):
            value = np.float32(0)
            if vector < product.vectors:
                bits = x[vector * rows + i] & magnitude
                kept_entries += bits != 0
                any_bits |= bits
                value = to_float32(x[vector * rows + i])
            values[kept * len(vectors) + vector] = value
        indices[kept] = i
        kept += any_bits != 0
    product.kept = kept
    product.kept_entries += kept_entries


@_compiled
def _count_call(product):
    """Add one call to the counts, and return False if the list is longer than the limit."""
    is_within_limit = product.kept <= product.limit
    read = product.kept if is_within_limit else product.rows
    product.calls += 1
    product.entries += product.rows * product.vectors
    product.dense_calls += read == product.rows
    product.rows_read += read
    return is_within_limit


@_compiled
def _multiply_kept_outputs(address, raw, size):
    """Claim pieces of the list of rows and compute their dot products with each vector, until all are claimed."""
    product = _record(address)
    next_tile = pointer_to(address + NEXT_TILE_OFFSET, np.int64)
    indices = carray(pointer_to(product.indices_address, np.int64), (product.rows + 1,))
    first = _fetch_and_add(next_tile, 1) * product.tile
    while first < product.kept:
        last = min(first + product.tile, product.kept)
        step = (last - first) // DOT_ROWS
        for i in range(first, first + step):
            # Each of the four rows is followed by its neighbor, which the processor can load in advance.
            some = (indices[i], indices[i + step], indices[i + 2 * step], indices[i + 3 * step])
            _store_dots(product, some, raw, size)
        for i in range(first + DOT_ROWS * step, last):
            _store_dots(product, (indices[i],), raw, size)
        first = _fetch_and_add(next_tile, 1) * product.tile


@_compiled
def _store_dots(product, rows, raw, size):
    """Store the dot products of some rows with each vector."""
    columns = product.columns
    vector_columns = columns - columns % LANES
    for vector in range(product.vectors):
        x_address = product.values_address + vector * columns * 4
        x = carray(pointer_to(x_address, np.float32), (columns,))
        out = carray(pointer_to(product.out_address + vector * product.rows * size, raw), (product.rows,))
        sums = _dot(raw, _weight_addresses(product, rows), x_address, vector_columns)
        for i in range(len(rows)):
            weights = carray(pointer_to(product.weight_address + rows[i] * product.row_bytes, raw), (columns,))
            total = sums[i]
            for column in range(vector_columns, columns):
                total += to_float32(weights[column]) * x[column]
            if product.bias_address != 0:
                total += to_float32(carray(pointer_to(product.bias_address, raw), (product.rows,))[rows[i]])
            out[rows[i]] = from_float32(raw, total)


@register_jitable
def _weight_addresses(product, rows):
    """Return the addresses of rows, given as a tuple of indices."""
    if len(rows) == 1:
        return (product.weight_address + rows[0] * product.row_bytes,)
    return (
        product.weight_address + rows[0] * product.row_bytes,
        product.weight_address + rows[1] * product.row_bytes,
        product.weight_address + rows[2] * product.row_bytes,
        product.weight_address + rows[3] * product.row_bytes,
    )


@_compiled
def _list_kept_outputs(product, x_address, mask_address, raw):
    """Write the list of the outputs that one of the vectors keeps, and x in float32. Update the counts."""
    rows = product.rows
    indices = carray(pointer_to(product.indices_address, np.int64), (rows + 1,))
    mask = carray(pointer_to(mask_address, np.uint8), (product.vectors * rows,))
    kept = 0
    kept_entries = 0
    for i in range(rows):
        keepers = 0
        for vector in range(product.vectors):
            keepers += mask[vector * rows + i] != 0
        indices[kept] = i
        kept += keepers != 0
        kept_entries += keepers
    product.kept = kept
    product.kept_entries += kept_entries
    _convert_vectors(product, x_address, raw)


@_compiled
def _convert_vectors(product, x_address, raw):
    """Write x in float32."""
    size = product.vectors * product.columns
    x = carray(pointer_to(x_address, raw), (size,))
    values = carray(pointer_to(product.values_address, np.float32), (size,))
    for i in range(size):
        values[i] = to_float32(x[i])


@_compiled
def _run_kept_outputs(address, worker, out_address, raw, size):
    """Compute the outputs of the list on all threads of the record."""
    product = _record(address)
    product.out_address = out_address
    product.next_tile = 0
    if product.threads > 1:
        _call_parallel(product.parallel_address, worker, address, product.threads)
    else:
        _multiply_kept_outputs(address, raw, size)


@_compiled
def _clear_dropped_outputs(product, mask_address, raw):
    """Set the outputs that a vector drops to zero."""
    size = product.vectors * product.rows
    mask = carray(pointer_to(mask_address, np.uint8), (size,))
    out = carray(pointer_to(product.out_address, raw), (size,))
    for i in range(size):
        if mask[i] == 0:
            out[i] = raw(0)


class ProductKernel(NamedTuple):
    """A compiled product.

    Attributes:
        run: Function of the addresses of a `PRODUCT` record, the worker, x, the mask of the kept outputs (0 for kept
            inputs) and the result. It returns False if the list of rows is longer than the limit of the record, in
            which case the result has not been written.
        worker: Address of the function that each thread runs.
        run_address: Address of ``run`` as a C function, whose result is 1 or 0. 0 for kept outputs.
    """

    run: Callable[[int, int, int, int, int], bool]
    worker: int
    run_address: int = 0


_SIGNATURE = types.boolean(types.int64, types.int64, types.int64, types.int64, types.int64)


@functools.cache
def compile_kept_inputs(dtype: torch.dtype, vector_count: int) -> ProductKernel:
    """Compile the product that skips inputs. Later processes load it from numba's cache on disk.

    Args:
        dtype: Dtype of the matrix, of x and of the result, one of `FORMATS`.
        vector_count: Number of vectors, a power of two up to `MAX_VECTORS`. Fewer vectors are padded with zeros.

    Returns:
        The kernel.
    """
    _, raw, size, magnitude = FORMATS[dtype]
    vectors = (0,) * vector_count
    lanes = (0,) * _lanes_per_step(size, vector_count)

    @cfunc(types.void(types.int64), cache=True)
    def work(address):
        _multiply_kept_inputs(address, raw, size, vectors, lanes)

    @njit(_SIGNATURE, cache=True, error_model="numpy")
    def run(address, worker, x_address, mask_address, out_address):
        product = _record(address)
        _list_kept_inputs(product, x_address, raw, magnitude, vectors)
        if not _count_call(product):
            return False
        product.out_address = out_address
        product.next_tile = 0
        if product.threads > 1:
            _call_parallel(product.parallel_address, worker, address, product.threads)
        else:
            _multiply_kept_inputs(address, raw, size, vectors, lanes)
        _store_sums(product, raw, size, vectors)
        return True

    @cfunc(types.int64(*[types.int64] * 5), cache=True)
    def run_in_c(address, worker, x_address, mask_address, out_address):
        return np.int64(run(address, worker, x_address, mask_address, out_address))

    return _finish(run, work)._replace(run_address=int(run_in_c.address or 0))


@functools.cache
def compile_kept_outputs(dtype: torch.dtype) -> ProductKernel:
    """Compile the product that skips outputs. Later processes load it from numba's cache on disk.

    Args:
        dtype: Dtype of the matrix, of x and of the result, one of `FORMATS`.

    Returns:
        The kernel.
    """
    _, raw, size, _ = FORMATS[dtype]

    @njit(_SIGNATURE, cache=True, error_model="numpy")
    def run(address, worker, x_address, mask_address, out_address):
        product = _record(address)
        _list_kept_outputs(product, x_address, mask_address, raw)
        if not _count_call(product):
            return False
        _run_kept_outputs(address, worker, out_address, raw, size)
        _clear_dropped_outputs(product, mask_address, raw)
        return True

    return _finish(run, _compile_output_worker(dtype))


@functools.cache
def compile_all_outputs(dtype: torch.dtype) -> ProductKernel:
    """Compile the product that reads the whole matrix. Later processes load it from numba's cache on disk.

    The list of rows in the record has to be complete. It is not changed, and calls are not counted.

    Args:
        dtype: Dtype of the matrix, of x and of the result, one of `FORMATS`.

    Returns:
        The kernel.
    """
    _, raw, size, _ = FORMATS[dtype]

    @njit(_SIGNATURE, cache=True, error_model="numpy")
    def run(address, worker, x_address, mask_address, out_address):
        product = _record(address)
        _convert_vectors(product, x_address, raw)
        _run_kept_outputs(address, worker, out_address, raw, size)
        return True

    return _finish(run, _compile_output_worker(dtype))


@functools.cache
def _compile_output_worker(dtype: torch.dtype) -> Any:
    """Compile the function that each thread runs to compute the outputs of a list."""
    _, raw, size, _ = FORMATS[dtype]

    @cfunc(types.void(types.int64), cache=True)
    def work(address):
        _multiply_kept_outputs(address, raw, size)

    return work


def _finish(run: Any, work: Any) -> ProductKernel:
    """Return the entry points of the compiled functions. numba's own takes a quarter of the time of a ctypes call."""
    return ProductKernel(run.overloads[run.signatures[0]].entry_point, int(work.address))
