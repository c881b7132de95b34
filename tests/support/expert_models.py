"""Tiny mixture-of-experts models: architectures with stacked experts, and a model with experts in a list."""

import torch
import transformers
from torch import nn

from tools.tiny_models import build_tiny_model

FEW_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
MODEL_OPTIONS = {
    "gemma4_text": {"enable_moe_block": True, **FEW_EXPERTS},
    "diffusion_gemma": {
        "kind": getattr(transformers, "DiffusionGemmaForBlockDiffusion", None),
        "text_config": {**FEW_EXPERTS, "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
        "canvas_length": 6,
    },
}
MODEL_TYPES = """
    qwen2_moe qwen3_moe qwen3_next qwen3_5_moe_text olmoe mixtral gpt_oss deepseek_v2 deepseek_v3 deepseek_v4 glm4_moe
    granitemoe phimoe ernie4_5_moe minimax minimax_m2 minimax_m3_vl_text jamba hunyuan_v1_moe lfm2_moe nemotron_h
    aria_text gemma4_text diffusion_gemma
""".split()
MODEL_TYPES = [name for name in MODEL_TYPES if name in transformers.CONFIG_MAPPING]
if "diffusion_gemma" not in MODEL_TYPES:
    MODEL_TYPES = [m for m in MODEL_TYPES if m not in ("aria_text", "granitemoe")]  # outside the experts interface
elif "sub_configs_defaults" not in vars(transformers.CONFIG_MAPPING["diffusion_gemma"]):
    # Older versions of transformers run Aria's experts outside the experts interface, and DiffusionGemma needs a
    # configuration of its image encoder.
    MODEL_TYPES = [m for m in MODEL_TYPES if m not in ("aria_text", "diffusion_gemma")]


def build_model(model_type):
    """Return a tiny model with random weights and four experts per layer."""
    return build_tiny_model(model_type, **MODEL_OPTIONS.get(model_type, {}))


def padded_inputs():
    """Return three rows of six tokens, padded on the left to different lengths. 13 tokens are real."""
    ids = torch.randint(3, 128, (3, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    mask[2, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def model_inputs(model_type):
    """Return padded inputs of a model. DiffusionGemma also reads a canvas, all of whose tokens are real."""
    inputs = padded_inputs()
    if model_type == "diffusion_gemma":
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :4] + 1
    return inputs


def discovery_inputs(model_type):
    """Return the inputs that `find_ffns` needs for a model, or None if the default is sufficient."""
    return model_inputs(model_type) if model_type == "diffusion_gemma" else None


def stacked_modules(model):
    """Return the modules that stack experts, by path."""
    return {path: module for path, module in model.named_modules() if hasattr(module, "_apply_gate")}


def experts_configurations(model):
    """Return the identity of each module's configuration and the experts implementation in it, by path."""
    configurations = {}
    for path, module in stacked_modules(model).items():
        implementation = getattr(module.config, "_experts_implementation", None)
        configurations[path] = (id(module.config), implementation)
    return configurations


class ListedExpertsLayer(nn.Module):
    """A mixture-of-experts layer whose experts are modules in a list.

    Args:
        gather: Returns the rows of the hidden states [tokens, 16] with the given token indices.
    """

    def __init__(self, gather):
        super().__init__()
        self.router = nn.Linear(16, 4)
        self.gather = gather
        self.experts = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))}) for _ in range(4)
        )

    def forward(self, x):
        flat = x.view(-1, 16)
        weight, chosen = self.router(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == index)
            output = expert["mlp"](self.gather(flat, token)) * weight[token, slot, None]
            out.index_add_(0, token, output.to(out.dtype))  # autocast computes in another dtype
        return out.view_as(x)


class ListedExpertsModel(nn.Module):
    """A model with two layers of listed experts.

    Args:
        gather: See `ListedExpertsLayer`.
    """

    def __init__(self, gather):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(128, 16)
        self.layers = nn.ModuleList(ListedExpertsLayer(gather) for _ in range(2))

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


GATHERS = {
    "index": lambda flat, token: flat[token],
    "index with a new axis": lambda flat, token: flat[None, token].reshape(-1, 16),
    "index_select": lambda flat, token: flat.index_select(0, token),
    "mask": lambda flat, token: flat[torch.zeros(len(flat), dtype=torch.bool).index_fill(0, token, True)],
    "copy": lambda flat, token: flat.double()[token].float(),
}
