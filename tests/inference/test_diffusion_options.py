"""Settings of diffusion models, and how a prompt's sampling options change them."""

import pytest

from sparsedial.errors import SpecError, TaskError
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.generation import Prompt


@pytest.mark.parametrize("name", ["mc_samples", "reuse_mask"])
def test_numbers_below_one_are_an_error(name):
    with pytest.raises(SpecError, match=f"{name} 0: expected at least 1"):
        DiffusionOptions(**{name: 0})


def test_a_prompt_that_is_sampled_sets_the_temperature():
    options = DiffusionOptions(DenoisingConfig(steps=4))
    sampled = Prompt([5], (), 4, {"do_sample": True, "temperature": 0.7})
    assert options.denoising_for(sampled) == DenoisingConfig(steps=4, temperature=0.7)
    greedy = Prompt([5], (), 4, {"do_sample": False, "temperature": 0.7, "top_p": 0.9})
    assert options.denoising_for(greedy) == DenoisingConfig(steps=4)


def test_unsupported_sampling_options_are_an_error():
    prompt = Prompt([5, 6], (), 4, {"do_sample": True, "temperature": 0.7, "top_p": 0.9})
    with pytest.raises(TaskError, match="generation options top_p"):
        DiffusionOptions().denoising_for(prompt)


def test_the_json_form_is_stable():
    assert DiffusionOptions(DenoisingConfig(steps=4, block_length=2), mc_samples=8).to_json() == {
        "how": {"steps": 4, "block": 2, "remasking": "low_confidence", "temperature": 0.0, "guidance": 0.0},
        "mc_samples": 8,
        "reuse_mask": 1,
    }
