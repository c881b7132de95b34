"""A small bidirectional model with LLaDA's module names. It stands in for a model with custom code from a model hub."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

MAX_POSITIONS = 128


class ShapedConfig(PretrainedConfig):
    """Sizes of the model, and its mask token. The names are LLaDA's."""

    model_type = "llada_shaped"

    def __init__(
        self, d_model=32, n_layers=2, n_heads=4, mlp_hidden_size=80, vocab_size=96, mask_token_id=90, **kwargs
    ):
        super().__init__(**kwargs)
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.mask_token_id = mask_token_id


class Block(nn.Module):
    """Attention and FFN, both residual. The gate projection is ff_proj, and the FFN has no module of its own."""

    def __init__(self, config):
        super().__init__()
        hidden_size = config.d_model
        width = config.mlp_hidden_size
        self.heads = config.n_heads
        self.attn_norm = nn.RMSNorm(hidden_size)
        self.ff_norm = nn.RMSNorm(hidden_size)
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.attn_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.ff_proj = nn.Linear(hidden_size, width, bias=False)
        self.up_proj = nn.Linear(hidden_size, width, bias=False)
        self.ff_out = nn.Linear(width, hidden_size, bias=False)
        self.act = nn.SiLU()

    def forward(self, x):
        """Return the output of the layer, shape [batch, tokens, hidden]."""
        normed = self.attn_norm(x)
        queries = self.split_heads(self.q_proj(normed))
        keys = self.split_heads(self.k_proj(normed))
        values = self.split_heads(self.v_proj(normed))
        attended = nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=False)
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x)
        gate = self.ff_proj(normed)
        up = self.up_proj(normed)
        return x + self.ff_out(self.act(gate) * up)

    def split_heads(self, x):
        """Return x of shape [batch, tokens, hidden] as [batch, heads, tokens, head size]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Shaped(nn.Module):
    """The modules model.transformer.{wte, wpe, blocks, ln_f, ff_out}."""

    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "wpe": nn.Embedding(MAX_POSITIONS, config.d_model),
                "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
                "ln_f": nn.RMSNorm(config.d_model),
                "ff_out": nn.Linear(config.d_model, config.vocab_size, bias=False),
            }
        )

    def forward(self, tokens):
        """Return the logits, shape [batch, tokens, vocabulary]."""
        modules = self.transformer
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = modules["wte"](tokens) + modules["wpe"](positions)
        for block in modules["blocks"]:
            x = block(x)
        return modules["ff_out"](modules["ln_f"](x))


class ShapedModelLM(PreTrainedModel):
    """Language model that takes no attention mask and no cache, like LLaDA's first code."""

    config_class = ShapedConfig
    base_model_prefix = "model"
    _no_split_modules = ("Block",)

    def __init__(self, config):
        super().__init__(config)
        self.model = Shaped(config)
        self.post_init()

    def get_input_embeddings(self):
        """Return the token embedding."""
        return self.model.transformer["wte"]

    def get_output_embeddings(self):
        """Return the output layer."""
        return self.model.transformer["ff_out"]

    def forward(self, input_ids=None, inputs_embeds=None, return_dict=True, **kwargs):
        """Return the logits of token IDs. Other arguments have no effect."""
        return CausalLMOutputWithPast(logits=self.model(input_ids))
