"""Layout of windows as trees and batches."""

import numpy as np

from sparsedial.inference.prefix_tree import Window, batch_trees, build_prefix_trees


def test_batches_are_bounded_and_contain_little_padding():
    generator = np.random.default_rng(0)
    groups = []
    for length in generator.integers(1, 200, 300).tolist():
        groups.append([Window([1] * length, [2, 3]), Window([1] * length, [4])])
    trees = build_prefix_trees(groups, max_length=1000, max_shared_length=1000)
    batches = list(batch_trees(trees, max_tokens=4096))
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
