"""The number of parameters of a model, and its text form."""

from __future__ import annotations

from typing import Any

import torch

BILLION = 10**9
MILLION = 10**6
THOUSAND = 10**3
QUANTISATION_TOLERANCE = 0.25
"""Maximum difference, relative to their norm, of two matrices that were the same before they were quantised.

It is above the error of 3-bit weights. Matrices that were trained separately differ by more than their norm.
"""
COMPARED_ROWS = 256


def count_parameters(model: Any, tolerance: float = 0.0) -> int:
    """Return the number of parameters of a model. Parameters that are stored more than once count once.

    Parameters are shared if they use the same memory. In addition, an output layer that repeats the token embedding is
    not counted. GGUF files often store both, in different number formats, although the model has only one.

    Args:
        model: A language model.
        tolerance: Maximum difference between the output layer and the token embedding, relative to their norm, at which
            they count once. Defaults to 0, which means that they have to be equal.

    Returns:
        The number of parameters.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=64, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        ...                      num_attention_heads=1, tie_word_embeddings=False)
        >>> model = LlamaForCausalLM(config)
        >>> untied = count_parameters(model)
        >>> _ = model.lm_head.weight.data.copy_(model.model.embed_tokens.weight.data)
        >>> untied - count_parameters(model) == 64 * 8
        True
    """
    sizes = {}
    for parameter in model.parameters():
        memory: tuple[object, ...] = (parameter.device, parameter.data_ptr(), parameter.shape)
        if parameter.data_ptr() == 0:  # it is offloaded or a quantised tensor, so it has no address
            memory = (id(parameter),)
        sizes[memory] = parameter.numel()
    total = sum(sizes.values())
    return total - _repeated_embedding_size(model, tolerance)


def _repeated_embedding_size(model: Any, tolerance: float) -> int:
    """Return the number of parameters of an output layer that repeats the embedding in other memory, otherwise 0."""
    embedding = _weight(model, "get_input_embeddings")
    output = _weight(model, "get_output_embeddings")
    if embedding is None or output is None or embedding.is_meta or output.is_meta:
        return 0
    if embedding.shape != output.shape or embedding.data_ptr() == output.data_ptr():
        return 0
    if not _are_close(embedding.detach(), output.detach(), tolerance):
        return 0
    return output.numel()


def _weight(model: Any, method: str) -> torch.Tensor | None:
    """Return the weight of the module that a method of the model returns, or None if it has no plain one."""
    try:
        module = getattr(model, method)()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(module, "weight", None)
    if type(weight) not in (torch.Tensor, torch.nn.Parameter):
        return None  # it is packed or quantised
    return weight


def _are_close(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    rows = torch.linspace(0, len(first) - 1, COMPARED_ROWS).long().unique()
    first_rows = first[rows.to(first.device)].float().cpu()
    second_rows = second[rows.to(second.device)].float().cpu()
    difference = (first_rows - second_rows).norm()
    if tolerance:
        return bool(difference <= tolerance * first_rows.norm())
    return not difference and torch.equal(first, second.to(first.device))


def format_parameter_count(count: float) -> str:
    """Return a number of parameters with its unit.

    Args:
        count: Number of parameters.

    Returns:
        The number in billions, millions or thousands. Below one thousand, the number itself.

    Example:
        >>> format_parameter_count(1_543_714_304), format_parameter_count(134_515_008), format_parameter_count(422_336)
        ('1.54 B', '134.5 M', '0.4 M')
        >>> format_parameter_count(12_345), format_parameter_count(999)
        ('12.3 K', '999')
    """
    if count >= BILLION - MILLION / 20:  # rounds to at least 1000.0 M
        return f"{count / BILLION:.2f} B"
    if count >= MILLION / 10:
        return f"{count / MILLION:.1f} M"
    if count >= THOUSAND:
        return f"{count / THOUSAND:.1f} K"
    return f"{count:.0f}"
