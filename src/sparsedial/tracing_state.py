"""Whether the present thread runs forward passes that attached sparsifiers must leave unchanged.

The state belongs to a thread, so a forward pass that another thread runs at the same time is not affected. PyTorch
passes it on to the threads that run the backward pass (gradient checkpointing repeats parts of the forward pass there).
A thread that a model starts by itself does not have the state.

torch.compile cannot compile a test of the present thread. Compiled code is therefore unchanged while any thread has the
state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DEPTH_KEY = "sparsedial_tracing_depth"
_lock = threading.Lock()
_blocks = 0  # number of `tracing` blocks of all threads
_is_any_thread_tracing = False  # apart from `_blocks`, so that compiled code does not depend on the number


def is_tracing() -> bool:
    """Return True inside a `tracing` block, where attached sparsifiers leave the forward pass unchanged."""
    if not _is_any_thread_tracing:
        return False
    if torch.compiler.is_dynamo_compiling():
        return True
    return _read_depth() > 0


@contextmanager
def tracing() -> Iterator[None]:
    """Mark the forward passes of this thread inside the `with` block as part of the tracing that finds FFNs.

    Yields:
        None: Nothing.
    """
    depth = _read_depth()
    torch._C._stash_obj_in_tls(_DEPTH_KEY, depth + 1)
    _count_block(1)
    try:
        yield
    finally:
        _count_block(-1)
        torch._C._stash_obj_in_tls(_DEPTH_KEY, depth)


def _read_depth() -> int:
    """Return the number of `tracing` blocks around the present code of this thread."""
    if not torch._C._is_key_in_tls(_DEPTH_KEY):
        return 0
    return torch._C._get_obj_in_tls(_DEPTH_KEY)


def _count_block(change: int) -> None:
    global _blocks, _is_any_thread_tracing
    with _lock:
        _blocks += change
        _is_any_thread_tracing = _blocks > 0
