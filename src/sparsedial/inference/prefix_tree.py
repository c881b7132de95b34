"""Batches of prefix trees, in which a prefix that several windows share is computed only once.

The options of one multiple-choice question begin with the same context, and often with the same first words. They
are merged into one prefix tree of tokens. A node is a token together with everything before it, so equal prefixes
are one node. A tree is one row of a batch and needs one forward pass, in which each token attends to its ancestors
only and its position is its depth. A tree that does not branch is an ordinary row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

# A batch may contain padding up to the larger of these two bounds. Beyond it, a further forward pass is cheaper.
MAX_PADDING_SHARE = 0.125
MIN_PADDING_TOKENS = 256

# The attention mask of a tree has as many entries as the square of its size, so trees and masks are bounded.
MIN_TREE_TOKENS = 512
MAX_TREE_TOKENS = 4096
MAX_MASK_ENTRIES = 1 << 25

WindowKey = tuple[int, int]
"""Index of a window's group, and index of the window in its group."""


@dataclass(frozen=True)
class Window:
    """A continuation to score after a context.

    Attributes:
        context: Token IDs of the context. Only masked diffusion models accept an empty context.
        continuation: Token IDs to score, at least one.
    """

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def tokens(self) -> list[int]:
        """Token IDs of context and continuation."""
        return [*self.context, *self.continuation]

    def split_inputs(self, max_length: int) -> tuple[list[int], list[int]]:
        """Return the tokens that a causal model reads, and the tokens that its last positions have to predict.

        Args:
            max_length: Maximum number of tokens that the model reads. The tokens are cut on the left.

        Returns:
            The token IDs of inputs and targets.

        >>> Window([5, 6], [7, 8]).split_inputs(100)
        ([5, 6, 7], [7, 8])
        >>> Window([5, 6], [7, 8]).split_inputs(2)
        ([6, 7], [7, 8])
        """
        tokens = self.tokens[-(max_length + 1) :]
        return tokens[:-1], list(self.continuation)


@dataclass(frozen=True)
class ScoredPath:
    """The part of a prefix tree whose predictions score one window.

    Attributes:
        key: Key of the window.
        nodes: Nodes whose logits are needed.
        targets: Token ID that each node has to predict.
    """

    key: WindowKey
    nodes: list[int]
    targets: list[int]


@dataclass
class PrefixTree:
    """Tokens of one or several windows, in which equal prefixes are stored once.

    Attributes:
        may_use_mask: True if the tree may be run with an explicit attention mask. False if it is too long for it.
        tokens: Token ID of each node.
        parents: Parent of each node, -1 for a root. A parent always comes before its children.
        paths: Scored part of each window.
    """

    may_use_mask: bool = False
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    paths: list[ScoredPath] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """True if the tree is not a single chain of nodes."""
        return any(parent != node - 1 for node, parent in enumerate(self.parents))

    @property
    def is_shared(self) -> bool:
        """True if the tree holds windows that read different tokens."""
        return len({path.nodes[-1] for path in self.paths}) > 1

    @property
    def scored_tokens(self) -> int:
        """Number of tokens to predict, over all windows."""
        return sum(len(path.nodes) for path in self.paths)

    def count_new_nodes(self, inputs: Sequence[int]) -> int:
        """Return the number of nodes that the tree would gain if a window were added.

        Args:
            inputs: Token IDs that the model reads.
        """
        node = -1
        for depth, token in enumerate(inputs):
            child = self._children.get((node, token))
            if child is None:
                return len(inputs) - depth
            node = child
        return 0

    def add(self, key: WindowKey, inputs: Sequence[int], targets: Sequence[int]) -> None:
        """Add one window.

        Args:
            key: Key of the window.
            inputs: Token IDs that the model reads.
            targets: Token IDs that the last `inputs` have to predict.
        """
        node = -1
        path = []
        for token in inputs:
            node = self._find_or_add_child(node, token)
            path.append(node)
        self.paths.append(ScoredPath(key, path[-len(targets) :], list(targets)))

    def _find_or_add_child(self, parent: int, token: int) -> int:
        """Return the child of a node that holds a token. Add the child if it does not exist."""
        child = self._children.get((parent, token))
        if child is None:
            child = len(self.tokens)
            self._children[parent, token] = child
            self.tokens.append(token)
            self.parents.append(parent)
        return child

    def depths(self) -> list[int]:
        """Return the depth of each node, which is the number of its ancestors."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def attention_mask(self, size: int) -> np.ndarray:
        """Return the mask with which each token attends to its ancestors and itself, and padding only to itself.

        Args:
            size: Number of tokens of the row, padding included.

        Returns:
            Boolean array of shape [size, size], True where the token of a row attends to the token of a column.
        """
        mask = np.eye(size, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node, :node] = mask[parent, :node]
        return mask


@dataclass(frozen=True)
class Batch:
    """Padded batch of B prefix trees with T tokens each. Logits are needed at N positions of the batch.

    Attributes:
        tokens: Token IDs, int64 of shape [B, T].
        real: Boolean mask of the tokens that are not padding, shape [B, T].
        position_ids: Position of each token, int64 of shape [B, T]. None if no tree branches.
        attention_mask: Boolean mask of shape [B, T, T], True where a row attends to a column. None if no tree branches.
        logit_positions: Positions in the flattened batch whose logits are needed, int64 of shape [N].
        logit_rows: Per scored token, its index in `logit_positions`.
        targets: Per scored token, the token ID to predict.
        windows: Per scored token, the index of its window in `keys`.
        keys: The windows of the batch.
    """

    tokens: torch.Tensor
    real: torch.Tensor
    position_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    logit_positions: torch.Tensor
    logit_rows: torch.Tensor
    targets: torch.Tensor
    windows: torch.Tensor
    keys: list[WindowKey]


@dataclass(frozen=True)
class BatchLimits:
    """Bounds of the size of one forward pass. A tree that exceeds them gets a batch of its own.

    Attributes:
        tokens: Maximum number of tokens, padding included.
        scored_tokens: Maximum number of tokens to predict. Defaults to None, which means that it is not bounded.
    """

    tokens: int
    scored_tokens: int | None = None

    @property
    def tree_tokens(self) -> int:
        """Maximum number of tokens of a tree that holds several windows.

        It is at least `MIN_TREE_TOKENS`, so that documents of usual length share prefixes with batches of any size.
        """
        return min(max(self.tokens, MIN_TREE_TOKENS), MAX_TREE_TOKENS)


def build_prefix_trees(groups: Sequence[Sequence[Window]], max_length: int, max_shared_length: int) -> list[PrefixTree]:
    """Build the prefix trees of all windows.

    Windows of a group that begin with the same token share a tree, as long as it has at most `max_shared_length`
    tokens. Further windows begin a new tree. Windows that are longer share a tree only if they read exactly the same
    tokens.

    Args:
        groups: Windows that belong together.
        max_length: Maximum number of tokens that the model reads. Longer windows are cut on the left.
        max_shared_length: Maximum number of tokens of a tree that holds different windows. 0 shares identical inputs
            only.

    Returns:
        The trees, in the order of the groups.
    """
    trees: list[PrefixTree] = []
    for group_index, windows in enumerate(groups):
        shared_trees: dict[int, PrefixTree] = {}
        long_trees: dict[tuple[int, ...], PrefixTree] = {}
        for window_index, window in enumerate(windows):
            inputs, targets = window.split_inputs(max_length)
            if len(inputs) > max_shared_length:
                tree = long_trees.get(tuple(inputs))
                if tree is None:
                    tree = long_trees[tuple(inputs)] = PrefixTree()
                    trees.append(tree)
            else:
                tree = shared_trees.get(inputs[0])
                if tree is None or len(tree) + tree.count_new_nodes(inputs) > max_shared_length:
                    tree = shared_trees[inputs[0]] = PrefixTree(may_use_mask=True)
                    trees.append(tree)
            tree.add((group_index, window_index), inputs, targets)
    return trees


def batch_trees(trees: Sequence[PrefixTree], limits: BatchLimits, padding_token: int = 0) -> Iterator[Batch]:
    """Yield batches of trees of similar length.

    Args:
        trees: The trees, in any order. The longest are yielded first, so that a lack of memory is detected early.
        limits: Maximum size of a batch.
        padding_token: Token ID of the padding.

    Yields:
        Batch: The next batch.
    """
    batch: list[PrefixTree] = []
    for tree in sorted(trees, key=lambda tree: (not tree.may_use_mask, -len(tree))):
        if batch and not _fits(tree, batch, limits):
            yield collate(batch, padding_token=padding_token)
            batch = []
        batch.append(tree)
    if batch:
        yield collate(batch, padding_token=padding_token)


def _fits(tree: PrefixTree, batch: Sequence[PrefixTree], limits: BatchLimits) -> bool:
    """Return True if a tree may join a batch of trees that are at least as long."""
    if tree.may_use_mask != batch[0].may_use_mask:
        return False
    longest = len(batch[0])
    size = longest * (len(batch) + 1)
    if tree.may_use_mask and size * longest > MAX_MASK_ENTRIES:
        return False
    if limits.scored_tokens is not None:
        scored_tokens = tree.scored_tokens + sum(member.scored_tokens for member in batch)
        if scored_tokens > limits.scored_tokens:
            return False
    padding = size - sum(map(len, batch)) - len(tree)
    return size <= limits.tokens and padding <= max(MIN_PADDING_TOKENS, MAX_PADDING_SHARE * size)


def collate(trees: Sequence[PrefixTree], min_size: int = 0, with_mask: bool = False, padding_token: int = 0) -> Batch:
    """Combine trees into one batch.

    Args:
        trees: One tree per row.
        min_size: Minimum number of tokens of each row.
        with_mask: True if the batch gets an attention mask and positions even if no tree branches.
        padding_token: Token ID of the padding.

    Returns:
        The batch, padded on the right.
    """
    size = max(min_size, *map(len, trees))
    tokens = np.full((len(trees), size), padding_token, dtype=np.int64)
    real = np.zeros((len(trees), size), dtype=bool)
    positions: list[int] = []
    targets: list[int] = []
    windows: list[int] = []
    keys: list[WindowKey] = []
    for row, tree in enumerate(trees):
        tokens[row, : len(tree)] = tree.tokens
        real[row, : len(tree)] = True
        for path in tree.paths:
            positions += [row * size + node for node in path.nodes]
            targets += path.targets
            windows += [len(keys)] * len(path.nodes)
            keys.append(path.key)
    position_ids = None
    attention_mask = None
    if with_mask or any(tree.branches for tree in trees):
        position_ids = _position_ids(trees, size)
        attention_mask = torch.from_numpy(np.stack([tree.attention_mask(size) for tree in trees]))
    logit_positions, logit_rows = np.unique(positions, return_inverse=True)
    return Batch(
        tokens=torch.from_numpy(tokens),
        real=torch.from_numpy(real),
        position_ids=position_ids,
        attention_mask=attention_mask,
        logit_positions=torch.from_numpy(logit_positions),
        logit_rows=torch.from_numpy(logit_rows),
        targets=torch.tensor(targets),
        windows=torch.tensor(windows),
        keys=keys,
    )


def _position_ids(trees: Sequence[PrefixTree], size: int) -> torch.Tensor:
    """Return the depth of every token, int64 of shape [trees, size]. The depth of padding is 0."""
    depths = np.zeros((len(trees), size), dtype=np.int64)
    for row, tree in enumerate(trees):
        depths[row, : len(tree)] = tree.depths()
    return torch.from_numpy(depths)
