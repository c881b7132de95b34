"""Projections: which modules are one, and their widths."""

import pytest
from torch import nn
from transformers.pytorch_utils import Conv1D

from sparsedial.ffn.expression import OutputSlice
from sparsedial.ffn.projections import in_features, is_projection, out_features
from tests.support.ffn_modules import GatedFFN


@pytest.mark.parametrize("module", [nn.Linear(3, 5), Conv1D(5, 3)])
def test_widths(module):
    assert is_projection(module)
    assert (in_features(module), out_features(module)) == (3, 5)
    assert OutputSlice(module, 0, 1, 5).whole


@pytest.mark.parametrize(
    "module",
    [nn.Embedding(3, 5), nn.LayerNorm(3), nn.Conv1d(2, 2, 1), nn.Bilinear(2, 2, 2), nn.ReLU(), GatedFFN()],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_are_no_projections(module):
    assert not is_projection(module)
