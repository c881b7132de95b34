"""Training while a sparsifier is attached: gradients of the inputs and of all parameters."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsedial as sd
from sparsedial.ffn.feed_forward import SITES
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model
from tests.support.transformed_calls import apply_negated, apply_trace, apply_vmap

MODELS = ("llama", "phi3", "gpt2", "listed", "grouped_mm", "batched_mm", "eager")
PLAIN = ("gpt2", "listed")
CASES = [(name, site) for name in MODELS for site in SITES if name not in PLAIN or site != "gate"]
FLOAT64_CASES = [(name, site) for name, site in CASES if name != "grouped_mm"]


@pytest.fixture
def model(request):
    """A copy of a small model whose parameters require gradients."""
    if request.param == "listed":
        return ListedExpertsModel(GATHERS["index"])
    if request.param in ("grouped_mm", "batched_mm", "eager"):
        experts = build_model("qwen3_moe")
        experts.set_experts_implementation(request.param)
        return experts
    return copy.deepcopy(request.getfixturevalue(request.param))


def parameter_gradients(model, tokens):
    """Return the gradients of a loss by the name of the parameter."""
    model.zero_grad(set_to_none=True)
    output = model(tokens)
    logits = getattr(output, "logits", output)
    logits.float().square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_equal_gradients(actual, expected):
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(actual[name], gradient), name


@pytest.fixture
def deterministic_sums():
    """Let the backward passes of indexing add in a fixed order, whatever the threads do."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("model", "site"), CASES, indirect=["model"])
@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.usefixtures("deterministic_sums")
def test_at_the_dense_value_all_gradients_are_those_of_the_dense_model(model, site, is_autocast, tokens):
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        dense = parameter_gradients(model, tokens)
        with sd.sparsify(model, site, sd.TopP(1)):
            assert_equal_gradients(parameter_gradients(model, tokens), dense)
        with sd.sparsify(model, site, sd.TopP(0.5)):
            sparse = parameter_gradients(model, tokens)
    assert any(not torch.equal(sparse[name], dense[name]) for name in dense)
    assert all(gradient.isfinite().all() for gradient in sparse.values())


def make_layer_function(model):
    """Return a function of hidden states that runs the first feed-forward layer, without norms, which are float32."""
    experts = [module for module in model.modules() if hasattr(module, "_apply_gate")]
    if experts:
        index = torch.tensor([[0, 2], [2, 1], [3, 0]])
        weights = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
        return lambda x: experts[0](x, index, weights)
    for layers in ("model.layers", "transformer.h"):
        if layers.split(".")[0] in model._modules:
            return model.get_submodule(layers)[0].mlp
    return model.layers[0]


@pytest.mark.parametrize(("model", "site"), FLOAT64_CASES, indirect=["model"])
def test_gradients_agree_with_finite_differences_while_the_kept_sets_are_fixed(model, site):
    model = model.double().eval()
    ffn = sd.find_ffns(model)[0]
    run = make_layer_function(model)
    x = torch.randn(3, ffn.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with sd.sparsify(model, site, sd.TopK(0.5), layers=[0]) as sparsifier:
        with torch.no_grad():
            assert not torch.equal(run(x), torch.zeros_like(x))
        assert torch.autograd.gradcheck(lambda x: run(x).tanh(), x, fast_mode=True)
        for parameter in ffn.down.parameters():
            gradient = torch.autograd.grad(run(x).square().sum(), parameter)[0]
            direction = torch.randn_like(parameter)
            assert abs((gradient * direction).sum() - slope(run, x, parameter, direction)) < 1e-6
    assert sparsifier.sparsity() > 0.4


def slope(run, x, parameter, direction, step=1e-6):
    """Return the directional derivative of the sum of squares by a parameter, from two values."""
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            parameter.add_(sign * step * direction)
            values.append(run(x).square().sum())
            parameter.sub_(sign * step * direction)
    return (values[0] - values[1]) / (2 * step)


def run_checkpointed(forward, use_reentrant, hidden_states, **arguments):
    return checkpoint(lambda x: forward(x, **arguments), hidden_states, use_reentrant=use_reentrant)


@pytest.mark.parametrize("site", ["all_inputs", "gate"])
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("p", [1, 0.5])
def test_gradient_checkpointing_changes_neither_gradients_nor_counts(own_llama, tokens, site, use_reentrant, p):
    model = own_llama.train()
    model.config.use_cache = False  # the repeated forward would add to the cache again
    ffns = sd.find_ffns(model)
    with sd.sparsify(model, site, sd.TopP(p), ffns=ffns) as expected:
        gradients = parameter_gradients(model, tokens)
    for layer in model.model.layers:
        layer.forward = partial(run_checkpointed, layer.forward, use_reentrant)
    dense = parameter_gradients(model, tokens)
    with sd.sparsify(model, site, sd.TopP(p), ffns=ffns) as sparsifier:
        checkpointed = parameter_gradients(model, tokens)
    if p == 1:
        assert_equal_gradients(checkpointed, dense)
    for name, gradient in gradients.items():  # a reentrant checkpoint adds them up in another order
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-4, atol=1e-7)
    assert sparsifier.stats().equals(expected.stats())


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_model_that_is_checkpointed_as_a_whole_is_counted_once(own_llama, tokens, use_reentrant):
    embeddings = own_llama.get_input_embeddings()(tokens).detach().requires_grad_()

    def run(x):
        return own_llama(inputs_embeds=x, use_cache=False).logits

    with sd.sparsify(own_llama, "all_inputs", sd.TopP(0.5)) as expected:
        [gradient] = torch.autograd.grad(run(embeddings).square().mean(), embeddings)
    with sd.sparsify(own_llama, "all_inputs", sd.TopP(0.5)) as sparsifier:
        checkpoint(run, embeddings, use_reentrant=use_reentrant).square().mean().backward()
    assert torch.equal(embeddings.grad, gradient)
    assert sparsifier.stats().equals(expected.stats())


@pytest.mark.parametrize("site", SITES)
def test_a_single_token_with_gradients_does_not_take_the_fast_path(own_llama, tokens, site):
    """Its kernel would cut the graph."""
    token = tokens[:1, :1]
    with sd.sparsify(own_llama, site, sd.TopP(1)):
        with torch.no_grad():
            for _ in range(3):
                own_llama(token)  # prepares the fast path
        sparse = parameter_gradients(own_llama, token)
    assert_equal_gradients(sparse, parameter_gradients(own_llama, token))


@pytest.mark.slow
@pytest.mark.parametrize("site", ["input", "gate", "intermediate"])
def test_a_compiled_model_can_be_trained(own_llama, tokens, site):
    torch._dynamo.reset()
    with sd.sparsify(own_llama, site, sd.TopP(0.8)):
        expected = parameter_gradients(own_llama, tokens)
        compiled = torch.compile(own_llama, backend="aot_eager")
        logits = compiled(tokens).logits
    own_llama.zero_grad()
    logits.float().square().mean().backward()
    for name, parameter in own_llama.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_gradient_of_a_dropped_entry_is_zero():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(8, 4)
            self.up = nn.Linear(4, 4, bias=False)
            self.down = nn.Linear(4, 4, bias=False)
            self.up.weight.data = torch.eye(4)

        def forward(self, input_ids):
            return self.down(torch.relu(self.up(self.embed(input_ids))))

    model = Model()
    model.embed.weight.data[3] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    with sd.sparsify(model, "intermediate", sd.TopK(0.5)):
        model(torch.tensor([[3]])).sum().backward()
    assert (model.down.weight.grad.abs().sum(0) > 0).tolist() == [True, False, True, False]
    assert (model.embed.weight.grad[3] != 0).tolist() == [True, False, True, False]


@pytest.mark.parametrize("apply", [apply_vmap, apply_trace, apply_negated])
@pytest.mark.parametrize("site", ["all_inputs", "gate"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_transformed_ffn_applies_the_rule(llama, apply, site):
    model = copy.deepcopy(llama).requires_grad_(False)
    mlp = model.model.layers[0].mlp
    x = torch.randn(2, mlp.up_proj.in_features)
    with sd.sparsify(model, site, sd.TopP(0.6)):
        torch.testing.assert_close(apply(mlp, x), mlp(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("site", ["all_inputs", "up"])
def test_forward_mode_differentiation_agrees_with_finite_differences(llama, site):
    model = copy.deepcopy(llama).double().requires_grad_(False)
    mlp = model.model.layers[0].mlp
    x = torch.randn(2, mlp.up_proj.in_features, dtype=torch.float64)
    direction = torch.randn_like(x)
    with sd.sparsify(model, site, sd.TopP(0.6)):
        tangent = torch.func.jvp(mlp, (x,), (direction,))[1]
        difference = mlp(x + 1e-7 * direction) - mlp(x - 1e-7 * direction)
    torch.testing.assert_close(tangent, difference / 2e-7, rtol=1e-4, atol=1e-8)
