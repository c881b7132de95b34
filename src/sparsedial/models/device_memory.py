"""The memory of devices, and a check that the weights of a model fit into it before they are loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sparsedial.errors import ModelError
from sparsedial.models.checkpoint_size import count_stored_parameters
from sparsedial.models.loading import DTYPES, SPREAD, pick_device, pick_dtype
from sparsedial.models.sources import Source

GIB = 1 << 30
CONTROL_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, in the two versions of Linux control groups."""


def count_device_memory(device: str) -> int:
    """Return the memory of the devices that a device name stands for, in bytes.

    Args:
        device: Device name that `pick_device` accepts. "spread" stands for all GPUs and the memory of the CPU.
    """
    torch_device = pick_device(device)
    if device == SPREAD and torch_device.type == "cuda":
        gpus = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
        return sum(gpus) + _count_host_memory()
    if torch_device.type == "cuda":
        return torch.cuda.get_device_properties(torch_device).total_memory
    return _count_host_memory()


def check_weights_fit(source: Source, device: str, dtype: str) -> None:
    """Check that a device has enough memory for the weights of a model.

    Without this check, loading the model would end with an error after minutes, or with the end of the process.

    Args:
        source: Local files of the model.
        device: Device name that `pick_device` accepts.
        dtype: Name of a dtype that `pick_dtype` accepts.

    Raises:
        ModelError: The weights alone are larger than the memory.
    """
    dtype_name = pick_dtype(dtype, pick_device(device))
    needed = count_stored_parameters(source.path) * DTYPES[dtype_name].itemsize
    available = count_device_memory(device)
    if needed > available:
        raise ModelError(
            f"model {source.name!r}: its weights take {needed / GIB:.1f} GiB in {dtype_name}, but the device "
            f"{device!r} has {available / GIB:.1f} GiB. Use a larger device, or several with --device spread."
        )


def _count_host_memory() -> int:
    """Return the memory of this machine, or of the container that the process runs in, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CONTROL_GROUP_LIMITS:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return total
