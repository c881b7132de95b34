"""Parameters that are stored more than once count once."""

import copy

import pytest
import torch

from sparsedial.models.parameter_count import count_parameters, format_parameter_count
from tests.support.packed_modules import replace_projections, subclass_linear


def test_an_untied_model_counts_both_embeddings(llama):
    assert count_parameters(llama) == sum(parameter.numel() for parameter in llama.parameters())


def test_a_tied_model_counts_one_embedding(own_llama):
    untied = count_parameters(own_llama)
    own_llama.lm_head.weight = own_llama.model.embed_tokens.weight
    assert count_parameters(own_llama) == untied - 96 * 32


def test_parameters_that_share_memory_count_once(own_llama):
    untied = count_parameters(own_llama)
    own_llama.lm_head.weight = torch.nn.Parameter(own_llama.model.embed_tokens.weight.data)
    assert count_parameters(own_llama) == untied - 96 * 32


def test_an_equal_output_layer_counts_once_and_a_similar_one_twice(own_llama):
    untied = count_parameters(own_llama)
    own_llama.lm_head.weight.data = own_llama.model.embed_tokens.weight.data.clone()
    assert count_parameters(own_llama) == untied - 96 * 32
    own_llama.lm_head.weight.data[1, 1] += 0.1
    assert count_parameters(own_llama) == untied
    assert count_parameters(own_llama, tolerance=0.5) == untied - 96 * 32


def test_quantised_tensors_are_counted(own_llama):
    """They have no address of their own, and cannot be compared."""
    size = count_parameters(own_llama)
    for layer in own_llama.model.layers:
        replace_projections(layer.mlp, subclass_linear)
    own_llama.lm_head = subclass_linear(own_llama.lm_head)
    assert count_parameters(own_llama) == size


def test_a_packed_output_layer_is_not_compared(own_llama):
    del own_llama.lm_head.weight
    own_llama.lm_head.weight = lambda: None  # as in the dynamically quantised layers of torch
    assert count_parameters(own_llama) > 0


def test_offloaded_parameters_are_counted(llama):
    assert count_parameters(copy.deepcopy(llama).to("meta")) == count_parameters(llama)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (1000, "1.0 K"), (99_999, "100.0 K"), (100_000, "0.1 M"), (422_336, "0.4 M"),
        (494_032_768, "494.0 M"), (999_960_000, "1.00 B"), (1_543_714_304, "1.54 B"), (70_553_706_496, "70.55 B"),
    ],
)  # fmt: skip
def test_counts_have_a_unit(count, text):
    assert format_parameter_count(count) == text
