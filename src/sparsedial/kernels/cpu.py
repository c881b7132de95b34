"""The CPU backend: `sparsedial.kernels.search` over the vectors of a tensor.

Threads are torch's own (its OpenMP runtime runs our loop), so there is no second pool to fight with.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import carray, cfunc, types  # type: ignore[attr-defined]  # numba exports it untyped
from numba.extending import intrinsic

from sparsedial.kernels.search import BF16, F16, RULES, plain, row, scratch

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
    """What `_work` reads, in words of eight bytes; from ``round`` on for `Places` only."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("x", "y", "kept", "rows", "width", "rule")),
        ("value", ctypes.c_double),
        ("next", ctypes.c_int64),  # the first row that no thread has claimed yet
        ("round", ctypes.c_int64),  # where the number of the round under way is
        *((name, ctypes.c_double) for name in ("threshold", "slope")),  # where the search begins
        *((name, ctypes.c_int64) for name in ("dropped", "total", "bad")),  # of rounds that are over
        *((name, ctypes.c_int64) for name in ("last", "last_dropped", "last_total", "last_bad")),  # of the last
        *((f"unused_{i}", ctypes.c_int64) for i in range(6)),  # to whole cache lines
    )


X, Y, KEPT, ROWS, WIDTH, RULE, VALUE, NEXT, ROUND, THRESHOLD, _, COUNTED, _, _, LAST, NOW, _, _ = range(18)
WORDS = ctypes.sizeof(_Call) // 8


@plain
def _work(call, x_type, a_type, bits_type, shift):
    """What each thread does: claim rows and work them, until none is left."""
    words = carray(call, WORDS)
    reals = words.view(np.float64)
    rows, width, rule, value = words[ROWS], words[WIDTH], words[RULE], reals[VALUE]
    x = carray(_pointer(words[X], x_type), (rows, width))  # type: ignore[call-arg]  # an intrinsic: numba gives the first argument
    y = carray(_pointer(words[Y], x_type), (rows, width))
    kept = carray(_pointer(words[KEPT], np.int32), (rows,))
    memory = scratch(width, a_type, bits_type)
    if words[ROUND]:
        n = row(x[0], y[0], memory, reals[THRESHOLD : THRESHOLD + 2], shift, rule, value)
        this = carray(_pointer(words[ROUND], np.int64), 1)[0]
        if words[LAST] != this:
            words[LAST] = this
            words[COUNTED : COUNTED + 3] += words[NOW : NOW + 3]
            words[NOW : NOW + 3] = 0
        if n < 0:
            words[NOW + 2] += 1
        else:
            words[NOW] += width - n
            words[NOW + 1] += width
        return
    warm = np.zeros(2)
    chunk = max(1, CHUNK // width)
    first = _claim(call, NEXT, chunk)
    while first < rows:
        for i in range(first, min(rows, first + chunk)):
            kept[i] = row(x[i], y[i], memory, warm, shift, rule, value)
        first = _claim(call, NEXT, chunk)


class _Compiled(NamedTuple):
    """`_work` for one dtype; ``run`` calls it with the address of a `_Call`."""

    address: int
    run: Callable[[int], None]


_SIGNATURE = types.void(types.CPointer(types.int64))


@functools.cache
def _compiled(dtype: torch.dtype) -> _Compiled:
    """Compiled on first use, then cached on disk."""
    if dtype == torch.float32:

        @cfunc(_SIGNATURE, cache=True)
        def work(call):
            _work(call, np.int32, np.float32, np.int32, 0)

    elif dtype == torch.bfloat16:

        @cfunc(_SIGNATURE, cache=True)
        def work(call):
            _work(call, np.int16, np.float32, np.int32, BF16)

    elif dtype == torch.float16:

        @cfunc(_SIGNATURE, cache=True)
        def work(call):
            _work(call, np.int16, np.float32, np.int32, F16)

    else:

        @cfunc(_SIGNATURE, cache=True)
        def work(call):
            _work(call, np.int64, np.float64, np.int64, 0)

    address = int(work.address or 0)
    return _Compiled(address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address))


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


def _parallel(work: _Compiled, call: int, threads: int) -> None:
    parallel = _fork_join()
    if parallel is not None:
        parallel(work.address, call, threads, 0)
        return
    others = [threading.Thread(target=work.run, args=(call,)) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    work.run(call)
    for thread in others:
        thread.join()


def select(
    x: torch.Tensor, rule: str, value: float, kept: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on a CPU tensor: see `sparsedial.kernels.reference.select`, whose answer it gives."""
    work = _compiled(x.dtype)
    x = x.contiguous()
    y = torch.empty_like(x)
    shape = x.shape
    if kept is None:
        kept = x.new_empty(shape[:-1], dtype=torch.int32)
    size = x.numel()
    if size == 0:
        return y, kept.zero_()
    width = shape[-1]
    call = _Call(x.data_ptr(), y.data_ptr(), kept.data_ptr(), size // width, width, RULES[rule], value)
    threads = torch.get_num_threads() if size > SERIAL and size > width else 1
    if threads > 1:
        _parallel(work, ctypes.addressof(call), threads)
    else:
        work.run(ctypes.addressof(call))
    return y, kept


class Places:
    """The op where single vectors come again and again: at the layers of a model that decodes.

    There a call costs what it touches, for each layer's weights drive everything else from the caches. So a
    place's arguments stay laid out, its search begins where its last one ended, and the kernel adds up what
    it drops.

    Vectors come in rounds (a model's forwards), of which one may fail: `end` says that it did not.

    >>> places = Places([4], "top_p", 0.7)
    >>> select = places.at(0)
    >>> select(torch.tensor([[4.0, -3.0, 2.0, 1.0]])), places.end(), places.take()
    (tensor([[ 4., -3.,  0.,  0.]]), None, array([[2, 4, 0]]))
    """

    def __init__(self, widths: Sequence[int], rule: str, value: float) -> None:
        self._round = ctypes.c_int64(1)
        where = ctypes.addressof(self._round)
        calls = [_Call(0, 0, 0, 1, width, RULES[rule], value, round=where) for width in widths]
        self._calls = (_Call * len(widths))(*calls)
        self._words = np.frombuffer(memoryview(self._calls), np.int64).reshape(-1, WORDS)

    def at(self, place: int) -> Callable[[torch.Tensor], torch.Tensor | None]:
        """What applies the rule to one vector: a contiguous CPU tensor of the place's width; None to anything else."""
        call = self._calls[place]
        address, width = ctypes.addressof(call), call.width
        plain, empty_like = torch.Tensor, torch.empty_like
        dtype, run = None, None

        def select(x: torch.Tensor) -> torch.Tensor | None:
            nonlocal dtype, run
            if not (type(x) is plain and x.is_cpu and x.is_contiguous() and x.numel() == width == x.shape[-1]):
                return None
            if x.dtype is not dtype:
                dtype, run = x.dtype, _compiled(x.dtype).run
            y = empty_like(x)
            call.x, call.y = x.data_ptr(), y.data_ptr()
            run(address)
            return y

        return select

    def end(self) -> None:
        """This round is over."""
        self._round.value += 1

    def cancel(self) -> None:
        """This round failed: what it had is not counted."""
        self._words[self._words[:, LAST] == self._round.value, NOW : NOW + 3] = 0

    def take(self) -> np.ndarray:
        """Of each place, and no longer kept: dropped and total entries, and vectors that are not finite; int64.

        Of rounds that are over: what the one under way has so far is left for another time.
        """
        over = self._words[:, LAST] != self._round.value
        counted, now = self._words[:, COUNTED : COUNTED + 3], self._words[:, NOW : NOW + 3]
        taken = counted + now * over[:, None]
        counted[:] = 0
        now[over] = 0
        return taken
