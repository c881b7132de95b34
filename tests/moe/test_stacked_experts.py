"""Discovery of stacked experts, and the reasons for those that are not supported."""

import pytest
import torch
from torch import nn

import sparsedial as sd
from sparsedial.errors import ModelError
from tests.support.expert_models import build_model, padded_inputs


def test_each_expert_is_one_ffn(qwen):
    ffns = sd.find_ffns(qwen)
    assert [(f.layer, f.expert) for f in ffns] == [*((0, e) for e in range(4)), *((1, e) for e in range(4))]
    f = ffns[5]
    assert (f.name, f.hidden, f.width, f.output_size) == ("model.layers.1.mlp.experts.1", 64, 32, 64)
    assert f.macs == (64 * 32 * 2, 64 * 32)
    assert f.names == {
        "up": "model.layers.1.mlp.experts.gate_up_proj",
        "gate": "model.layers.1.mlp.experts.gate_up_proj",
        "down": "model.layers.1.mlp.experts.down_proj",
    }
    assert {f.active_fraction for f in ffns} == {2 / 4}
    assert sd.find_ffns(build_model("nemotron_h"))[-1].gated is False


def test_discovery_draws_no_random_numbers(qwen):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sd.find_ffns(qwen)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model_type", ["dbrx", "jetmoe", "llama4_text"])
def test_experts_outside_the_experts_interface_are_named(model_type):
    model = build_model(model_type)
    try:
        with torch.no_grad():
            model(input_ids=torch.arange(3, 9)[None])
    except RuntimeError as error:  # the model itself, in some versions of transformers
        pytest.skip(f"{model_type} cannot be run: {error}")
    ffns = sd.find_ffns(model)
    name, reason = next(iter(ffns.unsupported.items()))
    assert type(model.get_submodule(name)).__name__ in reason
    with pytest.raises(ModelError, match=rf"{name} cannot be sparsified: .*experts interface.*layers="):
        sd.sparsify(model, "input", sd.TopP(0.5))


def test_an_activation_that_is_no_product_is_named_and_its_layer_can_be_excluded(qwen):
    experts = qwen.model.layers[1].mlp.experts

    class Strange(type(experts)):
        def _apply_gate(self, z):
            gate, up = z.chunk(2, -1)
            return self.act_fn(gate) * up + 1

    experts.__class__ = Strange
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.experts cannot be sparsified: .*Strange.*--layers"):
        sd.sparsify(qwen, "intermediate", sd.TopP(0.5))
    with torch.no_grad(), sd.sparsify(qwen, "intermediate", sd.TopP(0.5), layers=[0]) as sparsifier:
        qwen(**padded_inputs())
    assert set(sparsifier.stats()["layer"]) == {0}


UNSUPPORTED_WEIGHTS = {
    "Qwen3MoeExperts does not store its experts' weights as one 3-D parameter": lambda w: w.reshape(4, -1),
    "Qwen3MoeExperts .*quantised, as torch.bfloat16 and torch.float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
    r"Qwen3MoeExperts.*\[4, 64, 64\] and \[4, 64, 16\], do not fit together": lambda w: w[..., :16],
}


@pytest.mark.parametrize("reason", UNSUPPORTED_WEIGHTS)
def test_unsupported_weights_are_named(qwen, reason):
    experts = qwen.to(torch.bfloat16).model.layers[0].mlp.experts
    weight = UNSUPPORTED_WEIGHTS[reason](experts.down_proj.detach())
    experts.down_proj = nn.Parameter(weight, requires_grad=False)
    qwen.model.layers[0].forward = lambda x, *args, **kwargs: x
    with pytest.raises(ModelError, match=rf"model.layers.0.mlp.experts cannot be sparsified: .*{reason}"):
        sd.sparsify(qwen, "input", sd.TopP(0.5))
