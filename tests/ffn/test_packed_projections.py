"""FFNs whose projections have packed weights or are wrapped: sites, outputs and counts are those of dense weights."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import SITES
from sparsedial.ffn.projections import in_features, is_projection, out_features
from tests.support.ffn_modules import HIDDEN, WIDTH, GatedFFN, ListedExperts, Net
from tests.support.packed_modules import (
    BufferLinear,
    LowRankLinear,
    PackedLinear,
    SilentLinear,
    dense_copy,
    dequantise,
    replace_projections,
    subclass_linear,
)

IDS = torch.arange(10).view(2, 5)


def legacy_linear(linear):
    """Return a packed layer that states its widths as older versions of AutoGPTQ do."""
    packed = BufferLinear(linear)
    packed.infeatures, packed.outfeatures = packed.in_features, packed.out_features
    del packed.in_features, packed.out_features
    packed.dequantise = BufferLinear(linear).dequantise
    return packed


def parametrized_linear(linear):
    return nn.utils.parametrizations.weight_norm(linear)


# How a projection is replaced, and how the matrix that it multiplies by is read.
REPLACEMENTS = {
    "weight of another shape": (PackedLinear, dequantise),
    "no weight": (BufferLinear, dequantise),
    "other names of the widths": (legacy_linear, dequantise),
    "tensor subclass": (subclass_linear, dequantise),
    "low-rank addition": (LowRankLinear, LowRankLinear.merge),
    "low-rank addition to a packed weight": (
        lambda linear: LowRankLinear(PackedLinear(linear)),
        lambda module: (
            dequantise(module.base_layer) + module.lora_B["default"].weight @ module.lora_A["default"].weight
        ),
    ),
    "parametrized": (parametrized_linear, lambda module: module.weight),
}


def check_all_sites(model, dense):
    """Compare outputs and statistics of a model and its dense copy at every site, and p = 1 with no rule."""
    ffns = sd.find_ffns(model)
    assert [f.names for f in ffns] == [f.names for f in sd.find_ffns(dense)]
    original = model(IDS)
    for site in SITES:
        with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
            assert torch.equal(model(IDS), original)
        with sd.sparsify(dense, site, sd.TopK(0.5)) as expected:
            expected_output = dense(IDS)
        with sd.sparsify(model, site, sd.TopK(0.5), ffns=ffns) as sparsifier:
            torch.testing.assert_close(model(IDS), expected_output)
        assert sparsifier.stats().equals(expected.stats())
    assert torch.equal(model(IDS), original)


@pytest.mark.parametrize("kind", REPLACEMENTS)
@torch.no_grad()
def test_sites_are_those_of_the_dense_matrices(kind):
    replace, get_matrix = REPLACEMENTS[kind]
    net = Net(GatedFFN, GatedFFN)
    dense = Net(GatedFFN, GatedFFN)
    for index, layer in enumerate(net.layers):
        replace_projections(layer, replace)
        dense.layers[index] = dense_copy(layer, get_matrix)
    check_all_sites(net, dense)
    (ffn, _) = sd.find_ffns(net)
    assert (ffn.hidden, ffn.width, ffn.output_size) == (HIDDEN, WIDTH, HIDDEN)


@torch.no_grad()
def test_idle_experts_with_packed_weights_are_found():
    experts = ListedExperts(lambda: replace_projections(GatedFFN(), PackedLinear))
    ffns = sd.find_ffns(Net(experts))
    assert [f.expert for f in ffns] == [0, 1, 2, 3]
    assert not ffns.unsupported


def test_packed_weights_of_unknown_widths_are_named_with_what_to_do():
    net = Net(replace_projections(GatedFFN(), SilentLinear))
    with pytest.raises(
        ModelError,
        match=r"no FFN found.*layers.0.gate_proj \(SilentLinear\).*packed weights \(qweight: uint8 \[48, 1\]\)"
        r".*Set the attributes in_features and out_features",
    ):
        sd.find_ffns(net)
    for module in net.modules():
        if isinstance(module, SilentLinear):
            module.out_features, module.in_features = module.shape
    assert len(sd.find_ffns(net)) == 1


def test_the_shape_of_an_ordinary_matrix_comes_before_the_widths_that_a_module_states():
    pruned = nn.Linear(8, 12)
    pruned.weight = nn.Parameter(torch.zeros(10, 8))
    assert (in_features(pruned), out_features(pruned)) == (8, 10)


class StatesWidths(GatedFFN):
    """An FFN that states widths like a projection does."""

    def __init__(self):
        super().__init__()
        self.in_features = self.out_features = HIDDEN


class WrappedEmbedding(nn.Module):
    """An embedding that is wrapped as in PEFT."""

    def __init__(self):
        super().__init__()
        self.in_features, self.out_features = 16, HIDDEN
        self.base_layer = nn.Embedding(16, HIDDEN)


def test_modules_that_state_widths_without_being_a_projection():
    assert not is_projection(StatesWidths())
    assert not is_projection(nn.Sequential(StatesWidths()))
    assert not is_projection(WrappedEmbedding())
    stacked = PackedLinear(nn.Linear(4, 4))
    stacked.weight = nn.Parameter(torch.zeros(3, 4, 4))
    assert not is_projection(stacked)
    assert sd.find_ffns(Net(StatesWidths))[0].width == WIDTH


def build_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, vocab_size=64
    )
    return LlamaForCausalLM(config)


def quantise_with_bitsandbytes(model):
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def replace(linear):
        packed = bitsandbytes.nn.Linear4bit(linear.in_features, linear.out_features, False, torch.float32)
        packed.weight = bitsandbytes.nn.Params4bit(linear.weight.detach(), requires_grad=False, quant_type="nf4")
        return packed.to("cpu")

    for layer in model.model.layers:
        replace_projections(layer.mlp, replace)


def quantise_with_quanto(model):
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(model, weights=quanto.qint4, exclude="lm_head")
    quanto.freeze(model)


def quantise_with_hqq(model):
    core = pytest.importorskip("hqq.core.quantize")
    config = core.BaseQuantizeConfig(nbits=4, group_size=64)

    def replace(linear):
        return core.HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu")

    for layer in model.model.layers:
        replace_projections(layer.mlp, replace)


def quantise_with_torchao(model):
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model.model, quantization.Int8WeightOnlyConfig())


def add_peft_adapter(model):
    peft = pytest.importorskip("peft")
    names = ["gate_proj", "up_proj", "down_proj"]
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False), model)


LIBRARIES = [
    quantise_with_bitsandbytes,
    quantise_with_quanto,
    quantise_with_hqq,
    quantise_with_torchao,
    add_peft_adapter,
]


@pytest.mark.parametrize("change", LIBRARIES)
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_real_libraries(change):
    """Run the real layers of a library. The test is skipped if the library is not installed."""
    model = build_llama()
    names = [f.names for f in sd.find_ffns(model)]
    change(model)
    model.eval()
    original = model(IDS).logits
    ffns = sd.find_ffns(model)
    assert [f.names for f in ffns] == names
    assert {(f.hidden, f.width, f.output_size) for f in ffns} == {(64, 128, 64)}
    for site in SITES:
        with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
            assert torch.equal(model(IDS).logits, original)
        with sd.sparsify(model, site, sd.TopP(0.5), ffns=ffns) as sparsifier:
            model(IDS)
        assert 0 < sparsifier.sparsity() < 1
