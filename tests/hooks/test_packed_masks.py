"""Packed masks against Python's sets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.hooks.packed_masks import jaccard, pack, popcount, unpack


def as_sets(masks):
    return [set(row.nonzero()[:, 0].tolist()) for row in masks]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 200), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(max_examples=60)
def test_packed_masks_are_python_sets(seed, rows, width, share):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(rows, width, generator=generator) < share
    b = torch.rand(rows, width, generator=generator) < share
    words = pack(a)
    assert words.shape == (rows, -(-width // 64))
    assert torch.equal(unpack(words, width), a)
    assert popcount(words).tolist() == a.sum(1).tolist()
    expected = []
    for x, y in zip(as_sets(a), as_sets(b), strict=True):
        expected.append(len(x & y) / len(x | y) if x | y else 1.0)
    assert jaccard(words, pack(b)).tolist() == pytest.approx(expected)
