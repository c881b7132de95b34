"""Models in memory, ready to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.errors import ModelError, SpecError
from sparsedial.sources import Source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and its tokenizer (None where the source has none)."""

    model: Any
    tokenizer: Any
    source: Source
    dtype: str
    device: torch.device

    @property
    def parameters(self) -> int:
        """How many parameters it has (shared ones counted once)."""
        return sum(p.numel() for p in self.model.parameters())

    def identity(self) -> dict[str, Any]:
        """What of the model moves a number: weights digest, dtype, and whether its own code ran."""
        return {
            "weights": self.source.digest,
            "dtype": self.dtype,
            "trust_remote_code": self.source.trust_remote_code,
        }


def load_model(source: Source, *, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """Load a model to evaluate it.

    Args:
        source: from `find_model`.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, or ``spread``: over all
            GPUs, and the CPU's memory if need be (``device_map="auto"``), for a model larger than one device.
        dtype: ``auto`` (bfloat16 on a GPU or a CPU that computes in it, else float32), or one of `DTYPES`.

    Raises:
        SpecError: an unknown device or dtype.
        ModelError: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import sparsedial.diffusion.model  # noqa: F401  # makes its architecture known to transformers

    where = pick_device(device)
    name = pick_dtype(dtype, where)
    kwargs: dict[str, Any] = {"trust_remote_code": source.trust_remote_code, "local_files_only": True}
    placed = {"device_map": "auto"} if device == "spread" else {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path, dtype=DTYPES[name], use_safetensors=True, output_loading_info=True, **placed, **kwargs
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(f"model {source.name!r} ({source.origin}) could not be loaded: {error}") from error
    model, info = loaded
    if absent := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
        raise ModelError(
            f"model {source.name!r} ({source.origin}): {len(absent)} weights are missing or of another shape "
            f"({', '.join(absent[:4])}): they would be random. Expected a causal language model's checkpoint."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, **kwargs)
    except (OSError, ValueError, KeyError):
        tokenizer = None  # self-prediction needs none; tasks that do say so
    model = model.eval() if placed else model.eval().to(where)
    there = next((p.device for p in model.parameters() if p.device.type != "meta"), where)  # meta: offloaded
    return LanguageModel(model, tokenizer, source, name, there)


def pick_device(device: str) -> torch.device:
    """The device meant by ``auto``, ``spread`` or a torch device name.

    Raises:
        SpecError: there is no such device.
    """
    if device in ("auto", "spread"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise SpecError(f"device {device!r}: expected auto, spread, cpu, cuda or cuda:N") from None
    if wanted.type not in ("cpu", "cuda"):
        raise SpecError(f"device {device!r}: expected auto, spread, cpu, cuda or cuda:N")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device {device!r}: this machine has {torch.cuda.device_count()} GPUs")
    return wanted


def pick_dtype(dtype: str, device: torch.device) -> str:
    """The dtype's name meant by ``auto`` on ``device``.

    Raises:
        SpecError: an unknown dtype.
    """
    if dtype == "auto":
        fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bfloat16" if fast else "float32"
    if dtype not in DTYPES:
        raise SpecError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
    return dtype
