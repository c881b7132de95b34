"""Whether a cache holds tokens."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, LlamaConfig, StaticCache
from transformers.models.reformer.modeling_reformer import ReformerDynamicCache

from sparsedial.errors import SpecError
from sparsedial.hooks.cache_state import read_cache

STATES = torch.zeros(1, 1, 3, 4)


def filled(cache):
    cache.update(STATES, STATES, 0)
    return cache


def filled_reformer():
    cache = ReformerDynamicCache()
    cache.update(None, torch.zeros(1, 3, 4), 0)
    return cache


def reset(cache):
    cache.reset()
    return cache


def static_cache():
    config = LlamaConfig(hidden_size=4, num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1)
    return StaticCache(config, max_cache_len=8)


class RecurrentOnly:
    """A cache without an attention layer."""

    def __init__(self, has_state):
        self._has_state = has_state

    def get_seq_length(self):
        raise ValueError

    def has_previous_state(self):
        return self._has_state


CASES = {
    "dynamic, empty": (lambda: DynamicCache(), False, 0),
    "dynamic": (lambda: filled(DynamicCache()), True, 3),
    "static, empty": (static_cache, False, 0),
    "static": (lambda: filled(static_cache()), True, 3),
    "static, after reset": (lambda: reset(filled(static_cache())), False, 0),
    "encoder-decoder": (lambda: EncoderDecoderCache(filled(DynamicCache()), DynamicCache()), True, 3),
    "Reformer, empty": (lambda: ReformerDynamicCache(), False, 0),
    "Reformer": (filled_reformer, True, 3),
    "xLSTM, empty": (lambda: SimpleNamespace(seqlen_offset=torch.tensor([0])), False, 0),
    "xLSTM": (lambda: SimpleNamespace(seqlen_offset=torch.tensor([3])), True, 3),
    "recurrent, empty": (lambda: RecurrentOnly(False), False, None),
    "recurrent": (lambda: RecurrentOnly(True), True, None),
    "plain keys and values": (lambda: ((STATES, STATES),), True, None),
    "plain, empty": (lambda: [None], False, None),
    "a tensor": (lambda: STATES, True, None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_cache_says_whether_it_holds_tokens(name):
    make, is_filled, length = CASES[name]
    state = read_cache(make())
    assert (state.is_filled, state.length) == (is_filled, length)


def test_a_length_on_a_device_is_not_copied_to_the_host():
    state = read_cache(SimpleNamespace(seqlen_offset=torch.zeros((), dtype=torch.int64, device="meta")))
    assert state.length.device.type == state.is_filled.device.type == "meta"


def test_a_cache_that_does_not_say_so_is_an_error():
    with pytest.raises(SpecError, match=r"SimpleNamespace.*get_seq_length.*observe\(phase="):
        read_cache(SimpleNamespace())
