"""Tests of the sites on the smallest model of the zoo, which has two layers or more."""

import pytest
import torch

import sparsedial as sd


@pytest.mark.parametrize(
    ("site", "vectors"),
    [("up_and_gate", {"up", "gate"}), ("input_of_first_half", {"input"}), ("output", {"output"})],
)
def test_half_of_the_entries_of_each_vector_are_dropped(site, vectors):
    model, _ = sd.load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
    tokens = torch.arange(8)[None]
    dense = model(tokens).logits
    with sd.sparsify(model, site=site, rule=sd.TopP(1.0)):
        assert torch.equal(model(tokens).logits, dense)
    with sd.sparsify(model, site=site, rule=sd.TopK(0.5)) as sparsifier:
        assert not torch.equal(model(tokens).logits, dense)
    stats = sparsifier.stats()
    assert set(stats["vector"]) == vectors
    assert (stats["sparsity"] - 0.5).abs().max() < 0.02
