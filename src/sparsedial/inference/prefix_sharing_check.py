"""Test of whether a causal model computes shared prefixes correctly.

A prefix tree needs an attention mask and positions of its own. Some models ignore or reject them: models with ALiBi,
with a recurrent state, or with an attention kernel that takes no mask. There is no reliable list of such models, so
the model itself is run on a small tree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.inference.loglikelihood import score_batch
from sparsedial.inference.prefix_tree import Batch, Window, build_prefix_trees, collate

NO_LIMIT = 1 << 30

# Maximum error of the tree, as a fraction of the error of a tree with wrong positions or a wrong attention mask.
MAX_SHARE_OF_WRONG_ERROR = 1 / 2
# Maximum change of the log-likelihoods when the model receives an explicit mask, as a fraction of their sum.
MAX_CHANGE_BY_EXPLICIT_MASK = 1 / 20

_max_shared_lengths: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def find_max_shared_length(model: Any) -> int:
    """Return the maximum length, in tokens, of windows that may share a prefix with this model.

    The result is computed once per model. Sliding-window and chunked attention limit the length.

    Args:
        model: Dense causal language model.

    Returns:
        Number of tokens, `NO_LIMIT` if the length is not limited, or 0 if the model cannot share prefixes.
    """
    if model not in _max_shared_lengths:
        _max_shared_lengths[model] = _attention_span(model) if _can_share(model) else 0
    return _max_shared_lengths[model]


def _attention_span(model: Any) -> int:
    """Return the number of tokens that attention reaches back, or `NO_LIMIT`."""
    config = model.config.get_text_config()
    sliding_window = getattr(config, "sliding_window", None) or NO_LIMIT
    chunk_size = getattr(config, "attention_chunk_size", None) or NO_LIMIT
    return min(int(sliding_window), int(chunk_size))


@torch.inference_mode()
def _can_share(model: Any) -> bool:
    """Return True if a prefix tree has the same log-likelihoods as its windows have when they are run one by one.

    The difference has to be far smaller than that of a tree with deliberately wrong positions and that of a tree with
    a deliberately wrong attention mask.
    """
    windows = _test_windows(int(model.config.get_text_config().vocab_size))
    [tree] = build_prefix_trees([windows], NO_LIMIT, NO_LIMIT)
    size = len(tree)
    tree_batch = collate([tree])
    wrong_positions = replace(tree_batch, position_ids=torch.arange(size)[None])
    wrong_mask = replace(tree_batch, attention_mask=torch.ones(1, size, size, dtype=torch.bool).tril())

    def loglikelihoods(batch: Batch) -> torch.Tensor:
        return score_batch(model, batch)[:, 0].cpu()

    single_trees = build_prefix_trees([[window] for window in windows], NO_LIMIT, 0)
    unmasked = torch.cat([loglikelihoods(collate([single])) for single in single_trees])
    try:
        # The rows are padded to the size of the tree, so that rounding errors differ little.
        masked = torch.cat([loglikelihoods(collate([single], size, with_mask=True)) for single in single_trees])
        error = (loglikelihoods(tree_batch) - masked).abs().sum()
        position_error = (loglikelihoods(wrong_positions) - masked).abs().sum()
        mask_error = (loglikelihoods(wrong_mask) - masked).abs().sum()
    except Exception:  # A model may reject the mask or the positions with any kind of error.
        return False
    is_tree_right = error <= min(position_error, mask_error) * MAX_SHARE_OF_WRONG_ERROR
    is_mask_harmless = (unmasked - masked).abs().sum() <= unmasked.abs().sum() * MAX_CHANGE_BY_EXPLICIT_MASK
    return bool(is_tree_right) and bool(is_mask_harmless)  # both comparisons are False for NaN


def _test_windows(vocabulary_size: int) -> list[Window]:
    """Return windows whose tree begins with a long branch, so that wrong positions change later nodes strongly."""
    ids = [token % vocabulary_size for token in range(120)]
    prefix = ids[3:7]
    long_branch = ids[20:]
    return [
        Window(prefix, long_branch),
        Window(prefix, [ids[15], *long_branch[:3]]),
        Window(prefix, long_branch[:9]),
        Window(prefix[:2], ids[16:18]),
    ]
