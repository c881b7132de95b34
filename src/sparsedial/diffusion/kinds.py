"""What kind of language model it is: measured where it can be, and an error where it is not what was said."""

from __future__ import annotations

from typing import Any

import torch

from sparsedial.errors import ModelError, SpecError

CAUSAL, MASKED_DIFFUSION, BLOCK_DIFFUSION = KINDS = ("causal", "masked-diffusion", "block-diffusion")


def kind_of(model: Any, said: str | None = None) -> str:
    """One of `KINDS`.

    A block diffusion model is known by its configuration (blocks of ``canvas_length`` tokens). Of the others, one
    whose earlier logits change with a later token fills in masks; one whose logits do not is causal, and so is taken
    one that cannot be called with token ids alone, unless another kind is said.

    Args:
        model: a language model. said: what the user takes it for, or None.

    Raises:
        SpecError: ``said`` is no kind.
        ModelError: the model is of another kind, or could not be called.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> kind_of(LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    ...                                      num_attention_heads=2, vocab_size=64)))
    'causal'
    """
    check_kind(said)
    if getattr(model.config, "canvas_length", None):
        found, why = BLOCK_DIFFUSION, f"its configuration has blocks of {model.config.canvas_length} tokens"
    else:
        try:
            ahead = sees_ahead(model)
        except ModelError:
            if said is None:
                return CAUSAL
            raise
        found = MASKED_DIFFUSION if ahead else CAUSAL
        why = f"what comes later {'changes' if ahead else 'does not change'} what it says before"
    if said not in (None, found):
        raise ModelError(
            f"{type(model).__name__}: given as {said}, but it is {found}: {why}. "
            "Leave the kind out, or take another model."
        )
    return found


def check_kind(said: str | None) -> None:
    """Raise where ``said`` is no kind.

    Raises:
        SpecError: naming those there are.
    """
    if said is not None and said not in KINDS:
        raise SpecError(f"unknown kind {said!r}: expected one of {', '.join(KINDS)}")


@torch.inference_mode()
def sees_ahead(model: Any) -> bool:
    """Whether later tokens change earlier logits, beyond rounding: two rows that begin alike are tried.

    Raises:
        ModelError: the model could not be called.
    """
    config = model.config.get_text_config()
    pair = torch.tensor([[5, 6, *range(7, 15)], [5, 6, *range(15, 23)]]) % int(config.vocab_size)
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    try:
        first, second = model(input_ids=pair.to(device)).logits[:, :2].float()
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} could not be called with input_ids to see what kind of model it is: "
            f"{type(error).__name__}: {error}"
        ) from error
    noise = max(1e-4, 8 * torch.finfo(model.dtype).eps) * first.abs().max()
    return bool((first - second).abs().max() > noise)


def mask_token_of(model: Any, tokenizer: Any, given: int | None = None) -> int | None:
    """The id that stands for "not known yet": ``given``, else the configuration's, else the tokenizer's, else None.

    Raises:
        SpecError: it is outside the vocabulary.
    """
    known = (given, getattr(model.config, "mask_token_id", None), getattr(tokenizer, "mask_token_id", None))
    token = next((int(t) for t in known if t is not None), None)
    rows = model.get_input_embeddings().weight.shape[0]
    if token is not None and not 0 <= token < rows:
        raise SpecError(f"mask token {token}: expected an id from 0 to {rows - 1}")
    return token
