"""A model in memory is measured as it is, whatever made it, and is unchanged afterwards."""

import copy

import accelerate
import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

import sparsedial as sd
from sparsedial.errors import SparsedialError
from tests.conftest import DECODER
from tests.measurement.conftest import count_trials
from tests.support.packed_modules import BufferLinear, LowRankLinear, PackedLinear, replace_projections, subclass_linear


def points(result):
    return result.points[["site", "p", "sparsity", "score"]].round(6)


@pytest.fixture(scope="module")
def expected(llama):
    from tests.measurement.conftest import SMALL

    return points(sd.measure(llama, **SMALL))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_dtype(own_llama, small, dtype):
    result = sd.measure(own_llama.to(dtype), **small)
    (model,) = result.results.provenance["models"].values()
    assert model["dtype"] == str(dtype).removeprefix("torch.")


def compile_whole(model):
    return torch.compile(model, backend="eager")


def compile_in_place(model):
    model.compile(backend="eager")
    model(torch.tensor([[3, 4, 5]]))  # compiled before the call
    return model


def compile_layers(model):
    for index, layer in enumerate(model.model.layers):
        model.model.layers[index] = torch.compile(layer, backend="eager")
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(compile_whole, marks=pytest.mark.slow),
        pytest.param(compile_in_place, marks=pytest.mark.slow),
        compile_layers,
    ],
)
def test_compiled_models_have_the_trials_of_the_model_itself(own_llama, small, expected, compiled, tmp_path):
    torch.compiler.reset()
    plain = copy.deepcopy(own_llama)
    result = sd.measure(compiled(own_llama), **small, out=tmp_path)
    assert points(result).equals(expected)
    assert set(result.critical["model"]) == {"LlamaForCausalLM"}
    first = count_trials(tmp_path)
    sd.measure(plain, **small, out=tmp_path)
    layers_are_renamed = compiled is compile_layers  # the paths of its FFNs are part of the keys of sparse trials
    assert count_trials(tmp_path) == first + (2 if layers_are_renamed else 0)


@pytest.mark.parametrize("device", ["cpu", "disk"])
def test_models_that_accelerate_has_dispatched(own_llama, small, expected, device, tmp_path):
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{index}": "cpu" if index == 0 else device for index in range(3)}
    out = tmp_path / "out"
    sd.measure(own_llama, **small, out=out)
    dispatched = accelerate.dispatch_model(
        own_llama, places, main_device="cpu", offload_dir=tmp_path / "weights", force_hooks=True
    )
    result = sd.measure(dispatched, **small, out=out)
    assert points(result).equals(expected)
    assert count_trials(out) == 3  # the device of a weight is not part of the key
    offloaded = [name for name, parameter in dispatched.named_parameters() if parameter.is_meta]
    assert bool(offloaded) == (device == "disk")


def test_unmerged_adapters_are_measured_and_part_of_the_key(own_llama, small, tmp_path):
    torch.manual_seed(1)
    for layer in own_llama.model.layers:
        replace_projections(layer.mlp, LowRankLinear)
    result = sd.measure(own_llama, **small, out=tmp_path)
    assert len(result.layers) == 3
    sd.measure(own_llama, **small, out=tmp_path)
    assert count_trials(tmp_path) == 3
    own_llama.model.layers[0].mlp.up_proj.lora_B["default"].weight.data[0, 0] += 1
    sd.measure(own_llama, **small, out=tmp_path)
    assert count_trials(tmp_path) == 6


@pytest.mark.parametrize("pack", [PackedLinear, pytest.param(BufferLinear, marks=pytest.mark.slow), subclass_linear])
def test_packed_weights(own_llama, small, pack, tmp_path):
    size = sum(parameter.numel() for parameter in own_llama.parameters())
    for layer in own_llama.model.layers:
        replace_projections(layer.mlp, pack)
    result = sd.measure(own_llama, **small, out=tmp_path)
    assert len(result.layers) == 3
    sd.measure(own_llama, **small, out=tmp_path)
    assert count_trials(tmp_path) == 3
    if pack is subclass_linear:  # the others do not say how many weights they hold
        assert result.critical["parameters"].tolist() == [size]


def test_a_vision_language_model_is_measured_in_its_language_part(small):
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(text_config=LlamaConfig(**DECODER), vision_config=vision, image_token_index=95)
    model = LlavaForConditionalGeneration(config)
    result = sd.measure(model, **small)
    assert len(result.layers) == 3  # those of the language model
    with pytest.raises(SparsedialError, match=r"without logits.*use the whole model"):
        sd.measure(model.model.language_model, **small)


def test_a_masked_diffusion_model_is_detected(masked_llama, small):
    small.pop("sequences")
    listener_lines = []
    result = sd.measure(masked_llama, **{**small, "progress": Lines(listener_lines)}, tasks="restoration", sequences=4)
    assert set(result.critical["metric"]) == {"expected_agreement"}
    assert any("masked-diffusion, float32" in line for line in listener_lines)


class Lines:
    """Listener that keeps the messages."""

    def __init__(self, lines):
        self.log = lines.append

    def set_total(self, finished, total):
        pass

    def set_current(self, description, finished, total):
        pass


def test_the_mode_and_the_hooks_of_a_model_are_kept(own_llama, small):
    calls = []
    own_llama.model.layers[0].mlp.register_forward_hook(lambda *_: calls.append("own hook"))
    own_llama.train()
    own_llama.model.layers[1].eval()
    modes = {name: module.training for name, module in own_llama.named_modules()}
    weights = copy.deepcopy(own_llama.state_dict())
    sd.measure(own_llama, **small)
    assert calls
    assert {name: module.training for name, module in own_llama.named_modules()} == modes
    assert all(torch.equal(weight, weights[name]) for name, weight in own_llama.state_dict().items())
    calls.clear()
    own_llama(input_ids=torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()  # it still trains
    assert calls and own_llama.model.layers[0].mlp.up_proj.weight.grad is not None


class FailingTask:
    """Task that fails when it is scored."""

    name = "failing"
    reuse_mask = 1

    def identity(self):
        return {"task": self.name, "version": 1}

    def prepare(self, lm, progress=None):
        return {}

    def score(self, lm, examples, sparsifier=None, progress=None):
        assert not lm.model.training
        raise RuntimeError("no score today")


def test_the_mode_is_restored_after_an_error(own_llama, small):
    own_llama.train()
    with pytest.raises(SparsedialError, match="no score today"):
        sd.measure(own_llama, sites="input", p=small["p"], tasks=FailingTask(), progress=False)
    assert all(module.training for module in own_llama.modules())


def test_what_the_first_forward_pass_creates_still_works_in_training(own_llama, small):
    class Lazy(nn.Linear):
        """Packs its weight at its first call, as layers of quantisation libraries do."""

        packed = None

        def forward(self, x):
            if self.packed is None:
                self.packed = self.weight.detach() * 1.0
            return x @ self.packed.T

    for layer in own_llama.model.layers:
        lazy = Lazy(32, 80, bias=False)
        lazy.load_state_dict(layer.mlp.up_proj.state_dict())
        layer.mlp.up_proj = lazy
    sd.measure(own_llama, **small)
    own_llama(input_ids=torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()
