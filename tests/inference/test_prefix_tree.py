"""Layout of windows as trees and batches."""

import numpy as np
import pytest

from sparsedial.inference.prefix_tree import (
    MAX_MASK_ENTRIES,
    MAX_TREE_TOKENS,
    MIN_TREE_TOKENS,
    BatchLimits,
    Window,
    batch_trees,
    build_prefix_trees,
)


def test_batches_are_bounded_and_contain_little_padding():
    generator = np.random.default_rng(0)
    groups = []
    for length in generator.integers(1, 200, 300).tolist():
        groups.append([Window([1] * length, [2, 3]), Window([1] * length, [4])])
    trees = build_prefix_trees(groups, max_length=1000, max_shared_length=1000)
    batches = list(batch_trees(trees, BatchLimits(4096)))
    tree_tokens = sum(map(len, trees))
    assert all(batch.tokens.numel() <= 4096 for batch in batches)
    assert sum(int(batch.real.sum()) for batch in batches) == tree_tokens
    assert sum(batch.tokens.numel() for batch in batches) <= 1.13 * tree_tokens
    keys = [key for batch in batches for key in batch.keys]
    assert sorted(keys) == [(group, window) for group in range(300) for window in range(2)]


def test_equal_prefixes_are_stored_once():
    windows = [Window([5, 6], [7, 8]), Window([5, 6], [7, 9]), Window([5, 6], [4])]
    [tree] = build_prefix_trees([windows], max_length=100, max_shared_length=100)
    assert tree.tokens == [5, 6, 7]
    assert [(path.nodes, path.targets) for path in tree.paths] == [([1, 2], [7, 8]), ([1, 2], [7, 9]), ([1], [4])]
    assert not tree.branches


def test_tokens_attend_to_their_ancestors_only():
    [tree] = build_prefix_trees([[Window([5], [6, 7]), Window([5], [8, 9])]], max_length=100, max_shared_length=100)
    assert tree.branches
    assert tree.tokens == [5, 6, 8]
    assert tree.depths() == [0, 1, 1]
    assert tree.attention_mask(4).astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_long_windows_share_only_identical_inputs():
    windows = [Window([5, 6], [7]), Window([5, 6], [8]), Window([5, 6], [7, 9])]
    trees = build_prefix_trees([windows], max_length=100, max_shared_length=2)
    assert [tree.tokens for tree in trees] == [[5, 6], [5, 6, 7]]
    assert [len(tree.paths) for tree in trees] == [2, 1]


def make_windows(contexts, length):
    """Return windows with the given contexts and continuations of this length, all of them different."""
    return [Window(context, [1000 + number] * length) for number, context in enumerate(contexts)]


def test_windows_without_a_common_beginning_do_not_share_a_tree():
    windows = make_windows([[number] * 250 for number in range(180)], 6)  # a text of 45,000 tokens in parts
    trees = build_prefix_trees([windows], max_length=256, max_shared_length=MAX_TREE_TOKENS)
    assert [len(tree) for tree in trees] == [255] * 180
    for batch in batch_trees(trees, BatchLimits(4096)):
        assert batch.attention_mask is None
        assert batch.tokens.numel() <= 4096


@pytest.mark.parametrize("batch_tokens", [1, 1000, 1 << 20])
def test_many_options_are_split_into_trees_of_bounded_size(batch_tokens):
    limits = BatchLimits(batch_tokens)
    windows = make_windows([list(range(50))] * 600, 20)
    trees = build_prefix_trees([windows], max_length=1000, max_shared_length=limits.tree_tokens)
    assert len(trees) > 2
    assert sum(len(tree.paths) for tree in trees) == 600
    for tree in trees:
        assert tree.tokens[:50] == list(range(50))
        assert len(tree) <= max(batch_tokens, MIN_TREE_TOKENS)
        assert len(tree) <= MAX_TREE_TOKENS
    for batch in batch_trees(trees, limits):
        assert batch.attention_mask.numel() <= MAX_MASK_ENTRIES


def test_the_number_of_scored_tokens_of_a_batch_is_bounded():
    windows = make_windows([[number, 7] for number in range(40)], 10)
    trees = build_prefix_trees([windows], max_length=100, max_shared_length=0)
    batches = list(batch_trees(trees, BatchLimits(10_000, scored_tokens=35)))
    assert [len(batch.targets) for batch in batches] == [30] * 13 + [10]
    [batch, *_] = batch_trees(trees, BatchLimits(10_000, scored_tokens=1))
    assert len(batch.targets) == 10  # a tree is never split
