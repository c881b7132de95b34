"""Fixtures of the tests of mixture-of-experts layers."""

import pytest
import torch

from tests.support.expert_models import build_model


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run on one thread, because the models are too small for several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def qwen():
    """A tiny Qwen3 with two layers of four stacked experts, two of which are active."""
    return build_model("qwen3_moe")
