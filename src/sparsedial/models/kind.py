"""Detection of the kind of a language model: causal, masked diffusion or block diffusion."""

from __future__ import annotations

from typing import Any

import torch

from sparsedial.errors import ModelError, SpecError
from sparsedial.suggestions import describe_unknown

CAUSAL = "causal"
MASKED_DIFFUSION = "masked-diffusion"
BLOCK_DIFFUSION = "block-diffusion"
KINDS = (CAUSAL, MASKED_DIFFUSION, BLOCK_DIFFUSION)


class _FailedCallError(ModelError):
    """Error for a model that cannot be called with token IDs alone."""


def detect_kind(model: Any, expected: str | None = None) -> str:
    """Return the kind of a model, determined by running the model if possible.

    A model whose configuration has ``canvas_length`` generates in blocks of that many tokens and is a block diffusion
    model. Any other model is run on two sequences that have the same first tokens: if the later tokens change the
    logits of the first ones, it is a masked diffusion model, otherwise it is causal. A model that cannot be called with
    token IDs alone is assumed to be causal, unless ``expected`` is set.

    Args:
        model: A language model of transformers, or one with the same interface.
        expected: The kind that the user has declared, one of `KINDS`. Defaults to None, which accepts any kind.

    Returns:
        One of `KINDS`.

    Raises:
        SpecError: ``expected`` is not one of `KINDS`.
        ModelError: The model is not of the expected kind, is an encoder-decoder, or returns no logits of tokens.
        _FailedCallError: The model cannot be called with token IDs alone although a kind is expected.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        ...                      vocab_size=64)
        >>> detect_kind(LlamaForCausalLM(config))
        'causal'
    """
    check_kind_name(expected)
    canvas_length = getattr(model.config, "canvas_length", None)
    if canvas_length:
        kind = BLOCK_DIFFUSION
        reason = f"its configuration has blocks of {canvas_length} tokens"
    else:
        try:
            sees_later_tokens = attends_to_later_tokens(model)
        except _FailedCallError:
            if expected is None:
                return CAUSAL
            raise
        if sees_later_tokens:
            kind = MASKED_DIFFUSION
            reason = "later tokens change earlier logits"
        else:
            kind = CAUSAL
            reason = "later tokens do not change earlier logits"
    if expected not in (None, kind):
        raise ModelError(
            f"{type(model).__name__}: declared as {expected}, but it is {kind}: {reason}. "
            "Do not declare a kind, or choose another model."
        )
    return kind


def check_kind_name(kind: str | None) -> None:
    """Check that a declared kind exists.

    Args:
        kind: One of `KINDS`, or None if no kind is declared.

    Raises:
        SpecError: The kind is not one of `KINDS`.
    """
    if kind is not None and kind not in KINDS:
        raise SpecError(describe_unknown("kind", kind, KINDS))


@torch.no_grad()  # not inference mode: what the first forward pass of a model creates has to work in training as well
def attends_to_later_tokens(model: Any) -> bool:
    """Return True if later tokens change earlier logits by more than rounding errors.

    The model is called with two rows of ten tokens whose first two tokens are equal. If their logits are NaN, a model
    is assumed to have bidirectional attention if its configuration has a mask token. Its evaluation reports the NaN.

    Args:
        model: A language model of transformers, or one with the same interface.

    Returns:
        True for a model with bidirectional attention, False for a causal model.

    Raises:
        ModelError: The model is an encoder-decoder, or returns no logits of tokens.
        _FailedCallError: The model cannot be called with token IDs alone.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder, whose encoder reads the tokens that have to be predicted: "
            "expected a decoder-only or a masked diffusion model"
        )
    vocabulary_size = int(model.config.get_text_config().vocab_size)
    pair = torch.tensor([[5, 6, *range(7, 15)], [5, 6, *range(15, 23)]]) % vocabulary_size
    try:
        output = model(input_ids=pair.to(parameter_device(model)))
    except Exception as error:
        raise _FailedCallError(
            f"{type(model).__name__}: the kind of the model cannot be detected, because calling it with input_ids "
            f"failed: {type(error).__name__}: {error}"
        ) from error
    logits = getattr(output, "logits", None)
    if logits is None:
        raise ModelError(
            f"{type(model).__name__} returns {type(output).__name__} without logits: expected a language model with "
            "its output layer, such as one that AutoModelForCausalLM loads, and a configuration with return_dict=True. "
            "For the language part of a vision-language model, use the whole model: text reaches only that part of it"
        )
    if logits.shape[:2] != pair.shape or logits.shape[-1] == getattr(model.config, "num_labels", 0) < vocabulary_size:
        raise ModelError(
            f"{type(model).__name__} returns logits of shape {list(logits.shape)} for {pair.shape[0]} sequences of "
            f"{pair.shape[1]} tokens: expected one logit per position and entry of the vocabulary "
            f"({vocabulary_size}). Load a language model instead of a classifier"
        )
    if logits.is_meta:
        raise ModelError(
            f"{type(model).__name__} has no weights: its logits are on the device 'meta', so they have no values. Load "
            "the weights first."
        )
    first, second = logits[:, :2].float()
    rounding = max(1e-4, 8 * torch.finfo(model.dtype).eps) * first.abs().max()
    difference = (first - second).abs().max()
    if difference.isnan():
        return getattr(model.config, "mask_token_id", None) is not None
    return bool(difference > rounding)


def parameter_device(model: Any, default: torch.device | None = None) -> torch.device:
    """Return the device of the first parameter that is in memory.

    Args:
        model: A torch module. Offloaded parameters are on the device "meta" and are skipped.
        default: Device to return if no parameter is in memory. Defaults to None, which means the CPU.

    Returns:
        A device that is not "meta".
    """
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return default or torch.device("cpu")


def find_mask_token(model: Any, tokenizer: Any, token_id: int | None = None) -> int | None:
    """Return the token ID of the mask of a diffusion model.

    The first of these that is set is used: ``token_id``, the ``mask_token_id`` of the configuration, and the
    ``mask_token_id`` of the tokenizer.

    Args:
        model: A loaded model.
        tokenizer: The tokenizer of the model, or None.
        token_id: Token ID that overrides the configuration and the tokenizer. Defaults to None.

    Returns:
        The token ID, or None if it is not known.

    Raises:
        SpecError: The token ID is outside the vocabulary.
    """
    mask_token = token_id
    for owner in (model.config, tokenizer):
        if mask_token is None:
            mask_token = getattr(owner, "mask_token_id", None)
    if mask_token is None:
        return None
    vocabulary_size = model.get_input_embeddings().weight.shape[0]
    if not 0 <= int(mask_token) < vocabulary_size:
        raise SpecError(f"mask token {int(mask_token)}: expected an ID from 0 to {vocabulary_size - 1}")
    return int(mask_token)
