"""A small bidirectional model with LLaDA's module names, written for these tests; it stands in for hub code."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class ShapedConfig(PretrainedConfig):
    """Sizes, and the mask token."""

    model_type = "llada_shaped"

    def __init__(
        self, d_model=32, n_layers=2, n_heads=4, mlp_hidden_size=80, vocab_size=96, mask_token_id=90, **kwargs
    ):
        super().__init__(**kwargs)
        self.d_model, self.n_layers, self.n_heads = d_model, n_layers, n_heads
        self.mlp_hidden_size, self.vocab_size, self.mask_token_id = mlp_hidden_size, vocab_size, mask_token_id


class Block(nn.Module):
    """x + attention, x + FFN; the gate is ff_proj, as in LLaDA's llama block, and the FFN has no module of its own."""

    def __init__(self, config):
        super().__init__()
        d, f = config.d_model, config.mlp_hidden_size
        self.heads = config.n_heads
        self.attn_norm, self.ff_norm = nn.RMSNorm(d), nn.RMSNorm(d)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj = nn.Linear(d, f, bias=False), nn.Linear(d, f, bias=False)
        self.ff_out = nn.Linear(f, d, bias=False)
        self.act = nn.SiLU()

    def forward(self, x):
        normed = self.attn_norm(x)
        q, k, v = (
            p(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=False)
        x = x + self.attn_out(mixed.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        gate, up = self.ff_proj(normed), self.up_proj(normed)
        return x + self.ff_out(self.act(gate) * up)


class Shaped(nn.Module):
    """model.transformer.{wte, wpe, blocks, ln_f, ff_out}."""

    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "wpe": nn.Embedding(128, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": nn.RMSNorm(config.d_model),
                "ff_out": nn.Linear(config.d_model, config.vocab_size, bias=False),
            }
        )

    def forward(self, tokens):
        t = self.transformer
        x = t["wte"](tokens) + t["wpe"](torch.arange(tokens.shape[1], device=tokens.device))
        for block in t["blocks"]:
            x = block(x)
        return t["ff_out"](t["ln_f"](x))


class ShapedModelLM(PreTrainedModel):
    """Takes no attention mask and no cache, as LLaDA's first code."""

    config_class = ShapedConfig
    base_model_prefix = "model"
    _no_split_modules = ("Block",)

    def __init__(self, config):
        super().__init__(config)
        self.model = Shaped(config)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.transformer["wte"]

    def get_output_embeddings(self):
        return self.model.transformer["ff_out"]

    def forward(self, input_ids=None, inputs_embeds=None, return_dict=True, **kwargs):
        return CausalLMOutputWithPast(logits=self.model(input_ids))
