"""Rules inside of `torch.func` transforms, forward-mode differentiation and `torch.jit.trace`."""

import pytest
import torch
from torch.autograd import forward_ad

import sparsedial as sd
from sparsedial.rules import NOfM

# PyTorch itself uses torch.jit for derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

RULES = [sd.TopP(0.6), sd.TopK(0.5), sd.MaxP(0.2), NOfM(0.5), sd.TopP(1)]


@pytest.fixture
def x():
    """Random vectors, far from the points at which the kept set changes. One has zeros."""
    vectors = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    vectors[0, ::4] = 0
    return vectors


def direction_like(x):
    return torch.linspace(1, 2, x.numel(), dtype=x.dtype).view_as(x)


def gradient_of(rule, x, weight):
    """Return the gradient of a weighted sum by reverse-mode differentiation outside of any transform."""
    x = x.clone().requires_grad_()
    [gradient] = torch.autograd.grad((sd.apply_rule(x, rule)[0] * weight).sum(), x)
    return gradient


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dimension", [0, 1])
def test_vmap_equals_a_loop(rule, dimension, x):
    x = x.movedim(0, dimension).contiguous()
    y, kept = torch.func.vmap(lambda vector: sd.apply_rule(vector, rule), in_dims=dimension)(x)
    expected_y, expected_kept = sd.apply_rule(x.movedim(dimension, 0), rule)
    assert torch.equal(y, expected_y)
    assert torch.equal(kept, expected_kept)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_forward_mode_has_the_mask_of_reverse_mode(rule, x):
    direction = direction_like(x)
    expected = gradient_of(rule, x, direction)  # the mask times the direction
    y, tangent = torch.func.jvp(lambda x: sd.apply_rule(x, rule)[0], (x,), (direction,))
    assert torch.equal(y, sd.apply_rule(x, rule)[0])
    assert torch.equal(tangent, expected)
    with forward_ad.dual_level():
        dual = sd.apply_rule(forward_ad.make_dual(x, direction), rule)[0]
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, expected)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_functional_gradients_and_jacobians(rule, x):
    weight = direction_like(x)

    def weighted_sum(x, weight):
        return (sd.apply_rule(x, rule)[0] * weight).sum()

    expected = gradient_of(rule, x, weight)
    assert torch.equal(torch.func.grad(weighted_sum)(x, weight), expected)
    assert torch.equal(torch.func.vmap(torch.func.grad(weighted_sum))(x, weight), expected)
    jacobian = torch.func.jacrev(lambda x: sd.apply_rule(x, rule)[0])(x[1])
    assert torch.equal(jacobian, torch.func.jacfwd(lambda x: sd.apply_rule(x, rule)[0])(x[1]))


@pytest.mark.parametrize("rule", RULES[:3], ids=repr)
def test_a_traced_function_applies_the_rule_to_new_vectors(rule, x):
    traced = torch.jit.trace(lambda x: sd.apply_rule(x, rule)[0], (torch.ones_like(x),), check_trace=False)
    assert torch.equal(traced(x), sd.apply_rule(x, rule)[0])


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_lazily_negated_tensor_is_read_with_its_sign(rule, x):
    y, kept = sd.apply_rule(torch._neg_view(x), rule)
    expected_y, expected_kept = sd.apply_rule(-x, rule)
    assert torch.equal(y, expected_y)
    assert torch.equal(kept, expected_kept)
