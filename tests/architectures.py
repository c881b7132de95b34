"""A tiny, randomly initialised model of every architecture in transformers' causal-LM mapping.

One table of sizes shrinks every configuration by the names of its fields; `PARTICULARS` holds what is left.
Run as a script, it writes docs/architectures.md.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import FFN, SITES, FFNs

HIDDEN, HEADS, WIDTH, LAYERS = 64, 4, 96, 2


def _each(value: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SIZES = {
    **_each(128, "vocab_size unpadded_vocab_size decoder_vocab_size vocab_size_per_layer_input"),
    **_each(0, "pad_token_id sep_token_id cls_token_id num_kv_shared_layers"),
    **_each(1, "bos_token_id decoder_start_token_id n_group topk_group n_shared_experts first_k_dense_replace"),
    **_each(2, "eos_token_id num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok moe_k"),
    **_each(2, "linear_num_key_heads linear_num_value_heads time_step_rank mamba_dt_rank n_groups mamba_n_groups"),
    **_each(2, "moe_topk"),
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
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_config": {"hidden_size_global": HIDDEN},
        "decoder_config": {"hidden_size_global": HIDDEN},
        "encoder_hash_byte_group_vocab": 128,
        "vocab_size": 260,
        "patch_in_forward": False,  # the patcher only says where patches end: what it computes is in no logit
        "use_cache": False,
        "patcher_config": {"vocab_size": 260},
    },
    "cohere_compass_text": {
        "rope_parameters": _each({"rope_theta": 1e4, "rope_type": "default"}, "sliding_attention full_attention"),
    },
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": HIDDEN},
    },
    "dots3_note": {
        "text_config": DOTS,
        "vision_config": {"adapter_in_dim": HIDDEN, "adapter_out_dim": HIDDEN},
        "audio_config": {"adapter_input_size": HIDDEN, "adapter_out_dim": HIDDEN, "downsample_hidden_size": 8},
    },
    "dots3_note_text": DOTS,
    "falcon_h1": {"mamba_d_ssm": HIDDEN, "mamba_d_head": HIDDEN // HEADS},
    "flint": {"mlp_only_layers": [0]},
    "gemma4": {"text_config": {"global_head_dim": 32}},
    "gemma4_text": {"global_head_dim": 32},
    "gemma4_unified": {"text_config": {"global_head_dim": 32}},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": MIXED},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 2 * HEADS},
    "musicgen": {"decoder": {"num_codebooks": 1}},
    "musicgen_melody": {"decoder": {"num_codebooks": 1}},
    "qwen4_exp": {"text_config": QSA},
    "qwen4_exp_text": QSA,
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

# Layers with an FFN, where num_hidden_layers says something else: three stacks, two stacks, every second layer.
UNUSUAL_LAYERS = {"blt": 6, "hrm_text": 4, "longcat_flash": 2, "nemotron_h": 2, "zamba": 2}

NOT_BUILT = {
    "gemma3n": "its vision tower needs Pillow and timm (the text model, gemma3n_text, works)",
    "gemma4_assistant": "a draft model that runs only on another model's hidden states, keys and values",
    "gemma4_unified_assistant": "a draft model that runs only on another model's hidden states, keys and values",
}
NOTHING_FOUND = {
    "falcon_mamba": "state-space layers only, no FFN",
    "mamba": "state-space layers only, no FFN",
    "mamba2": "state-space layers only, no FFN",
    "zamba2": "up and gate are sums of a shared projection's and a low-rank adapter's outputs",
}

MODEL_TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


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


def build(model_type: str, kind: type[nn.Module] | None = None, **particulars: Any) -> nn.Module:
    """The tiny model, its matrices drawn anew so that none is so small that nothing depends on it."""
    cls = CONFIG_MAPPING[model_type]
    config = shrunk(cls, **PARTICULARS.get(model_type, {}) | particulars)
    torch.manual_seed(0)
    if model_type.startswith("musicgen"):  # the auto class would hand its decoder the whole configuration
        model = MODEL_FOR_CAUSAL_LM_MAPPING[cls](config.decoder)
    elif kind is not None:
        model = kind(config)
    else:
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.eval()


def layers_with_ffn(model_type: str, model: nn.Module) -> int:
    """How many of the model's layers have an FFN (experts included), by its configuration, not by the finder."""
    return UNUSUAL_LAYERS.get(model_type) or model.config.get_text_config(decoder=True).num_hidden_layers


@torch.inference_mode()
def check(model: nn.Module, ffns: FFNs) -> None:
    """What must hold for every model: p = 1 is dense bit for bit, p = 0.5 is not, every layer counts, nothing stays.

    Raises:
        AssertionError: it does not; the message says where.
    """
    tokens = torch.randint(3, 128, (2, 8), generator=torch.Generator().manual_seed(1))
    before = state(model)
    dense = model(input_ids=tokens).logits
    assert dense.isfinite().all(), "logits are not finite"
    for site in (s for s in SITES if all(f.why_not(s) is None for f in ffns)):
        with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
            assert torch.equal(model(input_ids=tokens).logits, dense), f"{site}: p = 1 changes the logits"
        for layer in sorted({f.layer for f in ffns}):
            with sd.sparsify(model, site, sd.TopP(0.5), ffns=ffns, layers=[layer]) as dial:
                assert not torch.equal(model(input_ids=tokens).logits, dense), f"{site}: layer {layer} has no effect"
        assert 0 < dial.sparsity() < 1, f"{site}: a sparsity of {dial.sparsity()}"
    assert torch.equal(model(input_ids=tokens).logits, dense), "the model has changed"
    assert state(model) == before, "a trace is left"


def state(model: nn.Module) -> list[Any]:
    """Everything a hook, a patch or a forgotten flag would change."""
    return [
        (name, m.training, sorted(vars(m)), *(list(v.items()) for k, v in vars(m).items() if "hooks" in k and v))
        for name, m in model.named_modules()
    ] + [(p.data_ptr(), p._version, p.requires_grad) for p in model.parameters()]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of docs/architectures.md."""

    model_type: str
    result: str
    kind: str = ""
    projections: str = ""
    experts: str = ""
    found: str = ""
    sites: str = ""


def measure(model_type: str) -> Row:
    """Build it, find its FFNs, and see whether they can be sparsified."""
    if model_type in NOT_BUILT:
        return Row(model_type, f"not built: {NOT_BUILT[model_type]}")
    model = build(model_type)
    try:
        ffns = sd.find_ffns(model)
        if ffns:
            check(model, FFNs(list(ffns)))
    except ModelError:
        return Row(model_type, f"none found: {NOTHING_FOUND.get(model_type, 'not known why')}")
    except AssertionError as error:
        return Row(model_type, f"fails: {error}")
    unclear = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in ffns.not_understood})
    result = f"partly: experts stacked in `{unclear[0]}`, which runs them by itself" if unclear else "works"
    layers = f"{len({f.layer for f in ffns})} of {layers_with_ffn(model_type, model)}"
    kind, projections = _described(next((f for f in ffns if f.stack is None), None))
    experts = " ".join(_described(next((f for f in ffns if f.stack is not None), None))).strip()
    sites = [s for s in SITES if ffns and all(f.why_not(s) is None for f in ffns)]
    return Row(model_type, result, kind, projections, experts, layers, ", ".join(sites))


def _described(ffn: FFN | None) -> tuple[str, str]:
    """Of what kind it is, and its projections (up, down, gate)."""
    if ffn is None:
        return "", ""
    fused = "fused " if ffn.names.get("gate") == ffn.names["up"] else ""
    prefix = f"{ffn.name if ffn.stack is None else ffn.mixture}."
    short = ", ".join(dict.fromkeys(n.removeprefix(prefix) for n in ffn.names.values()))
    return f"{fused}gated" if ffn.gated else "plain", short


def page(rows: list[Row]) -> str:
    """docs/architectures.md."""
    works = sum(r.result == "works" for r in rows)
    partly = sum(r.result.startswith("partly") for r in rows)
    mixtures = sum(r.result == "works" and bool(r.experts) for r in rows)
    none = sum(r.result.startswith("none found") for r in rows)
    unbuilt = sum(r.result.startswith("not built") for r in rows)
    lines = [
        "# Architectures",
        "",
        f"Every architecture in the causal-LM mapping of transformers {transformers.__version__}, measured on a tiny,",
        "randomly initialised model of it, with no module named by hand. Written by `python tests/architectures.py`",
        "(`make architectures`); `tests/test_architectures.py` fails when a result is no longer the one below.",
        "",
        f"- **{works} work**: an FFN is found in every layer that has one; at every site listed p = 1 leaves the",
        "  logits as they were, bit for bit, p = 0.5 in any one layer changes them, and nothing is left behind.",
        f"  Of these, {mixtures} are mixtures that stack experts' weights in one parameter: each expert is an FFN.",
        f"- **{partly} work partly**: they are mixtures, too, but the module named runs its stacked experts by itself",
        "  instead of asking transformers' experts interface. An error names it; what else there is works.",
        f"- **{none}** have no FFN that is found, **{unbuilt}** are not built here; the line says why.",
        f"- **{len(rows) - works - partly - none - unbuilt}** fail.",
        "",
        "*Layers* is how many layers an FFN was found in, of how many of the tiny model's have one (experts included).",
        "`all_inputs` is there wherever `input` and `intermediate` are.",
        "",
        "| architecture | FFN | projections (up, down, gate) | stacked experts | layers | sites | result |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        cells = (r.model_type, r.kind, r.projections, r.experts, r.found, r.sites.replace(", all_inputs", ""), r.result)
        lines.append("| " + " | ".join(cells).replace("  ", " ") + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)  # the models are too small to share out
    transformers.logging.set_verbosity_error()
    target = Path(__file__).parent.parent / "docs" / "architectures.md"
    target.write_text(page([measure(model_type) for model_type in MODEL_TYPES]))
