"""What happens at the end of a forward: success, exceptions and Ctrl-C."""

import pytest
import torch
from torch import nn

import sparsedial as sd
from tests.support.hooks import count_hooks

pytestmark = pytest.mark.usefixtures("fast_decode")


def test_an_exception_leaves_no_trace(llama, tokens):
    sparsifier = sd.sparsify(llama, "all_inputs", sd.TopP(0.5))
    with pytest.raises(IndexError), torch.no_grad(), sparsifier:
        llama(tokens)
        llama(torch.full((1, 3), 1000))  # larger than the vocabulary
    assert count_hooks(llama) == 0
    # The forward that finished is counted, and the one that failed is not.
    assert set(sparsifier.stats()["total"]) == {48 * 32, 48 * 80}
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.5)):
        pass


def test_ctrl_c_does_not_change_the_next_forward(own_llama, tokens):
    """PyTorch calls no hook at the end of the interrupted forward."""
    down = own_llama.model.layers[1].mlp.down_proj
    mask = torch.ones_like(tokens)
    mask[:, :3] = 0
    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(0.8)) as expected:
        own_llama(tokens)

    def interrupt(*_):
        raise KeyboardInterrupt

    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(0.8)) as sparsifier:
        handle = down.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_llama(tokens, attention_mask=mask)
        handle.remove()
        own_llama(tokens)
    assert sparsifier.stats().equals(expected.stats())


@pytest.mark.parametrize("length", [1, 6])
def test_an_interrupted_forward_is_not_counted_if_the_sparsifier_is_removed(own_llama, tokens, length):
    def interrupt(*_):
        raise KeyboardInterrupt

    sparsifier = sd.sparsify(own_llama, "input", sd.TopP(0.8))
    with torch.no_grad(), sparsifier:
        own_llama(tokens[:1, :length])
        handle = own_llama.model.layers[2].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_llama(tokens[:1, :length])
        handle.remove()
    with torch.no_grad(), sparsifier, sparsifier.observe(step=7):
        own_llama(tokens[:1, :length])
    table = sparsifier.stats()
    assert set(table["total"]) == {length * 32} and len(table) == 6  # 3 layers, without a step and with one


def test_forwards_in_different_gradient_modes_and_of_the_inner_model_are_counted(llama, tokens):
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as sparsifier:
        with torch.inference_mode():
            llama(tokens)
        with torch.no_grad():
            llama(tokens)
        llama.model(tokens)  # the inner model alone
    assert set(sparsifier.stats()["total"]) == {3 * 48 * 32, 3 * 48 * 80}


def test_a_model_may_be_called_with_a_list():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.up = nn.Linear(8, 16)
            self.down = nn.Linear(16, 8)

        def forward(self, input_ids):
            return self.down(torch.relu(self.up(self.embed(torch.as_tensor(input_ids)))))

    model = Model()
    with torch.no_grad(), sd.sparsify(model, "intermediate", sd.TopK(0.5)) as sparsifier:
        model([[3]])
        model([[3, 4]])
    assert sparsifier.stats()["total"].tolist() == [3 * 16]
