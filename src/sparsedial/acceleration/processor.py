"""The processor of this machine: its name, and what it can compute with 16-bit floats."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import llvmlite.binding
import torch


def describe_processor() -> str:
    """Return the name of the processor and the number of threads."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads"


@functools.cache
def multiplies_bfloat16() -> bool:
    """Return True if the processor has instructions that multiply bfloat16, or if this is not known."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    features = llvmlite.binding.get_host_cpu_features()
    return bool(features.get("avx512bf16") or features.get("amx-bf16"))


def converts_float16() -> bool:
    """Return True if the processor can convert float16 to float32, or if this is not known."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return bool(llvmlite.binding.get_host_cpu_features().get("f16c"))
