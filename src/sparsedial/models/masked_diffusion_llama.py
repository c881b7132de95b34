"""A Llama with bidirectional attention: the architecture of the zoo's masked diffusion model.

`register_masked_diffusion_llama` registers the architecture with the ``Auto`` classes of transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


class MaskedDiffusionLlamaConfig(LlamaConfig):
    """A `LlamaConfig` with the token ID of the mask.

    Attributes:
        mask_token_id: Token ID of the mask, or None if the model has none. Defaults to None.
    """

    model_type = "masked_diffusion_llama"
    mask_token_id: int | None = None


class MaskedDiffusionLlama(LlamaForCausalLM):
    """Llama with attention in both directions, as in LLaDA (arXiv 2502.09992).

    Weights and layers are those of Llama. The logits at a position predict the token at that position, not the next
    one. There is no key-value cache.

    Args:
        config: Configuration of the model.

    Example:
        >>> config = MaskedDiffusionLlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        ...                                     num_attention_heads=2, vocab_size=64, mask_token_id=1)
        >>> model = MaskedDiffusionLlama(config).eval()
        >>> first, second = model(torch.tensor([[5, 6, 7], [5, 6, 8]])).logits[:, 0]
        >>> bool(torch.equal(first, second))  # the last token changes the logits of the first one
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
        """Compute the logits of every position.

        Args:
            input_ids: Token IDs, shape [batch, tokens], int64. Defaults to None, in which case
                ``inputs_embeds`` is used.
            attention_mask: Zero for padding and one for other tokens, shape [batch, tokens]. A mask with four
                dimensions is added to the attention scores unchanged. Defaults to None, which means that there is no
                padding.
            inputs_embeds: Embeddings, shape [batch, tokens, hidden_size]. Defaults to None.
            **kwargs: Passed on to `LlamaForCausalLM.forward`.

        Returns:
            The output of `LlamaForCausalLM`, with logits of shape [batch, tokens, vocab_size].

        Raises:
            ValueError: Neither ``input_ids`` nor ``inputs_embeds`` is set.
        """
        inputs = input_ids if input_ids is not None else inputs_embeds
        if inputs is None:
            raise ValueError("expected input_ids or inputs_embeds, but both are None")
        # Without a mask, transformers makes a causal one. Only sdpa may go without and then follows `is_causal`.
        if attention_mask is None and self.config._attn_implementation != "sdpa":
            attention_mask = inputs.new_ones(inputs.shape[:2], dtype=torch.bool)
        if attention_mask is not None and attention_mask.dim() == 2:
            attention_mask = self._additive_mask(attention_mask, queries=inputs.shape[1])
        kwargs["use_cache"] = False
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )

    def _additive_mask(self, attention_mask: torch.Tensor, queries: int) -> torch.Tensor:
        """Return a mask of shape [batch, 1, queries, tokens], which transformers adds to the attention scores."""
        bias = torch.zeros(attention_mask.shape, dtype=self.dtype, device=attention_mask.device)
        bias = bias.masked_fill(attention_mask == 0, torch.finfo(self.dtype).min)
        return bias[:, None, None, :].expand(-1, 1, queries, -1)


def register_masked_diffusion_llama() -> None:
    """Make the architecture known to the ``Auto`` classes of transformers. It can be called any number of times."""
    AutoConfig.register(MaskedDiffusionLlamaConfig.model_type, MaskedDiffusionLlamaConfig, exist_ok=True)
    AutoModelForCausalLM.register(MaskedDiffusionLlamaConfig, MaskedDiffusionLlama, exist_ok=True)
