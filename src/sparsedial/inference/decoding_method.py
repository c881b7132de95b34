"""Decoding method with which a causal model's own `generate` chooses the tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparsedial.errors import TaskError
from sparsedial.inference.sampling import TokenSampler


def is_sampling(generation_config: Any, options: Mapping[str, Any]) -> bool:
    """Return True if the model's `generate` samples with these options, False if it decodes greedily.

    Args:
        generation_config: Generation configuration of the model, which contains the defaults of the options.
        options: Arguments of `generate`.

    Raises:
        TaskError: The options ask for another decoding method, such as beam search, or for several texts per prompt.
    """
    from transformers.generation.configuration_utils import GenerationMode

    config = copy.deepcopy(generation_config)
    for name, value in options.items():
        setattr(config, name, value)
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH) or (config.num_return_sequences or 1) > 1:
        raise TaskError(
            f"generation options {dict(options)}: {mode.replace('_', ' ')} is not supported: expected greedy decoding "
            "or sampling of one text per prompt"
        )
    return bool(mode == GenerationMode.SAMPLE)


def sampling_method(sampler: TokenSampler) -> Callable[..., Any]:
    """Return the argument ``custom_generate`` with which the model's `generate` draws the tokens with a sampler.

    The last logits processor leaves only the drawn token, so that greedy decoding takes it. All other processors, such
    as temperature and top-k, come before it.

    Args:
        sampler: Sampler with one seed per row of the batch.
    """
    from transformers import LogitsProcessorList

    def select_drawn_token(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = sampler.draw(scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def decode(
        model: Any, input_ids: torch.Tensor, logits_processor: Any, generation_config: Any, **arguments: Any
    ) -> Any:
        generation_config.do_sample = False
        processors = LogitsProcessorList([*logits_processor, select_drawn_token])
        return model._sample(input_ids, logits_processor=processors, generation_config=generation_config, **arguments)

    return decode
