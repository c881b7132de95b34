"""Lays scored continuations out for few forwards: what several of them begin with is computed once.

The options of one multiple-choice question begin with the same context, often with the same first words.
They become one *tree* of tokens: a node is a token with everything before it, so equal beginnings are one
node. A tree is one row of a batch, run in one forward: each token attends to its ancestors only, and its
position is its depth. A tree that does not branch is an ordinary row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

WASTE = 0.125  # of a batch's tokens may be padding,
FEW = 256  # or this many: a forward more costs more than they do


@dataclass(frozen=True)
class Window:
    """A continuation to score after a context, as token ids; neither is empty."""

    context: Sequence[int]
    continuation: Sequence[int]

    def cut(self, max_length: int) -> tuple[list[int], list[int]]:
        """What the model reads and what it is to predict last, cut on the left to ``max_length`` tokens read.

        >>> Window([5, 6], [7, 8]).cut(100)
        ([5, 6, 7], [7, 8])
        >>> Window([5, 6], [7, 8]).cut(2)
        ([6, 7], [7, 8])
        """
        whole = [*self.context, *self.continuation][-(max_length + 1) :]
        return whole[:-1], list(self.continuation)


@dataclass
class Tree:
    """Tokens, each with the node before it (-1: none).

    Attributes:
        scored: per window, (its key, nodes, targets).
        masked: whether it may be run with a mask of its own (an unshared window may be too long for that).
    """

    masked: bool = False
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    scored: list[tuple[tuple[int, int], list[int], list[int]]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def branches(self) -> bool:
        """Whether some node has two children."""
        return any(parent != node - 1 for node, parent in enumerate(self.parents))

    def add(self, key: tuple[int, int], inputs: Sequence[int], targets: Sequence[int]) -> None:
        """Grow by one window: ``targets`` are what the last of ``inputs`` predict."""
        node, path = -1, []
        for token in inputs:
            before, node = node, self._children.get((node, token), -1)
            if node < 0:
                node = self._children[before, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(before)
            path.append(node)
        self.scored.append((key, path[-len(targets) :], list(targets)))

    def depths(self) -> list[int]:
        """How many tokens come before each."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def attends(self, size: int) -> np.ndarray:
        """Boolean ``[size, size]``: row i is what token i sees: its ancestors and itself (padding: itself)."""
        mask = np.eye(size, dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                mask[node, :node] = mask[parent, :node]
        return mask


@dataclass(frozen=True)
class Batch:
    """Trees as one padded batch.

    Attributes:
        tokens, real: ``[B, T]``. positions, attends: ``[B, T]`` and ``[B, T, T]``, None where no tree branches.
        at: ``[N]``, the places in the flattened batch whose logits are needed.
        row, target: per scored token, its index in ``at`` and the token to predict.
        window: per scored token, the index of its window in ``keys``.
    """

    tokens: torch.Tensor
    real: torch.Tensor
    positions: torch.Tensor | None
    attends: torch.Tensor | None
    at: torch.Tensor
    row: torch.Tensor
    target: torch.Tensor
    window: torch.Tensor
    keys: list[tuple[int, int]]


def plant(groups: Sequence[Sequence[Window]], max_length: int, share_up_to: int) -> list[Tree]:
    """Trees of all windows. A window's key is (its group, its index there).

    The windows of a group share a tree where none of them is longer than ``share_up_to`` tokens; else only
    windows that read exactly the same tokens do.
    """
    trees: list[Tree] = []
    for group, windows in enumerate(groups):
        cuts = [w.cut(max_length) for w in windows]
        shared = all(len(inputs) <= share_up_to for inputs, _ in cuts)
        mine: dict[object, Tree] = {}
        for index, (inputs, targets) in enumerate(cuts):
            mine.setdefault(None if shared else tuple(inputs), Tree(shared)).add((group, index), inputs, targets)
        trees += mine.values()
    return trees


def batches(trees: Sequence[Tree], batch_tokens: int) -> Iterator[Batch]:
    """Batches of trees of like length: at most ``batch_tokens`` tokens (or one tree), padding included."""
    batch: list[Tree] = []
    for tree in sorted(trees, key=lambda t: (not t.masked, -len(t))):  # longest first: too large fails at once
        if batch:
            size = len(batch[0]) * (len(batch) + 1)
            padding = size - sum(map(len, batch)) - len(tree)
            if size > batch_tokens or padding > max(FEW, WASTE * size) or batch[0].masked != tree.masked:
                yield lay_out(batch)
                batch = []
        batch.append(tree)
    if batch:
        yield lay_out(batch)


def lay_out(trees: Sequence[Tree], size: int = 0, masked: bool = False) -> Batch:
    """One batch, at least ``size`` tokens long, with a mask of its own if a tree branches or if ``masked``."""
    size = max(size, *map(len, trees))
    tokens = np.zeros((len(trees), size), dtype=np.int64)
    real = np.zeros((len(trees), size), dtype=bool)
    places: list[int] = []
    targets: list[int] = []
    window: list[int] = []
    keys: list[tuple[int, int]] = []
    for row, tree in enumerate(trees):
        tokens[row, : len(tree)] = tree.tokens
        real[row, : len(tree)] = True
        for key, nodes, wanted in tree.scored:
            places += [row * size + node for node in nodes]
            targets += wanted
            window += [len(keys)] * len(nodes)
            keys.append(key)
    positions = attends = None
    if masked or any(tree.branches for tree in trees):
        attends = torch.from_numpy(np.stack([tree.attends(size) for tree in trees]))
        depth = np.zeros_like(tokens)
        for row, tree in enumerate(trees):
            depth[row, : len(tree)] = tree.depths()
        positions = torch.from_numpy(depth)
    at, row_of = np.unique(places, return_inverse=True)
    return Batch(
        torch.from_numpy(tokens),
        torch.from_numpy(real),
        positions,
        attends,
        torch.from_numpy(at),
        torch.from_numpy(row_of),
        torch.tensor(targets),
        torch.tensor(window),
        keys,
    )
