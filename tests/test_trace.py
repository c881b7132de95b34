"""What the trace says of what a projection read, and that it leaves the model alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from sparsedial.trace import Part, input_width, is_projection, min_output, trace, watching

D, W = 4, 6


class Probe(nn.Module):
    """``down`` reads whatever ``make`` makes of what ``a`` and ``b`` put out; ``c`` is a parameter."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.down = nn.Linear(D, W), nn.Linear(D, W), nn.Linear(W, D)
        self.c, self.make = nn.Parameter(torch.randn(W)), make

    def forward(self, x):
        return self.down(self.make(self, self.a(x), self.b(x)))


def read(make, x=None):
    """The call of ``down``, and the model."""
    model = Probe(make).eval()
    reads = trace(model, {"x": torch.randn(2, 3, D) if x is None else x})
    assert [r.module for r in reads] == [model.a, model.b, model.down]
    return reads[-1], model


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
    make, parts, bends = ELEMENTWISE[name]
    call, model = read(make)
    i = call.expression
    assert {p.module for p in i.parts} == {getattr(model, p) for p in parts}
    assert all(p.whole for p in i.parts)
    assert i.bends == bends
    if name != "weight per token":
        a, b = torch.randn(2, 3, W), torch.randn(2, 3, W)
        values = {p: (a if p.module is model.a else b).clone() for p in i.parts}
        kept = {p: v.clone() for p, v in values.items()}
        with torch.no_grad():
            expected = make(model, a.clone(), b.clone())
            torch.testing.assert_close(i(values).reshape(expected.shape), expected)
        assert all(torch.equal(values[p], kept[p]) for p in values)  # not written into


FORGOTTEN = {
    "softmax": lambda m, a, b: F.relu(a).softmax(-1),
    "layer norm": lambda m, a, b: F.layer_norm(a, (W,)),
    "attention": lambda m, a, b: F.scaled_dot_product_attention(a, b, F.relu(b)),
    "roll over the tokens": lambda m, a, b: F.relu(a).roll(1, 1) * b,
    "cumulative sum": lambda m, a, b: F.relu(a).cumsum(-1) * b,
    "a product with something else": lambda m, a, b: F.relu(a) * torch.rand(2, 3, W),
    "matrix product": lambda m, a, b: F.relu(a) @ m.c.diag(),
    "some tokens only": lambda m, a, b: F.relu(a[:, 1:]),
    "turned round": lambda m, a, b: F.relu(a.view(2, 3, 2, 3).transpose(2, 3)).reshape(2, 3, W),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_everything_else_is_forgotten(name):
    assert read(FORGOTTEN[name])[0].expression is None


def test_overwriting_an_expression_forgets_it():
    def fill(model, a, b):
        c = F.relu(a)
        c.copy_(torch.rand(2, 3, W))
        return c

    assert read(fill)[0].expression is None


@pytest.mark.parametrize(
    ("take", "start", "step"),
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
def test_a_slice_is_a_part(take, start, step):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.down = nn.Linear(D, 2 * W), nn.Linear(W, D)

        def forward(self, x):
            return self.down(F.relu(take(self.both(x))))

    net = Net()
    call = trace(net, {"x": torch.randn(2, 3, D)})[-1]
    (part,) = call.expression.parts
    assert (part.module, part.start, part.step, part.width, part.whole) == (net.both, start, step, W, False)
    output = net.both(torch.randn(2, 3, D))
    assert torch.equal(output[..., part.start : part.start + part.step * part.width : part.step], take(output))


def test_readers_of_one_tensor_share_its_identity():
    model = Probe(lambda m, a, b: a * b)
    a, b, down = trace(model, {"x": torch.randn(1, 5, D)})
    assert a.source == b.source != down.source


def test_picked_rows_and_activated_outputs_are_marked():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.expert = nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x):
            return torch.sigmoid(self.gate(x)) * self.expert(x[torch.tensor([1, 0])].view(-1, D)).view(x.shape)

    gate, expert = trace(Net(), {"x": torch.randn(2, 3, D)})
    assert (gate.picked, gate.activated) == (False, True)
    assert (expert.picked, expert.activated) == (True, False)


def test_what_a_projection_is():
    assert (
        is_projection(nn.Linear(3, 5)) and is_projection(Conv1D(5, 3)) and is_projection(nn.Bilinear(2, 2, 2)) is False
    )
    assert not any(
        map(is_projection, (nn.Embedding(3, 5), nn.LayerNorm(3), nn.Conv1d(2, 2, 1), nn.ReLU(), Probe(None)))
    )
    for module in (nn.Linear(3, 5), Conv1D(5, 3)):
        assert (input_width(module), min_output(module)) == (3, 5)
        assert Part(module, 0, 1, 5).whole


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    def make(model, a, b):
        assert watching() and not model.training and not torch.is_grad_enabled()
        if fails:
            raise RuntimeError("no")
        return a

    model = Probe(make).train()
    model.b.eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="no"):
            trace(model, {}, torch.randn(1, D))
    else:
        trace(model, {}, torch.randn(1, D))
    assert not watching()
    assert torch.is_grad_enabled()
    assert (model.training, model.a.training, model.b.training) == (True, True, False)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
