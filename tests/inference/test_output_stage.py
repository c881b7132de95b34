"""The part of a model after its last hidden state, evaluated alone, on every causal architecture of transformers."""

import pytest
import torch

from sparsedial.inference.output_stage import find_output_stage, last_hidden_state, record_base_models
from tools.tiny_models import build_tiny_model


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "gpt_neox", "gemma3_text", "phi", "falcon", "bloom", "mamba"])
def test_logits_of_single_positions_are_those_of_the_whole_model(architecture):
    torch.manual_seed(0)
    model = build_tiny_model(architecture).eval()
    inputs = torch.randint(3, 96, (2, 7))
    with torch.inference_mode():
        stage = find_output_stage(model, inputs[:1])
        with record_base_models(model) as outputs:
            logits = model(input_ids=inputs, use_cache=False).logits
        hidden = last_hidden_state(outputs[stage.base].pop())
        torch.testing.assert_close(stage.logits(model, hidden[1, [5, 2]]), logits[1, [5, 2]], rtol=1e-4, atol=1e-5)
        assert stage.is_divisible
        subset = torch.tensor([90, 3, 40])
        torch.testing.assert_close(stage.logits(model, hidden[0], subset), logits[0][:, subset], rtol=1e-4, atol=1e-5)
        assert torch.equal(model(input_ids=inputs, use_cache=False).logits, logits)  # the model is as before


def test_a_model_whose_logits_do_not_come_from_the_base_model_alone_has_no_stage(own_llama):
    embedding = own_llama.model.embed_tokens

    class Mixed(type(own_llama)):
        """Adds a term to the logits that depends on the input."""

        def forward(self, input_ids, **arguments):
            output = super().forward(input_ids=input_ids, **arguments)
            output.logits = output.logits + embedding(input_ids).sum(-1, keepdim=True)
            return output

    own_llama.__class__ = Mixed
    assert find_output_stage(own_llama, torch.arange(3, 9)[None]) is None


def test_the_logits_of_single_tokens_are_not_used_if_a_model_changes_some_of_the_vocabulary(own_llama):
    class Restricted(type(own_llama)):
        """Never predicts the last tokens."""

        def forward(self, **arguments):
            output = super().forward(**arguments)
            output.logits[..., 90:] = -torch.inf
            return output

    own_llama.__class__ = Restricted
    with torch.inference_mode():
        stage = find_output_stage(own_llama, torch.arange(3, 9)[None])
    assert stage is not None and not stage.is_divisible


def test_an_output_embedding_with_other_code_is_evaluated_as_a_whole(own_llama):
    class Scaled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    own_llama.lm_head.__class__ = Scaled
    with torch.inference_mode():
        stage = find_output_stage(own_llama, torch.arange(3, 9)[None])
    assert stage is not None and not stage.is_divisible
