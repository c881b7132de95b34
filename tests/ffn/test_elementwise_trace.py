"""The trace of projections: the expressions that they read, and that the model is left unchanged."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsedial.ffn.elementwise_trace import trace_projections
from sparsedial.tracing_state import is_tracing

D = 4  # Width of the input vector.
W = 6  # Width of the intermediate vector.


class Probe(nn.Module):
    """A model whose projection ``down`` reads a function of the outputs of projections ``a`` and ``b``.

    Args:
        function: Called with this model and the two outputs.

    Attributes:
        c: A parameter that the function may use.
    """

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.a = nn.Linear(D, W)
        self.b = nn.Linear(D, W)
        self.down = nn.Linear(W, D)
        self.c = nn.Parameter(torch.randn(W))
        self.function = function

    def forward(self, x):
        return self.down(self.function(self, self.a(x), self.b(x)))


def trace_down_projection(function):
    """Return the call of ``down``, and the model."""
    model = Probe(function).eval()
    calls = trace_projections(model, {"x": torch.randn(2, 3, D)})
    assert [call.module for call in calls] == [model.a, model.b, model.down]
    return calls[-1], model


ELEMENTWISE = {
    "activation": (lambda m, a, b: F.relu(a), "a", True),
    "product": (lambda m, a, b: F.silu(a) * b, "ab", True),
    "linear": (lambda m, a, b: a + 2 * b, "ab", False),
    "the projection itself": (lambda m, a, b: a, "a", False),
    "parameters": (lambda m, a, b: torch.tanh(a * m.c.exp()) + m.c, "a", True),
    "in place": (lambda m, a, b: F.relu(a, inplace=True).mul_(b), "ab", True),
    "dropout": (lambda m, a, b: F.dropout(F.gelu(a), 0.5, m.training), "a", True),
    "cast and back": (lambda m, a, b: F.silu(a.double()).float() * b, "ab", True),
    "contiguous": (lambda m, a, b: F.gelu(a).contiguous() * b.clone(), "ab", True),
    "flattened": (lambda m, a, b: F.gelu(a.reshape(-1, W)) * b.view(-1, W), "ab", True),
    "norm": (lambda m, a, b: F.relu(a) * torch.rsqrt(1 + F.relu(a).pow(2).mean(-1, keepdim=True)), "a", True),
    "weight per token": (lambda m, a, b: F.relu(a) * torch.rand(2, 3, 1), "a", True),
    "mask": (lambda m, a, b: a * (a > 0), "a", True),
    "where": (lambda m, a, b: torch.where(a > 0, a, 0.1 * a), "a", True),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations_are_followed_and_can_be_repeated(name):
    function, parts, is_nonlinear = ELEMENTWISE[name]
    call, model = trace_down_projection(function)
    i = call.expression
    assert {p.module for p in i.parts} == {getattr(model, p) for p in parts}
    assert all(p.whole for p in i.parts)
    assert i.is_nonlinear == is_nonlinear
    if name != "weight per token":
        a = torch.randn(2, 3, W)
        b = torch.randn(2, 3, W)
        values = {p: (a if p.module is model.a else b).clone() for p in i.parts}
        copies = {p: v.clone() for p, v in values.items()}
        with torch.no_grad():
            expected = function(model, a.clone(), b.clone())
            torch.testing.assert_close(i(values).reshape(expected.shape), expected)
        assert all(torch.equal(values[p], copies[p]) for p in values)  # The arguments are not modified.


NOT_ELEMENTWISE = {
    "softmax": lambda m, a, b: F.relu(a).softmax(-1),
    "layer norm": lambda m, a, b: F.layer_norm(a, (W,)),
    "attention": lambda m, a, b: F.scaled_dot_product_attention(a, b, F.relu(b)),
    "roll over the tokens": lambda m, a, b: F.relu(a).roll(1, 1) * b,
    "cumulative sum": lambda m, a, b: F.relu(a).cumsum(-1) * b,
    "a product with something else": lambda m, a, b: F.relu(a) * torch.rand(2, 3, W),
    "matrix product": lambda m, a, b: F.relu(a) @ m.c.diag(),
    "some tokens only": lambda m, a, b: F.relu(a[:, 1:]),
    "transposed": lambda m, a, b: F.relu(a.view(2, 3, 2, 3).transpose(2, 3)).reshape(2, 3, W),
}


@pytest.mark.parametrize("name", NOT_ELEMENTWISE)
def test_other_operations_have_no_expression(name):
    assert trace_down_projection(NOT_ELEMENTWISE[name])[0].expression is None


def test_an_overwritten_tensor_has_no_expression():
    def fill(model, a, b):
        c = F.relu(a)
        c.copy_(torch.rand(2, 3, W))
        return c

    assert trace_down_projection(fill)[0].expression is None


@pytest.mark.parametrize(
    ("split", "start", "step"),
    [
        (lambda h: h[..., :W], 0, 1),
        (lambda h: h[..., W:], W, 1),
        (lambda h: h.chunk(2, -1)[1], W, 1),
        (lambda h: h[..., ::2], 0, 2),
        (lambda h: h[..., 1::2], 1, 2),
        (lambda h: h.view(2, 3, 2, W)[..., 1, :], W, 1),
        (lambda h: h.unflatten(-1, (W, 2)).unbind(-1)[1], 1, 2),
        (lambda h: h.view(-1, 2 * W).split(W, -1)[1].view(2, 3, W), W, 1),
    ],
)
def test_a_view_is_a_slice_of_the_output(split, start, step):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Linear(D, 2 * W)
            self.down = nn.Linear(W, D)

        def forward(self, x):
            return self.down(F.relu(split(self.both(x))))

    net = Net()
    call = trace_projections(net, {"x": torch.randn(2, 3, D)})[-1]
    (part,) = call.expression.parts
    assert (part.module, part.start, part.step, part.width, part.whole) == (net.both, start, step, W, False)
    output = net.both(torch.randn(2, 3, D))
    assert torch.equal(part.select(output), split(output))


def test_projections_that_read_the_same_tensor_have_the_same_input_id():
    model = Probe(lambda m, a, b: a * b)
    a, b, down = trace_projections(model, {"x": torch.randn(1, 5, D)})
    assert a.input_id == b.input_id != down.input_id


def test_gathered_rows_and_activated_outputs_are_marked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(D, D)
            self.expert = nn.Linear(D, D)

        def forward(self, x):
            return torch.sigmoid(self.gate(x)) * self.expert(x[torch.tensor([1, 0])].view(-1, D)).view(x.shape)

    gate, expert = trace_projections(Net(), {"x": torch.randn(2, 3, D)})
    assert (gate.rows_gathered, gate.activated) == (False, True)
    assert (expert.rows_gathered, expert.activated) == (True, False)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_unchanged(fails):
    def function(model, a, b):
        assert is_tracing() and not model.training and not torch.is_grad_enabled()
        if fails:
            raise RuntimeError("no")
        return a

    model = Probe(function).train()
    model.b.eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            trace_projections(model, {}, torch.randn(1, D))
    else:
        trace_projections(model, {}, torch.randn(1, D))
    assert not is_tracing()
    assert torch.is_grad_enabled()
    assert (model.training, model.a.training, model.b.training) == (True, True, False)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
