"""A Llama whose tokens see each other both ways: the masked diffusion model of the zoo."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class MaskedDiffusionLlamaConfig(LlamaConfig):
    """A `LlamaConfig` that also says which token stands for "not known yet"."""

    model_type = "masked_diffusion_llama"
    mask_token_id: int | None = None


class MaskedDiffusionLlama(LlamaForCausalLM):
    """Llama's weights and blocks with attention in both directions, as in LLaDA (arXiv 2502.09992).

    The logits at a position are for that position, not for the next. There is no cache, and ``attention_mask``
    (``[batch, length]``) only says which tokens are padding.

    >>> config = MaskedDiffusionLlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    ...                                     num_attention_heads=2, vocab_size=64, mask_token_id=1)
    >>> model = MaskedDiffusionLlama(config).eval()
    >>> a, b = model(torch.tensor([[5, 6, 7], [5, 6, 8]])).logits[:, 0]
    >>> bool(torch.equal(a, b))  # what comes later is seen
    False
    """

    config_class = MaskedDiffusionLlamaConfig

    def __init__(self, config: MaskedDiffusionLlamaConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Logits ``[batch, length, vocabulary]`` for the tokens at their own positions."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("expected input_ids or inputs_embeds")
        if attention_mask is None and self.config._attn_implementation != "sdpa":
            attention_mask = given.new_ones(given.shape[:2], dtype=torch.bool)
        if attention_mask is not None and attention_mask.dim() == 2:
            # With four dimensions a mask is used as it is; added to the attention's scores.
            hidden = torch.zeros(attention_mask.shape, dtype=self.dtype, device=attention_mask.device)
            hidden = hidden.masked_fill(attention_mask == 0, torch.finfo(self.dtype).min)
            attention_mask = hidden[:, None, None, :].expand(-1, 1, given.shape[1], -1)
        kwargs["use_cache"] = False
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )


AutoConfig.register(MaskedDiffusionLlamaConfig.model_type, MaskedDiffusionLlamaConfig, exist_ok=True)
AutoModelForCausalLM.register(MaskedDiffusionLlamaConfig, MaskedDiffusionLlama, exist_ok=True)
