"""Loading a model and its tokenizer into memory, ready to be evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sparsedial.acceleration.accelerated_model import accelerate_as_saved
from sparsedial.acceleration.saved_plan import find_saved_dtype
from sparsedial.acceleration.saved_settings import read_settings
from sparsedial.errors import ModelError, SpecError
from sparsedial.models.checkpoint_keys import check_checkpoint_keys
from sparsedial.models.identity import ModelIdentity
from sparsedial.models.kind import (
    CAUSAL,
    MASKED_DIFFUSION,
    check_kind_name,
    detect_kind,
    find_mask_token,
    parameter_device,
)
from sparsedial.models.log_callback import Log, discard_message
from sparsedial.models.parameter_count import QUANTISATION_TOLERANCE, count_parameters
from sparsedial.models.sources import Source, resolve_source

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""Files of which a model with a tokenizer has at least one."""
SPREAD = "spread"  # Device name that distributes a model over all GPUs.

_sources: WeakKeyDictionary[nn.Module, Source] = WeakKeyDictionary()
"""The files of each model that `load_model` has returned."""


@dataclass(frozen=True)
class LanguageModel:
    """A loaded model and its tokenizer.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: The tokenizer, or None if the source has none.
        source: The files that the model was loaded from.
        dtype: Name of the torch dtype of the weights, such as "bfloat16".
        device: Device of the first parameter.
        kind: One of `sparsedial.models.kind.KINDS`. Defaults to "causal".
        mask_token: Token ID of the mask of a diffusion model, or None if it is not known. Defaults to None.
    """

    model: Any
    tokenizer: Any
    source: Source
    dtype: str
    device: torch.device
    kind: str = CAUSAL
    mask_token: int | None = None

    @cached_property
    def parameters(self) -> int:
        """Number of parameters. Parameters that are stored more than once count once."""
        return count_parameters(self.model, QUANTISATION_TOLERANCE if self.source.is_dequantised else 0.0)

    def identity(self) -> ModelIdentity:
        """Return the properties of the model that change a measured value."""
        return ModelIdentity(
            weights=self.source.digest,
            dtype=self.dtype,
            trust_remote_code=self.source.trust_remote_code,
            kind=self.kind,
            mask_token=self.mask_token,
        )

    def require_mask_token(self) -> int:
        """Return the mask token of a masked diffusion model.

        Returns:
            The token ID of the mask.

        Raises:
            ModelError: The model is not a masked diffusion model, or its mask token is not known.
        """
        if self.kind != MASKED_DIFFUSION:
            raise ModelError(f"model {self.source.name!r} is {self.kind}: expected a {MASKED_DIFFUSION} model")
        if self.mask_token is None:
            raise ModelError(
                f"model {self.source.name!r} has no mask token: expected mask_token_id in its configuration or a mask "
                "token in its tokenizer. Pass its ID (--mask-token ID)."
            )
        return self.mask_token


def load_language_model(
    source: Source,
    *,
    device: str = "auto",
    dtype: str = "auto",
    kind: str | None = None,
    mask_token: int | None = None,
    log: Log = discard_message,
) -> LanguageModel:
    """Load a model and its tokenizer.

    Args:
        source: Local files of the model, as returned by `resolve_source`.
        device: Device name that `pick_device` accepts. "spread" distributes the model over all GPUs and, if necessary,
            the memory of the CPU, which allows models larger than one device. Defaults to "auto".
        dtype: Name of a dtype that `pick_dtype` accepts. Defaults to "auto".
        kind: Expected kind, one of `sparsedial.models.kind.KINDS`. Defaults to None, which accepts any kind.
        mask_token: Token ID of the mask of a diffusion model, which overrides its configuration and its tokenizer.
            Defaults to None.
        log: Called with a message about weights of the checkpoint that the model does not have, and about a tokenizer
            that cannot be read. By default, messages are discarded.

    Returns:
        The loaded model. Its tokenizer is None if the source has none that transformers can read.

    Raises:
        SpecError: The device, the dtype or the kind is unknown, or the mask token is outside the vocabulary.
        ModelError: transformers cannot load the model, weights are missing or left over, or the model is of another
            kind.
    """
    check_kind_name(kind)
    torch_device = pick_device(device)
    dtype_name = pick_dtype(dtype, torch_device)
    if device == SPREAD:
        model = _load_model(source, dtype_name, log, device_map="auto")
    else:
        model = _load_model(source, dtype_name, log).to(torch_device)
    model.eval()
    tokenizer = _load_tokenizer(source, log)
    detected_kind = detect_kind(model, kind)
    mask_token = None if detected_kind == CAUSAL else find_mask_token(model, tokenizer, mask_token)
    return LanguageModel(
        model=model,
        tokenizer=tokenizer,
        source=source,
        dtype=dtype_name,
        device=parameter_device(model, default=torch_device),
        kind=detected_kind,
        mask_token=mask_token,
    )


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    accelerated: bool = True,
) -> tuple[Any, Any]:
    """Load a model by name, with its tokenizer. A directory of an accelerated model gives the accelerated model.

    Args:
        name: Hub ID, directory of safetensors, ``.gguf`` file, alias ("smollm2-135m") or "zoo:NAME".
        device: Device name that `pick_device` accepts. Defaults to "auto".
        dtype: Name of a dtype that `pick_dtype` accepts. An accelerated model is loaded by default in the dtype that it
            was saved in, if the kernels of the device have it. Defaults to "auto".
        trust_remote_code: Execute modeling code that comes with the model. Defaults to False.
        accelerated: False to load the dense model from a directory that `AcceleratedModel.save_pretrained` has
            written. Defaults to True.

    Returns:
        The transformers model in evaluation mode, or an `AcceleratedModel`, and its tokenizer (None if it has none).

    Raises:
        ModelError: The model cannot be found or loaded.
        SpecError: The name is no text, or the device or the dtype is unknown.

    Example:
        >>> import sparsedial as sd
        >>> model, tokenizer = sd.load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
        >>> sd.find_ffns(model)
        FFNs(3 in 3 layers)
    """
    if not isinstance(name, str):
        raise SpecError(
            f"load_model: got {name!r:.60} of type {type(name).__name__}: expected the name of a model as text, such "
            "as 'smollm2-135m' or the path of a directory"
        )
    source = resolve_source(name, trust_remote_code=trust_remote_code)
    settings = read_settings(source.path) if accelerated else None
    if settings is not None and dtype == "auto":
        dtype = find_saved_dtype(settings, pick_device(device)) or "auto"
    lm = load_language_model(source, device=device, dtype=dtype)
    _sources[lm.model] = source
    if settings is not None:
        return accelerate_as_saved(lm.model, settings), lm.tokenizer
    return lm.model, lm.tokenizer


def find_loaded_source(model: nn.Module) -> Source | None:
    """Return the files from which `load_model` has loaded a model. Its weights may have changed since.

    Args:
        model: The model, or a wrapper that contains it.

    Returns:
        The files. None if the model was made in another way.
    """
    for module in model.modules():
        if module in _sources:
            return _sources[module]
    return None


def pick_device(device: str) -> torch.device:
    """Return the torch device that a device name stands for.

    Args:
        device: "auto" or "spread" (a GPU if there is one, otherwise the CPU), "cpu", "cuda" or "cuda:N".

    Returns:
        A device of this machine.

    Raises:
        SpecError: The name is unknown, or this machine has no such device.
    """
    if device in ("auto", SPREAD):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch_device = torch.device(device)
    except RuntimeError:
        torch_device = None
    if torch_device is None or torch_device.type not in ("cpu", "cuda"):
        raise SpecError(f"device {device!r}: expected auto, spread, cpu, cuda or cuda:N")
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        raise SpecError(f"device {device!r}: this machine has {torch.cuda.device_count()} GPUs, numbered from 0")
    return torch_device


def pick_dtype(dtype: str, device: torch.device) -> str:
    """Return the name of the dtype to load a model in.

    Args:
        dtype: "auto" (bfloat16 on a GPU or on a CPU with bfloat16 instructions, otherwise float32) or one of `DTYPES`.
        device: Device that the model will run on.

    Returns:
        One of `DTYPES`.

    Raises:
        SpecError: The dtype is unknown.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise SpecError(f"dtype {dtype!r}: expected auto, {', '.join(DTYPES)}")
        return dtype
    has_fast_bfloat16 = (
        device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
    return "bfloat16" if has_fast_bfloat16 else "float32"


def _load_model(source: Source, dtype: str, log: Log, **placement: Any) -> Any:
    import transformers
    from transformers import AutoConfig

    from sparsedial.models.masked_diffusion_llama import register_masked_diffusion_llama

    register_masked_diffusion_llama()
    kwargs = _loading_arguments(source)
    try:
        config = AutoConfig.from_pretrained(source.path, **kwargs)
        model_class: Any = getattr(transformers, find_model_class(config))
        model, info = model_class.from_pretrained(
            source.path, dtype=DTYPES[dtype], use_safetensors=True, output_loading_info=True, **placement, **kwargs
        )
    except MemoryError:
        raise
    except Exception as error:  # the checks of a configuration, and the code of a model, can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"model {source.name!r} ({source.origin}) could not be loaded: {reason}") from error
    check_checkpoint_keys(model, info, f"model {source.name!r} ({source.origin})", log)
    return model


def _load_tokenizer(source: Source, log: Log) -> Any:
    """Return the tokenizer, or None if it cannot be loaded. Only tasks that need a tokenizer then raise an error."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.tokenizer_folder, **_loading_arguments(source))
    except Exception as error:  # damaged files and missing packages raise arbitrary errors
        if any((source.tokenizer_folder / name).is_file() for name in TOKENIZER_FILES):
            log(f"model {source.name!r}: its tokenizer cannot be read ({type(error).__name__}: {error!s:.200})")
        return None


def _loading_arguments(source: Source) -> dict[str, Any]:
    return {"trust_remote_code": source.trust_remote_code, "local_files_only": True}


def find_model_class(config: Any) -> str:
    """Return the name of the transformers class that loads a model, by default "AutoModelForCausalLM".

    Args:
        config: Configuration of the model.
    """
    remote_classes = getattr(config, "auto_map", None) or {}
    architectures = getattr(config, "architectures", None) or [""]
    if "AutoModel" in remote_classes and "AutoModelForCausalLM" not in remote_classes:
        return "AutoModel"  # The modeling code that comes with LLaDA registers only this class.
    if architectures[0].endswith("ForBlockDiffusion"):
        return str(architectures[0])
    if architectures[0].endswith("ForMaskedLM"):
        return "AutoModelForMaskedLM"
    return "AutoModelForCausalLM"
