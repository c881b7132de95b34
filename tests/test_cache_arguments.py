"""Names of the cache in the arguments and results of models."""

from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

import sparsedial as sd
from sparsedial.cache_arguments import cache_argument, find_cache, returned_cache
from tests.support.cache_name import CACHE


def test_the_name_is_that_of_the_signature():
    assert cache_argument(lambda input_ids, cache=None: None) == "cache"
    assert cache_argument(lambda input_ids, past_key_values=None: None) == "past_key_values"


def test_a_forward_that_shows_no_name_has_that_of_transformers():
    assert cache_argument(lambda *args, **kwargs: None) == CACHE


@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params", "mems", "layer_past", "a_later_name"])
def test_a_cache_is_found_by_each_of_its_names(name):
    cache = DynamicCache()
    assert find_cache({"input_ids": torch.zeros(1, 1), name: cache, "use_cache": True}) is cache


@pytest.mark.parametrize("arguments", [{}, {"cache": None}, {"cache": True}, {"use_cache": True}])
def test_there_may_be_no_cache(arguments):
    assert find_cache(arguments) is None


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_result_has_its_cache_under_either_name(name):
    assert returned_cache(SimpleNamespace(logits=0, **{name: 7})) == 7
    assert returned_cache(SimpleNamespace(logits=0)) is None


@pytest.mark.parametrize("name", sorted({CACHE, "past_key_values"}))
@pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning")  # from 5.24 on, the old name is deprecated
def test_the_phase_of_a_model_does_not_depend_on_the_name_of_its_cache(llama, name):
    tokens = torch.arange(1, 6)[None]
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopK(0.5)) as sparsifier:
        cache = returned_cache(llama(tokens, use_cache=True))
        llama(tokens[:, :1], **{name: cache})
    assert sparsifier.stats().set_index("phase")["tokens"].to_dict() == {"prefill": 5, "generation": 1}
