"""Tiny models with random weights and the tokenizer of the zoo, in the architectures of the paper's models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from sparsedial.models.zoo_package import find_tokenizer_folder
from tools import llada_shaped
from tools.tiny_models import build_tiny_model

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKING_TEMPLATE = CHAT_TEMPLATE.replace("assistant: ", "assistant: <think>\n")
ARCHITECTURES = {
    "gemma3-text": "gemma3_text",
    "gemma3": "gemma3",
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3-moe": "qwen3_moe",
    "olmoe": "olmoe",
}
"""Model type of transformers for each name without its suffix."""
TEMPLATES = {"-chat": CHAT_TEMPLATE, "-thinking": THINKING_TEMPLATE}
"""Chat template for each suffix of a name."""
POSITIONS = 256


def build_models(names: Iterable[str], folder: Path) -> None:
    """Save models in folders of their names.

    Args:
        names: Names from `substitution.MODELS` that are not in the zoo.
        folder: Where the models are saved.
    """
    for name in names:
        target = folder / name
        tokenizer = AutoTokenizer.from_pretrained(find_tokenizer_folder("zoo:dense-0.4m"))
        for suffix, template in TEMPLATES.items():
            if name.endswith(suffix):
                tokenizer.chat_template = template
        tokenizer.save_pretrained(target)
        if name == "llada":
            _save_llada_shaped_model(target, tokenizer)
        else:
            _build_random_model(_architecture(name), tokenizer).save_pretrained(target)


def _architecture(name: str) -> str:
    for suffix in TEMPLATES:
        name = name.removesuffix(suffix)
    return ARCHITECTURES[name]


def _build_random_model(model_type: str, tokenizer: Any) -> Any:
    """Return a tiny model of a type of transformers that can read what the tokenizer writes."""
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if model_type == "gemma3":  # a language model with a vision tower, as the checkpoints from 4B on
        return build_tiny_model(model_type, text_config=text)
    return build_tiny_model(model_type, **text)


def _save_llada_shaped_model(folder: Path, tokenizer: Any) -> None:
    """Save a model whose modeling code is a file of its folder, so that it needs trust_remote_code."""
    torch.manual_seed(0)
    config = llada_shaped.ShapedConfig(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    llada_shaped.ShapedModelLM(config).save_pretrained(folder)
    code = Path(llada_shaped.__file__)
    shutil.copy(code, folder / code.name)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["auto_map"] = {
        "AutoConfig": f"{code.stem}.ShapedConfig",
        "AutoModel": f"{code.stem}.ShapedModelLM",  # LLaDA's code registers only this class
    }
    path.write_text(json.dumps(settings))
