"""Arguments of a model's forward pass that describe its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sparsedial.cache_arguments import find_cache

TokenShape = tuple[int, int]  # batch, tokens

# Names of the arguments that contain tokens, and of the mask that belongs to them. Encoder-decoder models have two
# such groups. The last two are those of torch.nn.Transformer, whose masks are True for padding.
_ATTENTION_MASKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("input_ids", "inputs_embeds", "input_embeds", "hidden_states"), "attention_mask"),
    (("decoder_input_ids", "decoder_inputs_embeds"), "decoder_attention_mask"),
)
_PADDING_MASKS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("src",), "src_key_padding_mask"),
    (("tgt",), "tgt_key_padding_mask"),
)


class ModelTraits(NamedTuple):
    """Properties of a model that the arguments of a call do not show.

    Attributes:
        reads_text: False if the model reads images or sound, which are not the tokens of the model around it.
        accepts_cache: True if its forward has a parameter for a cache.
    """

    reads_text: bool = True
    accepts_cache: bool = False


TEXT_MODEL = ModelTraits()


@dataclass(frozen=True, eq=False)
class TokenInput:
    """Tokens of a forward pass and the mask that belongs to them.

    Attributes:
        tokens: Token IDs or embeddings. None if only the mask is known.
        shape: Number of rows and number of tokens of a row.
        mask: Attention mask in any format that transformers accepts, or None.
        is_padding_mask: True if the mask is True for padding. Defaults to False: it is not zero for real tokens.
    """

    tokens: torch.Tensor | None
    shape: TokenShape
    mask: Any
    is_padding_mask: bool = False


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """Sequences that are concatenated to one row, as in continuous batching.

    Attributes:
        query_ends: Cumulative numbers of tokens in this forward pass, int of shape [sequences + 1].
        key_ends: Cumulative numbers of tokens that they attend to, int of shape [sequences + 1].
    """

    query_ends: torch.Tensor
    key_ends: torch.Tensor


@dataclass(frozen=True, eq=False)
class ForwardArguments:
    """Description of a forward pass according to its arguments.

    Attributes:
        inputs: The tokens. Empty if they are unknown, and with two entries for an encoder-decoder model.
        cache: Key-value cache or recurrent state. None if there is none, or if sequences are packed.
        has_tensors: True if any argument is a tensor, or a batch in one argument.
        is_encoder_decoder: True if the arguments are those of an encoder-decoder model.
        packed: Sequences that are concatenated to one row, or None.
        traits: Properties of the model.
    """

    inputs: tuple[TokenInput, ...] = ()
    cache: Any = None
    has_tensors: bool = False
    is_encoder_decoder: bool = False
    packed: PackedSequences | None = None
    traits: ModelTraits = TEXT_MODEL

    @property
    def starts_without_cache(self) -> bool:
        """True if the model reads tokens and was given no cache although it accepts one."""
        return self.traits.accepts_cache and self.cache is None and len(self.inputs) > 0

    @property
    def single_input(self) -> TokenInput | None:
        """The tokens, if there is exactly one sequence of tokens per row."""
        return self.inputs[0] if len(self.inputs) == 1 else None


def read_arguments(arguments: Mapping[str, Any], traits: ModelTraits = TEXT_MODEL) -> ForwardArguments:
    """Read the tokens, their masks and the cache from the arguments of a forward pass.

    A batch that is passed as one argument, such as a dictionary, is read as if its entries were arguments.

    Args:
        arguments: Arguments of the model's forward, by name.
        traits: Properties of the model. Defaults to those of a text model.

    Returns:
        What is known about the forward pass.
    """
    values = arguments
    has_tensors = False
    for value in arguments.values():
        if value is None or isinstance(value, bool):
            continue
        if isinstance(value, torch.Tensor):
            has_tensors = True
        elif isinstance(value, Mapping):
            values = {**value, **values}
            has_tensors = True
    inputs = _read_inputs(values)
    packed = _read_packed_sequences(values)
    has_decoder_tokens = values.get("decoder_input_ids") is not None or values.get("decoder_inputs_embeds") is not None
    return ForwardArguments(
        inputs=tuple(inputs),
        cache=find_cache(values) if packed is None else None,
        has_tensors=has_tensors,
        is_encoder_decoder=has_decoder_tokens or values.get("encoder_outputs") is not None,
        packed=packed,
        traits=traits,
    )


def _read_inputs(values: Mapping[str, Any]) -> list[TokenInput]:
    inputs = []
    for names, mask_name in _ATTENTION_MASKS:
        tokens = _first_tensor(values, names)
        mask = values.get(mask_name)
        if tokens is not None:
            inputs.append(TokenInput(tokens, _token_shape(tokens), mask))
        elif isinstance(mask, torch.Tensor) and mask.dim() == 2 and values.get("encoder_outputs") is None:
            inputs.append(TokenInput(None, (mask.shape[0], mask.shape[1]), mask))
    if not inputs:
        for names, mask_name in _PADDING_MASKS:
            tokens = _first_tensor(values, names)
            mask = values.get(mask_name)
            if tokens is not None and isinstance(mask, torch.Tensor) and mask.dim() == 2:
                inputs.append(TokenInput(tokens, (mask.shape[0], mask.shape[1]), mask, is_padding_mask=True))
    return inputs


def _first_tensor(values: Mapping[str, Any], names: tuple[str, ...]) -> torch.Tensor | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, torch.Tensor) and value.dim() > 0:
            return value
    return None


def _token_shape(tokens: torch.Tensor) -> TokenShape:
    """Return the number of rows and of tokens per row of token IDs or embeddings."""
    shape = tokens.shape[:-1] if tokens.is_floating_point() else tokens.shape
    if len(shape) < 2:
        return 1, shape.numel()
    return shape[0], shape[1:].numel()


def _read_packed_sequences(values: Mapping[str, Any]) -> PackedSequences | None:
    query_ends = values.get("cu_seq_lens_q")
    key_ends = values.get("cu_seq_lens_k")
    if isinstance(key_ends, Mapping):  # one tensor per kind of attention: all have the same numbers of new tokens
        key_ends = key_ends.get("full_attention", next(iter(key_ends.values()), None))
    if isinstance(query_ends, torch.Tensor) and isinstance(key_ends, torch.Tensor):
        return PackedSequences(query_ends, key_ends)
    return None
