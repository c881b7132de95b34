"""Bottleneck adapters are left out of a model's FFNs, and narrow experts are not taken for adapters."""

import pytest
import torch

import sparsedial as sd
from sparsedial.cli.inspect_command import inspect
from sparsedial.ffn import SITES
from sparsedial.ffn.adapters import describe_adapters
from sparsedial.ffn.feed_forward import Adapter
from tests.support.adapters import (
    BOTTLENECK,
    Bottleneck,
    DirectAdapterLayer,
    NarrowSharedExpertLayer,
    ParallelAdapterLayer,
    ParameterRouterLayer,
    SequentialAdapterLayer,
    SharedExpertLayer,
    WrappedAdapterLayer,
)
from tests.support.expert_models import build_model
from tests.support.ffn_modules import HIDDEN, WIDTH, GatedFFN, ListedExperts, Net
from tools.tiny_models import build_tiny_model

IDS = torch.arange(6)[None]

# Layer with an adapter -> (path of its FFN, path of its adapter) in the layer.
ADAPTER_LAYERS = {
    SequentialAdapterLayer: ("mlp", "adapter"),
    ParallelAdapterLayer: ("mlp", "adapter"),
    DirectAdapterLayer: ("mlp", "adapter_up"),
    WrappedAdapterLayer: ("mlp.base", "mlp.adapters.english"),
}


@pytest.mark.parametrize("layer", ADAPTER_LAYERS)
@torch.no_grad()
def test_an_adapter_is_left_out_and_no_site_changes_it(layer):
    net = Net(layer, layer)
    ffn_path, adapter_path = ADAPTER_LAYERS[layer]
    ffns = sd.find_ffns(net)
    assert [(f.layer, f.name, f.width, f.expert) for f in ffns] == [
        (0, f"layers.0.{ffn_path}", WIDTH, None),
        (1, f"layers.1.{ffn_path}", WIDTH, None),
    ]
    assert not ffns.unsupported
    assert [a.name for a in ffns.adapters] == [f"layers.0.{adapter_path}", f"layers.1.{adapter_path}"]
    assert {(a.hidden, a.width, a.ffn_name) for a in ffns.adapters} == {
        (HIDDEN, BOTTLENECK, f"layers.0.{ffn_path}"),
        (HIDDEN, BOTTLENECK, f"layers.1.{ffn_path}"),
    }
    for site in SITES:
        with sd.sparsify(net, site, sd.TopP(0.5)) as sparsifier:
            net(IDS)
        assert set(sparsifier.stats()["module"]) == {f.name for f in ffns}


def test_an_adapter_can_be_selected_by_name():
    net = Net(SequentialAdapterLayer, SequentialAdapterLayer)
    ffns = sd.find_ffns(net)
    assert repr(ffns) == "FFNs(2 in 2 layers, 2 adapters left out)"
    (sentence,) = describe_adapters(ffns.adapters)
    assert sentence.startswith("layers.*.adapter × 2: seems to be an adapter, because its width of 3 is smaller than")
    assert sentence.endswith("--ffn 'up=layers.*.adapter.down' --ffn 'down=layers.*.adapter.up'")
    ffns = sd.find_ffns(net, modules={"up": "layers.*.adapter.down", "down": "layers.*.adapter.up"})
    assert [(f.layer, f.name, f.width) for f in ffns] == [
        (0, "layers.0.adapter", BOTTLENECK),
        (1, "layers.1.adapter", BOTTLENECK),
    ]
    with torch.no_grad(), sd.sparsify(net, "intermediate", sd.TopK(0.5), ffns=ffns, layers=[1]) as sparsifier:
        net(IDS)
    assert sparsifier.stats()["total"].sum() == 6 * BOTTLENECK


def test_adapters_of_several_kinds_are_described_apart():
    net = Net(SequentialAdapterLayer, ParallelAdapterLayer, WrappedAdapterLayer)
    sentences = list(describe_adapters(sd.find_ffns(net).adapters))
    assert [sentence.partition(":")[0] for sentence in sentences] == [
        "layers.*.adapter × 2",
        "layers.*.mlp.adapters.english × 1",
    ]


def test_only_a_few_kinds_of_adapters_are_described():
    names = {"up": "layers.0.adapters.{}.down", "down": "layers.0.adapters.{}.up"}
    adapters = []
    for language in ("de", "en", "fr", "ja", "sw"):
        paths = {role: path.format(language) for role, path in names.items()}
        adapters.append(Adapter(f"layers.0.adapters.{language}", paths, HIDDEN, BOTTLENECK, "layers.0.mlp"))
    sentences = list(describe_adapters(adapters))
    assert len(sentences) == 4
    assert sentences[-1] == "Other kinds of adapters that are not listed here: 2"


def test_inspect_names_the_adapters_that_are_left_out(tmp_path, capsys):
    build_tiny_model("xmod").save_pretrained(tmp_path)
    inspect(str(tmp_path), device="cpu", dtype="float32")
    output = " ".join(capsys.readouterr().out.split())
    assert "left out: roberta.encoder.layer.*.output.adapter_modules.en_XX × 2: seems to be an adapter" in output
    assert "--ffn 'up=roberta.encoder.layer.*.output.adapter_modules.en_XX.dense1'" in output


def test_the_language_adapters_of_xmod_are_left_out():
    model = build_tiny_model("xmod")
    ffns = sd.find_ffns(model)
    assert [(f.layer, f.name, f.expert) for f in ffns] == [
        (0, "roberta.encoder.layer.0", None),
        (1, "roberta.encoder.layer.1", None),
    ]
    assert [a.name for a in ffns.adapters] == [
        "roberta.encoder.layer.0.output.adapter_modules.en_XX",
        "roberta.encoder.layer.1.output.adapter_modules.en_XX",
    ]


@pytest.mark.parametrize("layer", [SharedExpertLayer, NarrowSharedExpertLayer, ParameterRouterLayer])
def test_experts_and_shared_experts_of_any_width_are_no_adapters(layer):
    ffns = sd.find_ffns(Net(layer, GatedFFN, layer))
    assert not ffns.adapters
    assert not ffns.unsupported
    for index in (0, 2):
        assert [f.expert for f in ffns if f.layer == index] == [None, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("model_type", ["gemma4_text", "qwen2_moe", "deepseek_v3"])
def test_narrow_stacked_experts_are_no_adapters(model_type):
    ffns = sd.find_ffns(build_model(model_type))
    assert not ffns.adapters
    assert any(f.stacked_module is not None and f.width < f.hidden for f in ffns)


def test_a_narrow_ffn_that_is_alone_in_its_layer_is_no_adapter():
    ffns = sd.find_ffns(Net(GatedFFN, Bottleneck, GatedFFN))
    assert [(f.layer, f.width) for f in ffns] == [(0, WIDTH), (1, BOTTLENECK), (2, WIDTH)]
    assert not ffns.adapters
    narrow_experts = ListedExperts(Bottleneck)
    assert [f.width for f in sd.find_ffns(Net(narrow_experts))] == [BOTTLENECK] * 4
