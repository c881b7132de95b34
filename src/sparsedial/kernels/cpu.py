"""The CPU backend: `sparsedial.kernels.search` over the vectors of a tensor.

Threads are torch's own (its OpenMP runtime runs our loop), so there is no second pool to fight with.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, types  # type: ignore[attr-defined]  # numba exports it untyped
from numba.extending import intrinsic

from sparsedial.kernels.search import BF16, F16, FEW, RULES, Scratch, plain, row, scratch

CHUNK = 16384  # elements a thread claims at a time
SERIAL = 32768  # elements below which waking the other threads costs more than it brings


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


class _Call(ctypes.Structure):
    """What `_work` reads: 8 words."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("x", "y", "kept", "rows", "width", "rule")),
        ("value", ctypes.c_double),
        ("next", ctypes.c_int64),
    )


@plain
def _work(call, x_type, a_type, bits_type, shift):
    """What each thread does: claim rows and work them, until none is left."""
    args = carray(call, 8)
    rows, width, rule = args[3], args[4], args[5]
    value = args.view(np.float64)[6]
    x = carray(_pointer(args[0], x_type), (rows, width))  # type: ignore[call-arg]  # an intrinsic: numba gives the first argument
    y = carray(_pointer(args[1], x_type), (rows, width))
    kept = carray(_pointer(args[2], np.int32), (rows,))
    memory, warm = scratch(width, a_type, bits_type), np.zeros(2)
    chunk = max(1, CHUNK // width)
    first = _claim(call, 7, chunk)
    while first < rows:
        for i in range(first, min(rows, first + chunk)):
            kept[i] = row(x[i], y[i], memory, warm, shift, rule, value)
        first = _claim(call, 7, chunk)


class _Place(ctypes.Structure):
    """What `_single` reads and writes: 16 words, two cache lines."""

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


@plain
def _single(place, x, y, x_type, a_type, bits_type, shift):
    """One vector at its place."""
    words = carray(place, 16)
    reals = words.view(np.float64)
    width, rule, value, memory = words[0], words[1], reals[2], words[3]
    a = carray(_pointer(memory, a_type), (width,))  # type: ignore[call-arg]  # as above
    inside = carray(_pointer(memory + 8 * width, np.uint64), ((width + 7) // 8,))
    few = carray(_pointer(memory + 16 * width + 8, a_type), (FEW + 1,))
    at = carray(_pointer(memory + 16 * width + 16 + 8 * FEW, a_type), (1,))
    inside[-1] = 0  # the vector's end need not fill it
    own = Scratch(a, a.view(bits_type), inside.view(np.uint8), inside, few, at, at.view(bits_type))
    bits, out = carray(_pointer(x, x_type), (width,)), carray(_pointer(y, x_type), (width,))
    n = row(bits, out, own, reals[WARM : WARM + 2], shift, rule, value)
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
def _compiled(dtype: torch.dtype) -> tuple[int, Callable[[int], None]]:
    """`_work` for one dtype, its address and itself: compiled on first use, then cached on disk."""
    x_type, a_type, bits_type, shift = _RAW[dtype]

    @cfunc(types.void(types.CPointer(types.int64)), cache=True)
    def work(call):
        _work(call, x_type, a_type, bits_type, shift)

    address = int(work.address or 0)
    return address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)


@functools.cache
def _compiled_single(dtype: torch.dtype) -> Callable[[int, int, int], None]:
    """`_single` likewise. No other Python thread runs meanwhile: they share the memory, and it is soon over."""
    x_type, a_type, bits_type, shift = _RAW[dtype]

    @cfunc(types.void(types.CPointer(types.int64), types.int64, types.int64), cache=True)
    def single(place, x, y):
        _single(place, x, y, x_type, a_type, bits_type, shift)

    return ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(int(single.address or 0))


@functools.cache
def _fork_join() -> Any:
    """The ``GOMP_parallel`` of torch's own OpenMP runtime, or None where there is none to be found."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel


def _parallel(address: int, run: Callable[[int], None], call: int, threads: int) -> None:
    parallel = _fork_join()
    if parallel is not None:
        parallel(address, call, threads, 0)
        return
    others = [threading.Thread(target=run, args=(call,)) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    run(call)
    for thread in others:
        thread.join()


def select(
    x: torch.Tensor, rule: str, value: float, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on a CPU tensor: see `sparsedial.kernels.reference.select`, whose answer it gives."""
    address, run = _compiled(x.dtype)
    x = x.contiguous()
    y = torch.empty_like(x)
    shape = x.shape
    if kept is None:
        kept = x.new_empty(shape[:-1], dtype=torch.int32)
    size = x.numel()
    if size == 0:
        return y, kept.zero_()
    width = shape[-1]
    call = _Call(x.data_ptr(), y.data_ptr(), kept.data_ptr(), size // width, width, RULES[rule], value, 0)
    threads = torch.get_num_threads() if size > SERIAL and size > width else 1
    if threads > 1:
        _parallel(address, run, ctypes.addressof(call), threads)
    else:
        run(ctypes.addressof(call))
    return y, kept


class Places:
    """The op where single vectors come again and again: at the layers of a model that decodes.

    There a call costs what it touches, for each layer's weights drive everything else from the caches. So a
    place's arguments stay laid out, its search begins where its last one ended, and the kernel adds up what
    it drops. Vectors come in rounds (a model's forwards), of which one may fail: `end` says that it did not.

    >>> places = Places([4], "top_p", 0.7)
    >>> select = places.at(0)
    >>> select(torch.tensor([[4.0, -3.0, 2.0, 1.0]])), places.end(), places.take()
    (tensor([[ 4., -3.,  0.,  0.]]), None, array([[2, 4, 0]]))
    """

    def __init__(self, widths: Sequence[int], rule: str, value: float) -> None:
        self._round = ctypes.c_int64(1)
        self._memory = np.empty(2 * max(widths) + FEW + 3)
        where = self._memory.ctypes.data, ctypes.addressof(self._round)
        self._places = (_Place * len(widths))(*(_Place(width, RULES[rule], value, *where) for width in widths))
        self._words = np.frombuffer(memoryview(self._places), np.int64).reshape(-1, 16)

    def at(self, place: int) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """What applies the rule to one contiguous vector of the place's width on the CPU, and None to other tensors."""
        width, address = self._places[place].width, ctypes.addressof(self._places[place])
        plain, empty_like = torch.Tensor, torch.empty_like
        dtype, run = None, None

        def select(x: torch.Tensor) -> torch.Tensor | None:
            nonlocal dtype, run
            if not (type(x) is plain and x.is_cpu and x.is_contiguous() and x.numel() == width):
                return None
            if x.dtype is not dtype:
                dtype, run = x.dtype, _compiled_single(x.dtype)
            y = empty_like(x)
            run(address, x.data_ptr(), y.data_ptr())
            return y

        select.places = self  # type: ignore[attr-defined]  # whose memory it writes to
        return select

    def end(self) -> None:
        """This round is over."""
        self._round.value += 1

    def cancel(self) -> None:
        """This round failed: what it had is not counted."""
        self._words[self._words[:, LAST] == self._round.value, LAST + 1 : LAST + 4] = 0

    def take(self) -> np.ndarray:
        """Of each place, and no longer kept: dropped and total entries, and vectors that are not finite; int64.

        Of rounds that are over: what the one under way has so far is left for another time.
        """
        over = self._words[:, LAST] != self._round.value
        counted, now = self._words[:, COUNTED:LAST], self._words[:, LAST + 1 : LAST + 4]
        taken = counted + now * over[:, None]
        counted[:] = 0
        now[over] = 0
        return taken
