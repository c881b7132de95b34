"""Gradient of `apply_rule`: that of ``y = m * x`` with a constant mask m."""

import pytest
import torch

import sparsedial as sd

RULES = [sd.TopP(0.6), sd.TopK(0.5), sd.MaxP(0.2)]
DENSE_RULES = [sd.TopP(1), sd.TopK(1), sd.MaxP(0)]


def vectors_with_zeros(dtype=torch.float64):
    """Random vectors, one of them with zeros and one of them zero."""
    x = torch.randn(4, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[0, ::2] = 0
    x[1] = 0
    return x.requires_grad_()


def gradient_of_sum(function, x):
    [gradient] = torch.autograd.grad(function(x).sum(), x)
    return gradient


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_kept_entries_pass_the_gradient_and_dropped_ones_get_none(rule):
    x = vectors_with_zeros()
    y, kept = sd.apply_rule(x, rule)
    [gradient] = torch.autograd.grad(y, x, torch.full_like(y, 3.0))
    assert not kept.requires_grad
    assert torch.equal(gradient[y != 0], torch.full_like(gradient[y != 0], 3.0))
    assert torch.equal((gradient != 0).sum(-1), kept.long())  # top-k may keep zeros
    assert gradient.unique().tolist() == [0, 3]


@pytest.mark.parametrize("rule", DENSE_RULES, ids=repr)
def test_the_dense_value_passes_the_whole_gradient(rule):
    x = vectors_with_zeros()
    assert (gradient_of_sum(lambda x: sd.apply_rule(x, rule)[0], x) == 1).all()


def test_the_lowest_zeros_are_kept_first():
    x = torch.tensor([0.0, 2.0, 0.0, 0.0], requires_grad=True)
    assert gradient_of_sum(lambda x: sd.apply_rule(x, sd.TopK(0.5))[0], x).tolist() == [1, 1, 0, 0]


def test_an_unchanged_vector_with_nan_passes_the_gradient():
    x = torch.tensor([[torch.nan, 0.0, 1.0], [3.0, 1.0, 1.0]], requires_grad=True)
    assert gradient_of_sum(lambda x: sd.apply_rule(x, sd.TopP(0.5))[0], x).tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_first_and_second_derivatives_agree_with_finite_differences(rule):
    """The vectors are far from the points at which the kept set changes."""
    x = torch.tensor([[4.0, -3.0, 0.5, 0.1], [0.2, 1.0, -2.0, 5.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def function(x, weight):
        return (sd.apply_rule(x * x, rule)[0] @ weight).tanh()

    assert torch.autograd.gradcheck(function, (x, weight))
    assert torch.autograd.gradgradcheck(function, (x, weight))


@pytest.mark.parametrize("rule", [*RULES, *DENSE_RULES], ids=repr)
def test_compiled_code_has_the_same_gradient(rule):
    torch._dynamo.reset()
    x = vectors_with_zeros()

    def function(x):
        return sd.apply_rule(2 * x, rule)[0].square()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(gradient_of_sum(compiled, x), gradient_of_sum(function, x))


def test_no_graph_is_built_without_gradients():
    x = vectors_with_zeros()
    with torch.no_grad():
        assert not sd.apply_rule(x, sd.TopP(0.5))[0].requires_grad
    with torch.inference_mode():
        assert not sd.apply_rule(x, sd.TopP(0.5))[0].requires_grad
    assert sd.apply_rule(x.detach(), sd.TopP(0.5))[0].grad_fn is None
