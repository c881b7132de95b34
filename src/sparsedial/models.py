"""Models in memory, ready to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.diffusion.kinds import CAUSAL, MASKED_DIFFUSION, check_kind, kind_of, mask_token_of
from sparsedial.errors import ModelError, SpecError
from sparsedial.sources import Source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and its tokenizer (None where the source has none).

    ``kind`` is one of `diffusion.kinds.KINDS`; ``mask_token`` the id that a diffusion model fills in, where known.
    """

    model: Any
    tokenizer: Any
    source: Source
    dtype: str
    device: torch.device
    kind: str = CAUSAL
    mask_token: int | None = None

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
            **({} if self.kind == CAUSAL else {"kind": self.kind, "mask_token": self.mask_token}),
        }

    def fills_in(self) -> int:
        """The mask token of a masked diffusion model.

        Raises:
            ModelError: it is of another kind, or its mask token is not known.
        """
        if self.kind != MASKED_DIFFUSION:
            raise ModelError(f"model {self.source.name!r} is {self.kind}: expected a {MASKED_DIFFUSION} model")
        if self.mask_token is None:
            raise ModelError(
                f"model {self.source.name!r} has no mask token: expected mask_token_id in its configuration or a mask "
                "token in its tokenizer; or give its id (--mask-token ID)"
            )
        return self.mask_token


def load_model(
    source: Source,
    *,
    device: str = "auto",
    dtype: str = "auto",
    kind: str | None = None,
    mask_token: int | None = None,
) -> LanguageModel:
    """Load a model to evaluate it.

    Args:
        source: from `find_model`.
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda``, ``cuda:1``, or ``spread``: over all
            GPUs, and the CPU's memory if need be (``device_map="auto"``), for a model larger than one device.
        dtype: ``auto`` (bfloat16 on a GPU or a CPU that computes in it, else float32), or one of `DTYPES`.
        kind: of `KINDS`, checked; by default it is found out.
        mask_token: what a diffusion model fills in, where its configuration or tokenizer does not say.

    Raises:
        SpecError: an unknown device, dtype or kind, or a mask token outside the vocabulary.
        ModelError: transformers cannot load it, or it is of another kind.
    """
    import transformers
    from transformers import AutoConfig, AutoTokenizer

    import sparsedial.diffusion.model  # noqa: F401  # makes its architecture known to transformers

    check_kind(kind)
    where = pick_device(device)
    name = pick_dtype(dtype, where)
    kwargs: dict[str, Any] = {"trust_remote_code": source.trust_remote_code, "local_files_only": True}
    placed = {"device_map": "auto"} if device == "spread" else {}
    try:
        class_ = getattr(transformers, _auto_class(AutoConfig.from_pretrained(source.path, **kwargs)))
        loaded: Any = class_.from_pretrained(
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
    found = kind_of(model, kind)
    mask = None if found == CAUSAL else mask_token_of(model, tokenizer, mask_token)
    return LanguageModel(model, tokenizer, source, name, there, found, mask)


def _auto_class(config: Any) -> str:
    """The transformers class that loads it: most are causal; LLaDA's kind of code may offer no more than AutoModel."""
    own = getattr(config, "auto_map", None) or {}
    made = (getattr(config, "architectures", None) or [""])[0]
    if own and "AutoModelForCausalLM" not in own and "AutoModel" in own:
        return "AutoModel"
    if made.endswith("ForBlockDiffusion"):
        return made
    return "AutoModelForMaskedLM" if made.endswith("ForMaskedLM") else "AutoModelForCausalLM"


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
