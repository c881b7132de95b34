"""The shape of a model without its weights, which tells what the model needs before it is downloaded or loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sparsedial.errors import ModelError
from sparsedial.models.kind import BLOCK_DIFFUSION, CAUSAL, MASKED_DIFFUSION
from sparsedial.models.loading import DTYPES, LanguageModel, find_model_class
from sparsedial.models.masked_diffusion_llama import register_masked_diffusion_llama
from sparsedial.models.outline_files import find_outline_files
from sparsedial.models.parameter_count import count_parameters
from sparsedial.models.sources import Source

EXPERTS_MODULE = "experts"
"""Name that transformers gives to the module with the experts of a layer."""
BYTES_WITHOUT_DTYPE = 2
"""Size of a stored weight if the configuration does not state its dtype."""


@dataclass(frozen=True)
class ModelOutline:
    """A model whose weights are on the device "meta": it has shapes, but no numbers.

    Attributes:
        lm: The model and its tokenizer. Its device is the one that the model would run on.
        bytes_per_stored_weight: Size of a weight in the checkpoint, as far as the configuration states it.
    """

    lm: LanguageModel
    bytes_per_stored_weight: int = BYTES_WITHOUT_DTYPE

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return count_parameters(self.lm.model)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights in the dtype of the study."""
        return self.parameters * DTYPES[self.lm.dtype].itemsize

    @property
    def stored_bytes(self) -> int:
        """Size of the checkpoint in its own dtype."""
        return self.parameters * self.bytes_per_stored_weight

    @property
    def is_kind_known(self) -> bool:
        """False if a model that looks causal may be a diffusion model: it has a mask token, and no causal attention."""
        if self.lm.kind != CAUSAL or self.lm.mask_token is None:
            return True
        return any(getattr(module, "is_causal", False) is True for module in self.lm.model.modules())

    @property
    def text_config(self) -> Any:
        """Configuration of the language model, without that of a vision tower."""
        return self.lm.model.config.get_text_config()

    @property
    def layers(self) -> int:
        """Number of layers."""
        return int(_first_number(self.text_config, "num_hidden_layers", "n_layers", "n_layer") or 1)

    @property
    def hidden_size(self) -> int:
        """Entries of the vector that an FFN reads."""
        return int(self.lm.model.get_input_embeddings().weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """Rows of the token embedding."""
        return int(self.lm.model.get_input_embeddings().weight.shape[0])

    @property
    def widest_vector(self) -> int:
        """Entries of the widest vector in an FFN, over all experts that one token is routed to."""
        config = self.text_config
        width = _first_number(config, "intermediate_size", "mlp_hidden_size", "ffn_dim", "n_inner") or self.hidden_size
        expert_width = _first_number(config, "moe_intermediate_size") or 0
        return int(max(width, expert_width * self.experts_per_token))

    @property
    def experts(self) -> int:
        """Experts of each layer. 1 if the FFNs are not divided into experts."""
        return int(_first_number(self.text_config, "num_experts", "num_local_experts", "n_routed_experts") or 1)

    @property
    def experts_per_token(self) -> int:
        """Experts that process one token."""
        if self.experts == 1:
            return 1
        return int(_first_number(self.text_config, "num_experts_per_tok", "moe_topk") or 1)

    @property
    def output_parameters(self) -> int:
        """Parameters of the output layer, which runs only at positions whose logits are needed."""
        return self.vocabulary * self.hidden_size

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that process each token: without embedding, output layer and the experts that are not chosen."""
        total = 0.0
        for name, parameter in self.lm.model.named_parameters():
            if "vision" in name or "audio" in name:
                continue
            if EXPERTS_MODULE in name.split("."):
                total += parameter.numel() * self.experts_per_token / self.experts
            elif parameter.dim() >= 2 and self.vocabulary not in parameter.shape:
                total += parameter.numel()
        return int(total)

    @cached_property
    def decoded_bytes(self) -> int:
        """Memory of the weights that one decode step of many sequences reads: all but the input embedding."""
        total = sum(
            self.vocabulary not in parameter.shape and parameter.numel() for parameter in self.lm.model.parameters()
        )
        return (total + self.output_parameters) * DTYPES[self.lm.dtype].itemsize

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory of the keys and values of one token. 0 for a masked diffusion model, which has no cache."""
        if self.lm.kind == MASKED_DIFFUSION:
            return 0
        config = self.text_config
        heads = _first_number(config, "num_attention_heads", "n_heads", "n_head") or 1
        head_size = _first_number(config, "head_dim") or self.hidden_size // heads
        key_heads = _first_number(config, "num_key_value_heads", "n_kv_heads") or heads
        return int(2 * self.layers * key_heads * head_size * DTYPES[self.lm.dtype].itemsize)


def outline_model(
    name: str, *, device: torch.device, dtype: str, trust_remote_code: bool = False, kind: str | None = None
) -> ModelOutline:
    """Return the shape of a model. Its weights are neither downloaded nor loaded.

    Args:
        name: A hub ID, a directory, a GGUF file, a model of the zoo or an alias.
        device: Device that the model would run on. It need not exist on this machine.
        dtype: A key of `DTYPES`.
        trust_remote_code: Execute modeling code that comes with the model. Defaults to False.
        kind: Kind of the model. Defaults to None: a model with a mask token is then a masked diffusion model.

    Returns:
        The outline.

    Raises:
        ModelError: The configuration cannot be found, or no model can be made from it.
    """
    import transformers

    register_masked_diffusion_llama()
    files = find_outline_files(name)
    try:
        config = files.read_config(trust_remote_code=trust_remote_code)
        stored_dtype = getattr(config, "dtype", None)
        model_class: Any = getattr(transformers, find_model_class(config))
        with torch.device("meta"):
            if model_class.__name__.startswith("Auto"):
                model = model_class.from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)
            else:
                model = model_class._from_config(config, dtype=DTYPES[dtype])
    except Exception as error:  # the code of a model can raise anything
        raise ModelError(f"model {name!r}: its shape is not known: {type(error).__name__}: {error}") from error
    tokenizer = files.read_tokenizer(trust_remote_code=trust_remote_code)
    model.eval()
    source = Source(name, Path(files.config), "outline", "")
    mask_token = getattr(config, "mask_token_id", None) or getattr(tokenizer, "mask_token_id", None)
    lm = LanguageModel(model, tokenizer, source, dtype, device, kind or _guess_kind(config), mask_token)
    if isinstance(stored_dtype, torch.dtype):
        return ModelOutline(lm, stored_dtype.itemsize)
    return ModelOutline(lm)


def _guess_kind(config: Any) -> str:
    """Return the kind that a configuration suggests. A loaded model is run to detect its kind."""
    if getattr(config, "canvas_length", None):
        return BLOCK_DIFFUSION
    if getattr(config, "mask_token_id", None) is not None:
        return MASKED_DIFFUSION
    return CAUSAL


def _first_number(config: Any, *names: str) -> int | None:
    """Return the first of several fields of a configuration that is a number above 0."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple):
            value = max(value, default=None)
        if isinstance(value, int) and value > 0:
            return value
    return None
