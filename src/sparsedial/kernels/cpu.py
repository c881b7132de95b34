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

from sparsedial.kernels.search import COUNTED, ENDS, LAST, RULES, Call, Place, compiled, compiled_single

SERIAL = 32768  # elements below which waking the other threads costs more than it brings


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
    x: torch.Tensor, rule: str, value: float, kept: torch.Tensor | None = None, again: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op on a CPU tensor: see `sparsedial.kernels.reference.select`, whose answer it gives."""
    address, run = compiled(x.dtype)
    x = x.contiguous()
    y = torch.empty_like(x)
    shape = x.shape
    if kept is None:
        kept = x.new_empty(shape[:-1], dtype=torch.int32)
    size = x.numel()
    if size == 0:
        return y, kept.zero_()
    width = shape[-1]
    call = Call(x.data_ptr(), y.data_ptr(), kept.data_ptr(), size // width, width, RULES[rule], value, 0)
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
    >>> x = torch.tensor([[4.0, -3.0, 2.0, 1.0]])
    >>> y = torch.empty_like(x)
    >>> places.at(0, x.dtype)(x.data_ptr(), y.data_ptr()), y, places.end(), places.take()
    (None, tensor([[ 4., -3.,  0.,  0.]]), None, array([[2, 4, 0]]))
    """

    def __init__(self, widths: Sequence[int], rule: str, value: float) -> None:
        self._round = ctypes.c_int64(1)
        self._memory = np.empty(2 * max(widths) + ENDS)
        where = self._memory.ctypes.data, ctypes.addressof(self._round)
        self._places = (Place * len(widths))(*(Place(width, RULES[rule], value, *where) for width in widths))
        self._words = np.frombuffer(memoryview(self._places), np.int64).reshape(-1, 16)

    def at(self, place: int, dtype: torch.dtype) -> Callable[[int, int], None]:
        """What writes to its second address what the rule leaves of the vector at the first.

        A vector is as many entries of ``dtype`` in a row as the place is wide, on the CPU: nobody checks. It may be
        called as long as there are these places, by whoever holds them.
        """
        return functools.partial(compiled_single(dtype), ctypes.addressof(self._places[place]))

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
