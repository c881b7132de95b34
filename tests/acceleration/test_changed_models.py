"""What an accelerated model computes after something else has changed it, and what it refuses."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

import sparsedial as sd
from sparsedial.acceleration import kernel_attachment
from sparsedial.errors import AttachError, ModelError

ALL = sd.TopP(1.0)
TOKENS = [torch.arange(1, 5)[None], torch.arange(1, 21)[None]]  # a decode step and a prefill
SITE_PAIRS = [("input", "intermediate"), ("intermediate", "input"), ("up", "input")]


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def assign_state(model, other):
    model.load_state_dict({name: tensor.clone() for name, tensor in other.state_dict().items()}, assign=True)


def replace_data(model, other):
    for parameter, new in zip(model.parameters(), other.parameters(), strict=True):
        parameter.data = new.detach().clone()


def change_in_place(model, other):
    model.load_state_dict(other.state_dict())


@pytest.mark.parametrize("ids", TOKENS, ids=["decode", "prefill"])
@pytest.mark.parametrize("change", [assign_state, replace_data, change_in_place])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_weights_that_were_replaced_are_used(make_model, kind, change, ids):
    model = make_model(kind)
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        parameter.data = torch.randn_like(parameter) / 4
    with sd.accelerate(model, "all_inputs", ALL) as fast:
        logits(fast, ids)
        change(model, other)
        torch.testing.assert_close(logits(fast, ids), logits(other, ids), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(model, ids), logits(other, ids))


@pytest.mark.parametrize("site", ["input", "gate", "all_inputs"])
def test_replaced_weights_have_the_rule(make_model, site):
    model, other = make_model(), make_model()
    other.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()})
    with sd.accelerate(model, site, sd.TopP(0.6)) as fast:
        assign_state(model, other)
        changed = logits(fast, TOKENS[0])
    with sd.sparsify(other, site, sd.TopP(0.6)):
        torch.testing.assert_close(changed, logits(other, TOKENS[0]), rtol=1e-4, atol=1e-4)


def test_a_compiled_step_uses_replaced_weights(make_model):
    model, other = make_model(), make_model()
    other.load_state_dict({name: tensor * 1.5 for name, tensor in model.state_dict().items()})
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6)) as fast:
        compiled = torch.compile(fast, backend="eager")
        logits(compiled, TOKENS[0])
        replace_data(model, other)
        changed = logits(compiled, TOKENS[0])
    with sd.sparsify(other, "all_inputs", sd.TopP(0.6)):
        torch.testing.assert_close(changed, logits(other, TOKENS[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["up_proj", "down_proj", "act_fn"])
@pytest.mark.parametrize("ids", TOKENS, ids=["decode", "prefill"])
def test_a_module_that_was_replaced_is_called(make_model, name, ids):
    model = make_model()
    other = copy.deepcopy(model)
    with sd.accelerate(model, "all_inputs", ALL) as fast:
        for changed in (model, other):
            for layer in changed.model.layers:
                torch.manual_seed(2)
                old = getattr(layer.mlp, name)
                new = nn.Linear(old.in_features, old.out_features) if isinstance(old, nn.Linear) else nn.ReLU()
                setattr(layer.mlp, name, new)
        torch.testing.assert_close(logits(fast, ids), logits(other, ids), rtol=1e-4, atol=1e-4)


class MlpWithDropout(LlamaMLP):
    def __init__(self, config):
        super().__init__(config)
        self.drop = nn.Dropout(0.9)

    def forward(self, x):
        return self.drop(super().forward(x))


def test_dropout_in_an_ffn_is_applied_in_training_mode(make_model):
    model = make_model()
    for layer in model.model.layers:
        layer.mlp = MlpWithDropout(model.config)
    model.eval()
    dense = logits(model, TOKENS[0])
    with sd.accelerate(model, "all_inputs", ALL) as fast:
        torch.testing.assert_close(logits(fast, TOKENS[0]), dense, rtol=1e-4, atol=1e-4)
        fast.train()
        assert not torch.allclose(logits(fast, TOKENS[0]), dense, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("first", [sd.accelerate, sd.sparsify])
@pytest.mark.parametrize("sites", SITE_PAIRS)
def test_an_ffn_that_has_a_rule_already_is_refused(make_model, first, sites):
    model = make_model()
    dense = logits(model, TOKENS[0])
    with first(model, sites[0], sd.TopP(0.5)):
        sparse = logits(model, TOKENS[0])
        with pytest.raises(AttachError, match="sparsified or accelerated already"):
            sd.accelerate(model, sites[1], sd.TopP(0.4))
        assert torch.equal(logits(model, TOKENS[0]), sparse)
    assert torch.equal(logits(model, TOKENS[0]), dense)
    with sd.accelerate(model, sites[1], sd.TopP(0.4)):
        pass


def test_a_model_may_be_sparsified_after_it_was_accelerated(make_model):
    model = make_model()
    with sd.sparsify(model, "input", sd.TopP(0.5)), sd.sparsify(model, "intermediate", sd.TopP(0.4)):
        both = logits(model, TOKENS[0])
    with sd.accelerate(model, "input", sd.TopP(0.5)) as fast, sd.sparsify(model, "intermediate", sd.TopP(0.4)):
        torch.testing.assert_close(logits(model, TOKENS[0]), both, rtol=1e-4, atol=1e-4)
        fast.restore()
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize(("site", "inner"), [("up", "gate"), ("gate", "up")])
def test_a_vector_that_is_not_computed_completely_cannot_be_sparsified(make_model, site, inner):
    model = make_model()
    message = f"accelerated at a site that skips entries of {inner}"
    with sd.accelerate(model, site, sd.TopP(0.6)) as fast, pytest.raises(AttachError, match=message):
        sd.sparsify(fast, inner, sd.TopP(0.6)).__enter__()
    with sd.sparsify(model, inner, sd.TopP(0.6)):
        assert torch.isfinite(logits(model, TOKENS[0])).all()


def test_an_acceleration_that_fails_leaves_the_vectors_free(make_model, monkeypatch):
    def fail(_):
        raise KeyboardInterrupt

    model = make_model()
    monkeypatch.setattr(kernel_attachment, "LimitTable", fail)
    with pytest.raises(KeyboardInterrupt):
        sd.accelerate(model, "all_inputs", ALL)
    monkeypatch.undo()
    with sd.accelerate(model, "all_inputs", ALL) as fast:
        logits(fast, TOKENS[0])
        assert fast.report().calls > 0


@pytest.mark.parametrize("register", [
    torch.nn.modules.module.register_module_forward_hook, torch.nn.modules.module.register_module_forward_pre_hook,
])  # fmt: skip
def test_hooks_of_all_modules_see_the_modules_of_an_ffn(make_model, register):
    called = set()
    with sd.accelerate(make_model(), "all_inputs", ALL) as fast:
        expected = logits(fast, TOKENS[0])
        handle = register(lambda module, *_: called.add(module))
        try:
            seen = logits(fast, TOKENS[0])
        finally:
            handle.remove()
        mlp = fast.model.layers[0].mlp
        assert {mlp.up_proj, mlp.gate_proj, mlp.act_fn, mlp.down_proj} <= called
    torch.testing.assert_close(seen, expected)


def test_weights_have_the_names_of_the_model(make_model):
    model = make_model()
    names = list(model.state_dict())
    with sd.accelerate(model, "all_inputs", ALL) as fast:
        assert list(fast.state_dict()) == names
        assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
        before = logits(fast, TOKENS[0])
        fast.load_state_dict({name: tensor * 1.5 for name, tensor in fast.state_dict().items()})
        changed = logits(fast, TOKENS[0])
        assert not torch.equal(changed, before)
    torch.testing.assert_close(logits(model, TOKENS[0]), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ids", TOKENS, ids=["decode", "prefill"])
def test_weights_get_gradients_also_if_their_input_needs_none(make_model, ids):
    model = make_model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("mlp" in name)
    with sd.accelerate(model, "all_inputs", ALL, prefill="sparse"):
        model(ids).logits.sum().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert got == {name for name, parameter in model.named_parameters() if "mlp" in name}


@pytest.mark.parametrize("site", ["input", "gate", "all_inputs"])
def test_autocast_decides_the_dtype(make_model, site):
    model = make_model()
    mlp = model.model.layers[0].mlp
    x = torch.randn(1, 2, model.config.hidden_size)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        with sd.sparsify(model, site, sd.TopP(0.6)):
            expected = mlp(x)
        with sd.accelerate(model, site, sd.TopP(0.6)):
            assert mlp(x).dtype is torch.bfloat16
            torch.testing.assert_close(mlp(x), expected)


def test_a_vector_that_was_changed_in_place_is_read_again(make_model):
    model = make_model()
    mlp = model.model.layers[0].mlp
    x = torch.randn(1, 1, model.config.hidden_size)
    with torch.no_grad(), sd.accelerate(model, "all_inputs", ALL):
        mlp.gate_proj(x)
        x.mul_(2)
        torch.testing.assert_close(mlp.up_proj(x), x @ mlp.up_proj.weight.T)


def test_the_report_of_a_restored_model_has_the_last_counts(make_model):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        logits(fast, TOKENS[0])
        before = fast.report()
    after = fast.report()
    assert (after.calls, after.bytes_read) == (before.calls, before.bytes_read)
    fast.restore()
    assert fast.report().calls == before.calls > 0


@pytest.mark.parametrize("model", [None, "smollm2-135m", 42])
def test_something_else_than_a_model_is_refused(model):
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module"):
        sd.accelerate(model, "input", sd.TopP(0.5))
