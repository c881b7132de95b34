"""Tiny, randomly initialised models of every architecture in transformers' causal language model mapping.

`SIZES` shrinks every configuration by the names of its fields. `MODEL_OPTIONS` has the exceptions of single models.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

HIDDEN = 64
HEADS = 4
WIDTH = 96
LAYERS = 2


def _fill(value: Any, names: str) -> dict[str, Any]:
    """Return a dictionary that maps each of the names, separated by spaces, to the value."""
    return dict.fromkeys(names.split(), value)


SIZES = {
    **_fill(128, "vocab_size unpadded_vocab_size decoder_vocab_size vocab_size_per_layer_input"),
    **_fill(0, "pad_token_id sep_token_id cls_token_id num_kv_shared_layers"),
    **_fill(1, "bos_token_id decoder_start_token_id n_group topk_group n_shared_experts first_k_dense_replace"),
    **_fill(2, "eos_token_id num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok moe_k"),
    **_fill(2, "linear_num_key_heads linear_num_value_heads time_step_rank mamba_dt_rank n_groups mamba_n_groups"),
    **_fill(2, "moe_topk"),
    **_fill(HIDDEN, "hidden_size d_model n_embd emb_dim embedding_size embedding_dim word_embed_proj_dim lru_width"),
    **_fill(HEADS, "num_attention_heads num_heads n_head n_heads attention_heads decoder_attention_heads"),
    **_fill(HEADS, "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads"),
    **_fill(HEADS, "swa_num_attention_heads mamba_num_heads mamba_n_heads index_n_heads linear_num_heads"),
    **_fill(HEADS, "num_experts num_local_experts n_routed_experts moe_num_experts zero_expert_num index_topk"),
    **_fill(HIDDEN // HEADS, "head_dim d_head dim_head swa_head_dim v_head_dim qk_nope_head_dim kv_channels"),
    **_fill(HIDDEN // HEADS, "index_head_dim linear_head_dim attention_head_size kv_lora_rank query_pre_attn_scalar"),
    **_fill(HIDDEN // HEADS, "linear_key_head_dim linear_value_head_dim sliding_window o_lora_rank"),
    **_fill(8, "qk_rope_head_dim rotary_dim mamba_d_state state_size ssm_state_size hidden_size_per_layer_input"),
    **_fill(32, "q_lora_rank moe_intermediate_size mamba_d_head mamba_head_dim expert_ffn_hidden_size laurel_rank"),
    **_fill(WIDTH, "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size dim_ff dff"),
    **_fill(WIDTH, "d_inner feed_forward_size intermediate_size_mlp dense_intermediate_size shared_intermediate_size"),
    **_fill(WIDTH, "prefix_dense_intermediate_size"),
    **_fill(48, "shared_expert_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size"),
    **_fill(LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"),
    **_fill(LAYERS, "num_encoder_layers depth num_blocks"),
    **_fill(64, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions"),
    **_fill(64, "context_length original_max_position_embeddings"),
}  # fmt: skip

QWEN4_ATTENTION = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 4,
       "indexer_compress_ratio": 2}  # fmt: skip
DOTS_ATTENTION = {"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS, "swa_q_lora_rank": 32,
        "swa_kv_lora_rank": 16, "swa_head_dim": 24, "swa_qk_nope_head_dim": 16, "swa_v_head_dim": 16}  # fmt: skip
HYBRID_LAYERS = ["linear_attention", "full_attention"]
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_config": {"hidden_size_global": HIDDEN},
        "decoder_config": {"hidden_size_global": HIDDEN},
        "encoder_hash_byte_group_vocab": 128,
        "vocab_size": 260,
        "patch_in_forward": False,  # The patcher only chooses where patches end, so no logit depends on its FFNs.
        "use_cache": False,
        "patcher_config": {"vocab_size": 260},
    },
    "cohere_compass_text": {
        "rope_parameters": _fill({"rope_theta": 1e4, "rope_type": "default"}, "sliding_attention full_attention"),
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": HIDDEN},
    },
    "dots3_note": {
        "text_config": DOTS_ATTENTION,
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
        "audio_config": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN, "downsample_hidden_size": 8},
    },
    "dots3_note_text": DOTS_ATTENTION,
    "dory": {
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
        "n_input_layers": 1,
        "n_output_layers": 1,
    },
    "falcon_h1": {"mamba_d_ssm": HIDDEN, "mamba_d_head": HIDDEN // HEADS},
    "flint": {"mlp_only_layers": [0]},
    "gemma4": {"text_config": {"global_head_dim": 32}},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified": {"text_config": {"global_head_dim": 32}},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": HYBRID_LAYERS},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 2 * HEADS},
    "musicgen": {"decoder": {"num_codebooks": 1}},
    "musicgen_melody": {"decoder": {"num_codebooks": 1}},
    "qwen4_exp": {"text_config": QWEN4_ATTENTION},
    "qwen4_exp_text": QWEN4_ATTENTION,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "lsh"], "axial_pos_embds": False, "hash_seed": 0},
    "roc_bert": {"shape_vocab_size": 128, "pronunciation_vocab_size": 128},
    "xlstm": {"qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_hidden_layers": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}

# Number of layers with an FFN, for models in which it is not `num_hidden_layers`.
FFN_LAYERS = {"blt": 6, "hrm_text": 4, "longcat_flash": 2, "nemotron_h": 2, "zamba": 2}


def build_tiny_model(model_type: str, kind: type[nn.Module] | None = None, **options: Any) -> nn.Module:
    """Build a tiny model with random weights, in evaluation mode.

    Args:
        model_type: A key of `MODEL_TYPES`, or with ``kind`` of any configuration of transformers.
        kind: Class of the model (default: the causal language model of the configuration).
        **options: Fields of the configuration, added to those in `MODEL_OPTIONS`.

    Returns:
        The model. Its matrices are large enough for every one of them to have an effect on the output.
    """
    config_class = CONFIG_MAPPING[model_type]
    config = shrink_config(config_class, **MODEL_OPTIONS.get(model_type, {}) | options)
    torch.manual_seed(0)
    if model_type.startswith("musicgen"):  # The auto class would pass the whole configuration to the decoder.
        model = MODEL_FOR_CAUSAL_LM_MAPPING[config_class](config.decoder)
    elif kind is not None:
        model = kind(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.eval()


def shrink_config(config_class: type[PreTrainedConfig], **options: Any) -> PreTrainedConfig:
    """Return a configuration with small sizes and one layer of each kind that the model alternates between.

    Args:
        config_class: Class of the configuration.
        **options: Fields that replace the small sizes. Those of a nested configuration are a dictionary.

    Returns:
        The configuration.
    """
    names = [field.name for field in dataclasses.fields(config_class)]
    settings: dict[str, Any] = {}
    for name in names:
        if name in SIZES:
            settings[name] = SIZES[name]
    if "kv_lora_rank" in names:  # Latent attention has one key per query, and separate dimensions for positions.
        settings["num_key_value_heads"] = HEADS
        settings["head_dim"] = SIZES["qk_rope_head_dim"]
    try:
        default_config = config_class()
    except ValueError:
        default_config = None
    for name in config_class.sub_configs:
        nested_config = getattr(default_config, name, None)
        if isinstance(nested_config, PreTrainedConfig):
            settings[name] = shrink_config(type(nested_config), **options.pop(name, {}))
    if default_config is not None:
        settings |= _shorten_layer_lists(default_config, names)
    return config_class(**settings | options)


def count_ffn_layers(model_type: str, model: nn.Module) -> int:
    """Return the number of layers that have an FFN (experts included), read from the configuration.

    Args:
        model_type: Architecture of the model.
        model: The model.

    Returns:
        The number of layers.
    """
    if model_type in FFN_LAYERS:
        return FFN_LAYERS[model_type]
    return model.config.get_text_config(decoder=True).num_hidden_layers


def _shorten_layer_lists(config: PreTrainedConfig, names: list[str]) -> dict[str, Any]:
    """Return the lists with one string per layer, cut to the first layer of each kind, and the number of layers."""
    depth = getattr(config, "num_hidden_layers", None)
    lists = {}
    for name in names:
        value = vars(config).get(name)
        if isinstance(value, list | tuple) and len(value) == depth and all(isinstance(kind, str) for kind in value):
            lists[name] = value
    if not lists:
        return {}
    kinds = list(zip(*lists.values(), strict=True))
    layers = [index for index, kind in enumerate(kinds) if kind not in kinds[:index]]
    if len(layers) < LAYERS:
        layers = list(range(LAYERS))
    settings: dict[str, Any] = {config.attribute_map.get("num_hidden_layers", "num_hidden_layers"): len(layers)}
    for name, values in lists.items():
        settings[name] = [values[layer] for layer in layers]
    return settings
