"""Test of whether a causal model computes shared prefixes correctly.

A prefix tree needs an attention mask and positions of its own. Some models ignore or reject them: models with ALiBi,
with a recurrent state, or with an attention kernel that takes no mask. Others apply a window or a block pattern to the
order of the tokens in the row instead of their positions, or apply none if they get a mask. This shows only in trees
that are longer than the window. There is no reliable list of such models, so the model itself is run on a test tree of
the size that is needed, and on trees of the task.

Models that select the tokens that they attend to by their content share no prefixes. In a tree, they may select tokens
of another branch. Whether they do depends on the content, so no test tree shows it reliably.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.inference.loglikelihood import compute_logits
from sparsedial.inference.model_limits import count_embedding_rows
from sparsedial.inference.prefix_tree import Batch, BatchLimits, PrefixTree, Window, build_prefix_trees, collate

MAX_ERRORS = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
"""Maximum error of the logits by data type, relative to their norm. Rounding causes a fifth of it or less."""
MAX_SHARE_OF_WRONG_ERROR = 1 / 2
"""Maximum error of a tree, as a fraction of the error of a tree with wrong positions or a wrong attention mask."""
MIN_TREE_TOKENS = 32
"""Size of the smallest test tree."""
MIN_DEPTH = 24
"""Number of tokens of the longest window in the smallest test tree."""
SMALL_TREE_TOKENS = 64
"""Size of a tree that is also compared with trees with wrong positions and masks, which takes more forward passes."""
PREFIX_TOKENS = 4
SCORED_TOKENS = 8


@dataclass(frozen=True)
class TreeSize:
    """Size of a prefix tree.

    Attributes:
        tokens: Number of tokens.
        depth: Number of tokens that its longest window reads.
    """

    tokens: int
    depth: int


_can_share_at: WeakKeyDictionary[Any, dict[TreeSize, bool]] = WeakKeyDictionary()
"""Result of the test trees by model and size."""


def find_max_shared_length(
    model: Any, groups: Sequence[Sequence[Window]], *, max_length: int, batch_tokens: int
) -> int:
    """Return the maximum size of prefix trees with which a model has the same results as without sharing prefixes.

    Args:
        model: Dense causal language model.
        groups: Windows that will be scored.
        max_length: Maximum number of tokens that the model reads.
        batch_tokens: Maximum number of tokens per forward pass.

    Returns:
        Number of tokens: the size of the largest tree of the groups if the model can share prefixes in a tree of this
        size, otherwise the first of its half, quarter and so on at which it can, or 0 if there is none. A model that
        cannot read the smallest test tree gets 0.
    """
    if max_length < MIN_DEPTH or _selects_tokens_by_content(model):
        return 0
    needed = _largest_tree(_shared_trees(groups, max_length, BatchLimits(batch_tokens).tree_tokens))
    tokens = needed.tokens
    while tokens:
        test_tokens = max(tokens, MIN_TREE_TOKENS)
        depth = min(max(needed.depth, MIN_DEPTH), test_tokens)
        if _can_share(model, TreeSize(test_tokens, depth)):
            break
        tokens = 0 if test_tokens == MIN_TREE_TOKENS else tokens // 2
    trees = _shared_trees(groups, max_length, tokens)
    if not trees or not _are_task_trees_right(model, groups, trees, max_length):
        return 0
    return tokens


def _selects_tokens_by_content(model: Any) -> bool:
    """Return True if the configuration names a number of tokens that an index over the keys selects."""
    return hasattr(model.config, "index_topk")


def _shared_trees(groups: Sequence[Sequence[Window]], max_length: int, max_shared_length: int) -> list[PrefixTree]:
    """Return the trees of at most `max_shared_length` tokens that hold different windows."""
    return [tree for tree in build_prefix_trees(groups, max_length, max_shared_length) if tree.is_shared]


def _largest_tree(trees: Sequence[PrefixTree]) -> TreeSize:
    """Return the maximum size and the maximum depth of the trees. Both are 0 if there are none."""
    tokens = 0
    depth = 0
    for tree in trees:
        tokens = max(tokens, len(tree))
        depth = max(depth, max(tree.depths()) + 1)
    return TreeSize(tokens, depth)


def _can_share(model: Any, size: TreeSize) -> bool:
    """Return True if a test tree of this size, and a small one, have the logits of their windows without sharing."""
    small = TreeSize(min(size.tokens, SMALL_TREE_TOKENS), min(size.depth, SMALL_TREE_TOKENS // 2))
    known = _can_share_at.setdefault(model, {})
    for tested in (small, size):
        if tested not in known:
            try:
                known[tested] = _is_test_tree_right(model, tested, compare_wrong_trees=tested == small)
            except Exception:  # A model may reject the mask or the positions with any kind of error.
                known[tested] = False
        if not known[tested]:
            return False
    return True


def _is_test_tree_right(model: Any, size: TreeSize, *, compare_wrong_trees: bool) -> bool:
    """Return True if the logits of a test tree are those of its windows.

    The difference has to be no larger than rounding errors. If `compare_wrong_trees` is True, it also has to be smaller
    than that of a tree with deliberately wrong positions, and that of a tree with a deliberately wrong attention mask.
    """
    windows = _test_windows(size, count_embedding_rows(model))
    [tree] = build_prefix_trees([windows], size.depth, len(windows) * size.depth)
    batch = collate([tree], with_mask=True)
    comparison = _Comparison.create(model, [windows], size.depth)
    max_error = _max_error(model)
    if compare_wrong_trees:
        tokens = len(tree)
        wrong_positions = replace(batch, position_ids=torch.arange(tokens)[None].clamp(max=size.depth - 1))
        wrong_mask = replace(batch, attention_mask=torch.ones(1, tokens, tokens, dtype=torch.bool).tril())
        for wrong_batch in (wrong_positions, wrong_mask):
            wrong_error = float(comparison.errors(wrong_batch).max())
            max_error = min(max_error, wrong_error * MAX_SHARE_OF_WRONG_ERROR)
    return bool((comparison.errors(batch) <= max_error).all())  # False for NaN


def _are_task_trees_right(
    model: Any, groups: Sequence[Sequence[Window]], trees: Sequence[PrefixTree], max_length: int
) -> bool:
    """Return True if three trees of a task, from the smallest to the median, have the logits of their windows."""
    by_size = sorted(trees, key=len)
    compared = [by_size[len(trees) * number // 4] for number in range(3)]
    windows = []
    for tree in compared:
        windows.append([groups[path.key[0]][path.key[1]] for path in tree.paths])
    comparison = _Comparison.create(model, windows, max_length)
    return bool((comparison.errors(collate(compared)) <= _max_error(model)).all())


def _max_error(model: Any) -> float:
    return MAX_ERRORS.get(model.dtype, MAX_ERRORS[torch.bfloat16])


@dataclass(frozen=True)
class _Comparison:
    """Comparison of prefix trees with the first and the last window of each, which are run without sharing.

    Attributes:
        model: Dense causal language model.
        window_indices: Indices of the windows that are compared, out of the windows of all trees.
        expected: Logits of these windows, float32 or float64 of shape [scored tokens, vocabulary].
    """

    model: Any
    window_indices: list[int]
    expected: list[torch.Tensor]

    @classmethod
    def create(cls, model: Any, windows_by_tree: Sequence[Sequence[Window]], max_length: int) -> _Comparison:
        """Run the first and the last window of each tree."""
        compared = []
        window_indices: list[int] = []
        start = 0
        for windows in windows_by_tree:
            compared += [[windows[0]], [windows[-1]]]
            window_indices += [start, start + len(windows) - 1]
            start += len(windows)
        singles = build_prefix_trees(compared, max_length, 0)
        return cls(model, window_indices, _logits_by_window(model, collate(singles)))

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the relative errors of the logits of the compared windows in a batch of the trees.

        The error is the norm of the difference divided by the norm of the expected logits, both after subtraction of
        the mean over the vocabulary, which changes no probability.
        """
        by_window = _logits_by_window(self.model, batch)
        errors = []
        for index, logits in zip(self.window_indices, self.expected, strict=True):
            actual = by_window[index]
            expected = logits - logits.mean(-1, keepdim=True)
            difference = actual - actual.mean(-1, keepdim=True) - expected
            errors.append(difference.norm() / expected.norm())
        return torch.stack(errors)


@torch.inference_mode()
def _logits_by_window(model: Any, batch: Batch) -> list[torch.Tensor]:
    """Return the logits that predict the scored tokens of each window, float32 or float64 on the CPU."""
    logits = compute_logits(model, batch).cpu()[batch.logit_rows]
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return [precise[batch.windows == index] for index in range(len(batch.keys))]


def _test_windows(size: TreeSize, vocabulary: int) -> list[Window]:
    """Return windows whose tree has the given size, and reveals wrong positions and windows of any kind.

    The first branch is as deep as possible, so that a mask that replaces the window of the model changes its end. The
    last branch is short, and nearly the whole tree lies between it and its context.
    """

    def tokens(branch: int, start: int, end: int) -> list[int]:
        return [(3 + 7 * index + 31 * branch) % vocabulary for index in range(start, end)]

    prefix = tokens(0, 0, PREFIX_TOKENS)
    main = tokens(0, PREFIX_TOKENS, size.depth)
    sequences = [prefix + main]
    missing = size.tokens - size.depth - SCORED_TOKENS // 2
    while missing > 0:
        length = min(missing, size.depth - PREFIX_TOKENS)
        sequences.append(prefix + tokens(len(sequences), 0, length))
        missing -= length
    sequences.append(prefix[:2] + tokens(len(sequences), 0, SCORED_TOKENS // 2))
    windows = []
    for sequence in sequences:
        scored = min(SCORED_TOKENS, len(sequence) - 1)
        # The model reads all tokens of the sequence. The last one predicts any token, because only logits are compared.
        windows.append(Window(sequence[: 1 - scored], [*sequence[1 - scored :], 0]))
    return windows
