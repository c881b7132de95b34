"""Test of whether the rows of a batch change each other's logits in a causal model's own `generate`.

Prompts of different lengths are padded on the left. Some models with learned positions count the padding, and some
models with a recurrent state read it. There is no reliable list of such models, so a few tokens are generated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.inference.generation import end_token_ids
from sparsedial.inference.model_limits import count_embedding_rows, find_padding_token

MAX_ERROR = 2e-2
"""Maximum error of the logits relative to their norm. Rounding causes less in float32 and float16."""
MAX_ERRORS = {torch.bfloat16: 1.5e-1}
"""Maximum error for data types with larger rounding errors."""
LONG_PROMPT = 9
SHORT_PROMPT = 4
STEPS = 2


@dataclass(frozen=True)
class BatchIndependence:
    """Batches in which every row has the logits that it has alone.

    Attributes:
        of_equal_lengths: True if this holds for prompts of equal length.
        of_any_lengths: True if this also holds for prompts that are padded on the left.
    """

    of_equal_lengths: bool
    of_any_lengths: bool


_results: WeakKeyDictionary[Any, BatchIndependence] = WeakKeyDictionary()


@torch.inference_mode()
def check_batch_independence(model: Any) -> BatchIndependence:
    """Return in which batches the rows are independent. Attached sparsifiers count nothing.

    A model whose `generate` fails, or takes no logits processor, is taken to have independent rows.

    Args:
        model: Causal language model.

    Raises:
        torch.OutOfMemoryError: The test does not fit into the memory.
    """
    if model not in _results:
        try:
            with pause_sparsifiers():
                _results[model] = _test_model(model)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the generation itself reports the error
            return BatchIndependence(of_equal_lengths=True, of_any_lengths=True)
    return _results[model]


def _test_model(model: Any) -> BatchIndependence:
    vocabulary = count_embedding_rows(model)
    end_tokens = end_token_ids(model.generation_config)
    usable = [token for token in range(min(vocabulary, 64)) if token not in end_tokens]
    long, other, short = (
        [usable[(3 + 7 * index + 31 * row) % len(usable)] for index in range(length)]
        for row, length in enumerate((LONG_PROMPT, LONG_PROMPT, SHORT_PROMPT))
    )
    expected = torch.cat([_generate(model, [prompt], usable[0]) for prompt in (long, other, short)], dim=1)
    max_error = MAX_ERRORS.get(model.dtype, MAX_ERROR)
    is_equal = _are_close(_generate(model, [long, other], usable[0]), expected[:, :2], max_error)
    is_padded_equal = _are_close(_generate(model, [long, short], usable[0]), expected[:, [0, 2]], max_error)
    return BatchIndependence(is_equal, is_equal and is_padded_equal)


def _generate(model: Any, prompts: Sequence[Sequence[int]], next_token: int) -> torch.Tensor:
    """Return the logits of each step if a given token follows, float32 of shape [steps, prompts, vocabulary]."""
    from transformers import LogitsProcessorList

    steps: list[torch.Tensor] = []

    def force_token(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps.append(scores.float().cpu())
        forced = torch.full_like(scores, -torch.inf)
        forced[:, next_token] = 0
        return forced

    padding_token = find_padding_token(model)
    longest = max(map(len, prompts))
    rows = [[padding_token] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    masks = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    model.generate(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(masks, device=model.device),
        logits_processor=LogitsProcessorList([force_token]),
        max_new_tokens=STEPS,
        do_sample=False,
        pad_token_id=padding_token,
        use_cache=True,
    )
    return torch.stack(steps)


def _are_close(actual: torch.Tensor, expected: torch.Tensor, max_error: float) -> bool:
    """Return True if the logits are equal except for rounding errors. Those that are not finite are left out."""
    is_used = actual.isfinite() & expected.isfinite()
    difference = torch.where(is_used, actual - expected, 0.0).norm(dim=-1)
    return bool((difference <= max_error * torch.where(is_used, expected, 0.0).norm(dim=-1)).all())
