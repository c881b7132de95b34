"""Discovery in small models: which FFNs are found, and what is reported when none is."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

import sparsedial as sd
from sparsedial.errors import ModelError
from tests.support.expert_models import build_model
from tests.support.ffn_modules import (
    HIDDEN,
    WIDTH,
    Attention,
    GatedFFN,
    Net,
    ParallelLayer,
    PlainFFN,
    find_only_ffn,
    last_names,
)


def test_gated_ffn():
    ffn = find_only_ffn(GatedFFN)
    assert (ffn.layer, ffn.name, ffn.gated, ffn.hidden, ffn.width) == (0, "layers.0", True, HIDDEN, WIDTH)
    assert ffn.expert is None
    assert last_names(ffn) == {"up": "up_proj", "gate": "gate_proj", "down": "down_proj"}
    assert len(ffn.input_projections) == 2
    assert ffn.output_size == HIDDEN
    assert ffn.macs == (2 * HIDDEN * WIDTH, HIDDEN * WIDTH)


def test_plain_ffn_with_conv1d():
    ffn = find_only_ffn(PlainFFN)
    assert (ffn.gated, ffn.hidden, ffn.width) == (False, HIDDEN, WIDTH)
    assert last_names(ffn) == {"up": "c_fc", "down": "c_proj"}


def test_projections_directly_in_the_layer_in_parallel_to_attention():
    first, second = sd.find_ffns(Net(ParallelLayer, ParallelLayer))
    assert (first.name, last_names(first)) == ("layers.0", {"up": "fc1", "down": "fc2"})
    assert (second.name, second.layer) == ("layers.1", 1)


def test_error_without_ffns_lists_what_was_seen_and_how_to_name_modules():
    class SumOfProjections(GatedFFN):  # As with low-rank adapters that were not merged.
        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x) + self.up_proj(x) + self.gate_proj(2 * x)))

    with pytest.raises(
        ModelError,
        match=r"Net: no FFN found. Seen: 8 projections called \(Linear\).*layers.1.down_proj reads an activation of "
        r"the outputs of 2 projections.*name the modules by hand: find_ffns\(model, modules=.*--ffn up=PATTERN",
    ):
        sd.find_ffns(Net(Attention, SumOfProjections))


def test_a_failing_forward_is_an_error_of_its_own():
    net = Net(GatedFFN, vocabulary=4)  # The token ids 3 to 8 are not in the vocabulary.
    with pytest.raises(
        ModelError, match=r"Net could not be called with input_ids.*IndexError.*model itself.*inputs=.*by hand"
    ):
        sd.find_ffns(net)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert len(sd.find_ffns(net, inputs={"input_ids": torch.arange(4)[None]})) == 1


def test_a_forward_that_fails_only_while_it_is_traced_needs_no_other_inputs():
    class NoDispatchMode(GatedFFN):
        def forward(self, x):
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise RuntimeError("no dispatch mode")
            return super().forward(x)

    net = Net(NoDispatchMode).train()
    with pytest.raises(
        ModelError, match=r"no dispatch mode. Without the search for FFNs, the model can be called. To name the modules"
    ):
        sd.find_ffns(net)
    assert all(m.training for m in net.modules())


def test_experts_in_a_dtype_without_a_grouped_product_name_the_implementation_to_choose():
    model = build_model("qwen3_moe").double()
    with pytest.raises(ModelError, match=r"float64 weights.*--dtype.*set_experts_implementation\('eager'\)") as caught:
        sd.find_ffns(model)
    assert "inputs=" not in str(caught.value)
    model.set_experts_implementation("eager")
    assert len(sd.find_ffns(model)) == 8


def test_a_shared_ffn_is_found_at_its_first_path():
    shared = GatedFFN()
    ffns = sd.find_ffns(Net(shared, PlainFFN, shared))
    assert [(f.layer, f.name) for f in ffns] == [(0, "layers.0"), (1, "layers.1")]


def test_training_mode_of_each_module_is_restored():
    net = Net(GatedFFN, PlainFFN).train()
    net.layers[1].eval()
    before = [m.training for m in net.modules()]
    sd.find_ffns(net)
    assert [m.training for m in net.modules()] == before


@pytest.mark.parametrize("site", ["input", "up", "intermediate"])
def test_discovery_under_an_attached_sparsifier(site):
    net = Net(GatedFFN, ParallelLayer)
    before = [(f.layer, f.names) for f in sd.find_ffns(net)]
    with sd.sparsify(net, site, sd.TopP(0.5)) as sparsifier:
        assert [(f.layer, f.names) for f in sd.find_ffns(net)] == before
        net(torch.arange(3)[None])
    # The forward pass of the discovery is not counted.
    width = HIDDEN if site == "input" else WIDTH
    assert sparsifier.stats()["total"].sum() == 3 * 2 * width


def test_stacks_inside_a_multimodal_wrapper():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision = Net(ParallelLayer, ParallelLayer)
            self.text = Net(ParallelLayer, ParallelLayer)

        def forward(self, input_ids, pixels=None):
            if pixels is None:
                return self.text(input_ids)
            return self.text(input_ids) + self.vision(pixels)

    wrapper = Wrapper()
    ids = torch.arange(6)[None]
    assert [(f.layer, f.name) for f in sd.find_ffns(wrapper)] == [(0, "text.layers.0"), (1, "text.layers.1")]
    # Two stacks share layer numbers, so the layers are counted through.
    ffns = sd.find_ffns(wrapper, inputs={"input_ids": ids, "pixels": ids})
    assert [(f.layer, f.name) for f in ffns] == [
        (0, "text.layers.0"),
        (1, "text.layers.1"),
        (2, "vision.layers.0"),
        (3, "vision.layers.1"),
    ]


class ParameterFFN(nn.Module):
    """An FFN whose weights are not in modules."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(WIDTH, HIDDEN))
        self.down = nn.Parameter(torch.randn(HIDDEN, WIDTH))

    def forward(self, x):
        return F.linear(F.relu(F.linear(x, self.up)), self.down)


def test_advice_for_models_without_projections():
    with pytest.raises(
        ModelError, match=r"Seen: 0 projections called \(none\).*Store the weights.*nn.Linear"
    ) as caught:
        sd.find_ffns(Net(ParameterFFN))
    assert "by hand" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated.
def test_advice_for_models_compiled_by_jit():
    compiled = torch.jit.trace(Net(GatedFFN).eval(), torch.arange(6)[None])
    with pytest.raises(ModelError, match=r"torch.jit.*Load the model as a Python module"):
        sd.find_ffns(compiled)


def test_a_model_without_weights_is_an_error_of_its_own():
    with torch.device("meta"):
        net = Net(GatedFFN)
    with pytest.raises(ModelError, match=r"Net has no weights.*'meta'.*Load the weights"):
        sd.find_ffns(net, inputs={"input_ids": torch.arange(6, device="meta")[None]})


def test_an_encoder_decoder_model_needs_no_inputs():
    config = T5Config(d_model=32, d_ff=64, num_layers=1, num_heads=2, d_kv=16, vocab_size=64, decoder_start_token_id=0)
    ffns = sd.find_ffns(T5ForConditionalGeneration(config))
    assert [f.name.split(".")[0] for f in ffns] == ["encoder", "decoder"]
