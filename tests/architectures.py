"""A tiny, randomly initialised model of every architecture in transformers' causal-LM mapping.

One table of sizes shrinks every configuration by the names of its fields; `PARTICULARS` holds what is left.
Run as a script, it writes docs/architectures.md.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

HIDDEN, HEADS, WIDTH, LAYERS = 64, 4, 96, 2


def _each(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES = {
    **_each(128, "vocab_size unpadded_vocab_size decoder_vocab_size vocab_size_per_layer_input"),
    **_each(0, "pad_token_id sep_token_id cls_token_id num_kv_shared_layers"),
    **_each(1, "bos_token_id decoder_start_token_id n_group topk_group n_shared_experts first_k_dense_replace"),
    **_each(2, "eos_token_id num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok moe_k moe_topk"),
    **_each(HIDDEN, "hidden_size d_model n_embd emb_dim embedding_size embedding_dim word_embed_proj_dim lru_width"),
    **_each(HEADS, "num_attention_heads num_heads n_head n_heads attention_heads decoder_attention_heads"),
    **_each(HEADS, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads"),
    **_each(HEADS, "swa_num_attention_heads mamba_num_heads mamba_n_heads index_n_heads linear_num_heads"),
    **_each(HEADS, "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num index_topk"),
    **_each(HIDDEN // HEADS, "head_dim d_head dim_head swa_head_dim v_head_dim qk_nope_head_dim kv_channels"),
    **_each(HIDDEN // HEADS, "index_head_dim linear_head_dim attention_head_size kv_lora_rank query_pre_attn_scalar"),
    **_each(HIDDEN // HEADS, "linear_key_head_dim linear_value_head_dim sliding_window o_lora_rank"),
    **_each(8, "qk_rope_head_dim rotary_dim mamba_d_state state_size ssm_state_size hidden_size_per_layer_input"),
    **_each(32, "q_lora_rank moe_intermediate_size mamba_d_head mamba_head_dim expert_ffn_hidden_size laurel_rank"),
    **_each(2, "linear_num_key_heads linear_num_value_heads time_step_rank mamba_dt_rank n_groups mamba_n_groups"),
    **_each(WIDTH, "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dim_ff dff"),
    **_each(WIDTH, "d_inner feed_forward_size intermediate_size_mlp dense_intermediate_size shared_intermediate_size"),
    **_each(WIDTH, "prefix_dense_intermediate_size"),
    **_each(48, "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size"),
    **_each(LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"),
    **_each(LAYERS, "num_encoder_layers depth num_blocks"),
    **_each(64, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions"),
    **_each(64, "context_length original_max_position_embeddings"),
}  # fmt: skip

QSA = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4,
       "indexer_compress_ratio": 2}  # fmt: skip
DOTS = {"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS, "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 16, "swa_head_dim": 24, "swa_qk_nope_head_dim": 16, "swa_v_head_dim": 16}  # fmt: skip
MIXED = ["linear_attention", "full_attention"]
PARTICULARS: dict[str, dict[str, Any]] = {
    "blt": {
        "encoder_config": {"hidden_size_global": HIDDEN}, "decoder_config": {"hidden_size_global": HIDDEN},
        "encoder_hash_byte_group_vocab": 128, "vocab_size": 260,
        "patcher_config": {"vocab_size": 260},
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0}, "ffn_config": {"hidden_size": HIDDEN}},
    "dots3_note": {
        "text_config": DOTS,
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
        "audio_config": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN, "downsample_hidden_size": 8},
    },
    "dots3_note_text": DOTS,
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gemma4": {"text_config": {"global_head_dim": 32}},
    "gemma4_unified": {"text_config": {"global_head_dim": 32}},
    "musicgen": {"decoder": {"num_codebooks": 1}},
    "musicgen_melody": {"decoder": {"num_codebooks": 1}},
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128},
    "xlstm": {"qk_dim_factor": 1.0},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": _each({"rope_theta": 1e4, "rope_type": "default"}, "sliding_attention full_attention"),
    },
    "falcon_h1": {"mamba_d_ssm": HIDDEN, "mamba_d_head": HIDDEN // HEADS},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": MIXED},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 2 * HEADS},
    "qwen4_exp": {"text_config": QSA},
    "qwen4_exp_text": QSA,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 4},
    "zaya": {"num_experts_per_tok": 1},
}


def shrunk(cls: type[PreTrainedConfig], **particulars: Any) -> PreTrainedConfig:
    """A configuration with every size it has made small, and one layer of each kind it alternates between."""
    names = [f.name for f in dataclasses.fields(cls)]
    settings = {name: SIZES[name] for name in names if name in SIZES}
    if "kv_lora_rank" in names:  # latent attention: as many keys as queries, positions in heads of their own
        settings |= {"num_key_value_heads": HEADS, "head_dim": SIZES["qk_rope_head_dim"]}
    try:
        default = cls()
    except ValueError:
        default = None
    for name in cls.sub_configs:
        if isinstance(sub := getattr(default, name, None), PreTrainedConfig):
            settings[name] = shrunk(type(sub), **particulars.pop(name, {}))
    if default is not None:
        settings |= _one_of_each_kind(default, names)
    return cls(**settings | particulars)


def _one_of_each_kind(default: PreTrainedConfig, names: list[str]) -> dict[str, Any]:
    """Per-layer lists, cut to the first layer of each kind."""
    depth = getattr(default, "num_hidden_layers", None)
    values = {name: vars(default).get(name) for name in names}
    lists = {n: v for n, v in values.items() if isinstance(v, list | tuple) and len(v) == depth}
    lists = {n: v for n, v in lists.items() if all(isinstance(x, str) for x in v)}
    if not lists:
        return {}
    kinds = list(zip(*lists.values(), strict=True))
    chosen = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    if len(chosen) < LAYERS:
        chosen = list(range(LAYERS))
    layers = default.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    return {n: [v[i] for i in chosen] for n, v in lists.items()} | {layers: len(chosen)}


def build(model_type: str) -> nn.Module:
    """The tiny model, with parameters none of which is so small that nothing depends on it."""
    cls = CONFIG_MAPPING[model_type]
    config = shrunk(cls, **PARTICULARS.get(model_type, {}))
    if model_type.startswith("musicgen"):  # the auto class would hand its decoder the whole configuration
        make = partial(MODEL_FOR_CAUSAL_LM_MAPPING[cls], config.decoder)
    else:
        make = partial(AutoModelForCausalLM.from_config, config)
    with torch.device("meta"):
        size = sum(p.numel() for p in make().parameters())
    if size > 1e7:
        raise ValueError(f"BIG {size}")
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model
