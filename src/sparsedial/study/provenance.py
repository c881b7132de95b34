"""Software versions and hardware that produced a result, without host name or paths."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("sparsedial", "torch", "transformers", "lm_eval", "numba", "triton", "numpy")
"""Packages whose version can change a result."""


@dataclass(frozen=True)
class Provenance:
    """Software versions and hardware that produced a result.

    Attributes:
        versions: Version of each package that can change a result, by package name.
        python: Version of Python.
        processor: Model name of the processor.
        cores: Number of logical cores. None if unknown.
        gpus: Names of the GPUs.
    """

    versions: Mapping[str, str]
    python: str
    processor: str
    cores: int | None
    gpus: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Provenance:
        """Return the provenance that `to_json` turned into ``data``.

        Args:
            data: Dictionary with one entry per field. The names of the GPUs can be a list, as in JSON that was read
                from disk.
        """
        return cls(**{**data, "gpus": tuple(data["gpus"])})


def collect_provenance() -> Provenance:
    """Return the software versions and hardware of this process.

    Returns:
        The provenance.

    Example:
        >>> "torch" in collect_provenance().versions
        True
    """
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return Provenance(
        versions=versions,
        python=platform.python_version(),
        processor=_processor_name(),
        cores=os.cpu_count(),
        gpus=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
    )


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
