"""What a benchmark ran on, and where its result is kept."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("sparsedial", "torch", "transformers", "triton", "numba", "lm_eval")


def describe_machine() -> dict[str, Any]:
    """Return processor, threads and GPU, without host name or paths."""
    machine: dict[str, Any] = {"cpu": _processor_name(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on; "absent" if not installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def save_result(name: str, result: dict[str, Any]) -> None:
    """Keep a result in ``benchmarks/results/NAME.json`` and print it as the last line."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def device_slug() -> str:
    """Return the GPU's name as part of a file name, or "cpu"."""
    if not torch.cuda.is_available():
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def _processor_name() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    if match is None:
        return platform.processor() or platform.machine()
    return match[1]
