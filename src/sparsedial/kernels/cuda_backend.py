"""The CUDA backend: compiles and launches the kernel of `sparsedial.kernels.triton_kernel`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from sparsedial.errors import SpecError
from sparsedial.kernels import reference
from sparsedial.kernels.rule_codes import RULE_CODES
from sparsedial.kernels.triton_kernel import select_kernel
from sparsedial.rules import Rule, TopK

MAX_WIDTH = 32768  # wider vectors do not fit in registers, so the reference computes them
MULTIPROCESSORS = 132  # number in an H100; with more rows, a multiprocessor runs several programs
_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
IS_INTERPRETED = not isinstance(select_kernel, triton.runtime.JITFunction)  # TRITON_INTERPRET=1

LaunchKey = tuple[str, int, torch.dtype, int, bool, bool, int]
"""The properties of a call that a compiled launch depends on.

Rule name, width, dtype, device index, whether there are more rows than multiprocessors, warm start, and the input
address modulo 16 (Triton compiles for aligned pointers).
"""

Launch = Callable[[int, int, int, int, int, float], None]
"""A function of the number of rows, the device index, the addresses of x, y and kept, and the rule value."""

_launchers: dict[LaunchKey, Launch] = {}
warm_starts: dict[LaunchKey, torch.Tensor] = {}
"""Start of the next search for each key: one float32 on the device, written by the kernel and never freed."""


def select(
    x: torch.Tensor, rule: Rule, kept: torch.Tensor | None = None, warm_start: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a rule to each vector of a CUDA tensor, with the result of `sparsedial.kernels.reference.select`.

    float64 vectors and vectors wider than `MAX_WIDTH` are computed by the reference.

    Args:
        x: Vectors, shape [..., D], float32, bfloat16, float16 or float64.
        rule: The rule.
        kept: Memory for the counts, shape [...], int32 and contiguous, on x's device; new memory by default.
        warm_start: Start the search at the threshold of the previous call, if there are at most `MULTIPROCESSORS`
            vectors. Must be False in a compiled model, because the memory that stores the threshold must not belong to
            a CUDA graph. Default: False.

    Returns:
        The sparse vectors, shape [..., D], and the number of entries kept in each, shape [...], int32.
    """
    # The host limits the speed of a decode step, so the compiled launch is looked up in a dictionary.
    x = x.contiguous()
    width = x.shape[-1]
    device_index = x.get_device()
    address = x.data_ptr()
    rows = x.numel() // width if width else 0
    value = float(rule.count(width)) if type(rule) is TopK else rule.value
    key = (rule.name, width, x.dtype, device_index, rows > MULTIPROCESSORS, warm_start, address % 16)
    launch = _launchers.get(key)
    if launch is None or rows == 0:
        return _select_first(x, rule, value, warm_start, key)
    y = torch.empty_like(x)
    if kept is None:
        kept = x.new_empty(x.shape[:-1], dtype=torch.int32)
    if device_index == torch._C._cuda_getDevice():
        launch(rows, device_index, address, y.data_ptr(), kept.data_ptr(), value)
    else:
        with torch.cuda.device(device_index):
            launch(rows, device_index, address, y.data_ptr(), kept.data_ptr(), value)
    return y, kept


def _select_first(
    x: torch.Tensor, rule: Rule, value: float, warm_start: bool, key: LaunchKey
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check a contiguous tensor, compile and run the kernel, and store its launcher under ``key``."""
    width = x.shape[-1]
    dtype = _DTYPES.get(x.dtype)
    if width > MAX_WIDTH or dtype is None or x.numel() == 0:
        return reference.select(x, rule)
    if not (x.is_cuda or IS_INTERPRETED):
        raise SpecError(
            f"the triton backend needs a CUDA tensor, got one on {x.device}: move it, or set TRITON_INTERPRET=1"
        )
    y = torch.empty_like(x)
    kept = torch.empty(x.shape[:-1], dtype=torch.int32, device=x.device)
    rows = x.numel() // width
    block = max(triton.next_power_of_2(width), 16)
    begins_warm = warm_start and rows <= MULTIPROCESSORS
    constants = (width, block, RULE_CODES[rule.name], dtype, _guess_spread(width), begins_warm)
    start = kept  # any memory: the kernel does not read it
    if begins_warm:
        start = warm_starts.setdefault(key, torch.zeros(1, dtype=torch.float32, device=x.device))
    arguments = (x, y, kept, start, value, *constants)
    if IS_INTERPRETED:
        select_kernel[(rows, 1, 1)](*arguments)
        return y, kept
    with torch.cuda.device(x.device):
        kernel = select_kernel[(rows, 1, 1)](*arguments, **_launch_options(block, rows))
    _launchers[key] = _make_launcher(kernel, start, constants)
    return y, kept


def _guess_spread(width: int) -> float:
    """Return the relative spread around a first guess, about the sampling error of the threshold at this width."""
    return min(2.5 / math.sqrt(width), 0.1)


def _launch_options(block: int, rows: int) -> dict[str, int]:
    """Return Triton options for 32 entries per thread, up to 8 warps, and several programs per multiprocessor."""
    options = {"num_warps": min(max(block // 1024, 1), 8)}
    max_registers = {4096: 96, 16384: 128}.get(block)
    if max_registers and rows > MULTIPROCESSORS:
        options["maxnreg"] = max_registers
    return options


def _make_launcher(kernel: Any, start: torch.Tensor, constants: tuple[Any, ...]) -> Launch:
    """Return a launcher that skips Triton's inspection of the arguments, because its result depends only on the key."""
    run = kernel.run
    function = kernel.function
    metadata = kernel.packed_metadata
    current_stream = torch._C._cuda_getCurrentRawStream
    start_address = start.data_ptr()

    def launch(rows: int, device_index: int, x: int, y: int, kept: int, value: float) -> None:
        stream = current_stream(device_index)
        # The three None are Triton's launch metadata and its enter and exit hooks.
        run(rows, 1, 1, stream, function, metadata, None, None, None, x, y, kept, start_address, value, *constants)

    return launch
