"""Sparsifiers at the sites outside of the FFNs: phases, padding, finished rows, selection and removal."""

import copy
from contextlib import ExitStack

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import AttachError, SpecError
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.inference.loglikelihood import only_logits_at
from tools.architectures import model_state
from tools.tiny_models import build_tiny_model

RULE = sd.TopP(0.5)
TOKENS = torch.randint(3, 128, (2, 8), generator=torch.Generator().manual_seed(1))
LEFT_PADDED = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
RIGHT_PADDED = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])


@pytest.fixture(scope="module")
def model():
    return build_tiny_model("qwen2")


@pytest.fixture(scope="module")
def ffns(model):
    return sd.find_ffns(model)


def tokens_by_phase(sparsifier):
    table = sparsifier.stats()
    return table[table["layer"] == table["layer"].max()].groupby("phase")["tokens"].sum().to_dict()


@torch.inference_mode()
def generate(model, **kwargs):
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0, **kwargs}
    return model.generate(TOKENS, attention_mask=LEFT_PADDED, **options)


@pytest.mark.parametrize("site", OUTER_SITES)
def test_generation_with_padding_counts_each_real_token_once(model, ffns, site):
    with sd.sparsify(model, site, RULE, ffns=ffns) as sparsifier:
        generate(model)
    # `generate` computes the logits of the last token of each prompt only.
    assert tokens_by_phase(sparsifier) == {"prefill": 2 if site == "lm_head_input" else 13, "generation": 6}


@pytest.mark.parametrize("site", OUTER_SITES)
def test_one_decoded_row_counts_the_same_with_and_without_the_fast_path(model, ffns, site, monkeypatch):
    tables = []
    for value in ("1", "0"):
        monkeypatch.setenv("SPARSEDIAL_FAST_DECODE", value)
        with torch.inference_mode(), sd.sparsify(model, site, RULE, ffns=ffns) as sparsifier:
            model.generate(TOKENS[:1], max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        tables.append(sparsifier.stats().sort_values(["phase", "layer"])[["phase", "layer", "dropped", "tokens"]])
    assert tables[0].values.tolist() == tables[1].values.tolist()


@pytest.mark.parametrize("site", OUTER_SITES)
def test_finished_rows_are_not_counted(model, ffns, site):
    dense = generate(model)
    end = int(dense[1, TOKENS.shape[1]])  # the second row ends after its first token
    others = (dense[0, TOKENS.shape[1] :] == end).any()
    assert not others
    with sd.sparsify(model, site, sd.TopP(1), ffns=ffns) as sparsifier:
        generate(model, min_new_tokens=0, eos_token_id=end)
    assert tokens_by_phase(sparsifier)["generation"] == 3


@pytest.mark.parametrize("phase", ["prefill", "generation"])
@pytest.mark.parametrize("site", OUTER_SITES)
def test_one_phase_only(model, ffns, site, phase):
    with sd.sparsify(model, site, RULE, ffns=ffns, phases=phase) as sparsifier:
        generate(model)
    assert list(tokens_by_phase(sparsifier)) == [phase]


def test_a_padded_batch_is_counted_like_its_rows(model, ffns):
    for site in OUTER_SITES:
        with torch.inference_mode(), sd.sparsify(model, site, RULE, ffns=ffns) as padded:
            model(input_ids=TOKENS, attention_mask=RIGHT_PADDED)
        with torch.inference_mode(), sd.sparsify(model, site, RULE, ffns=ffns) as single:
            model(input_ids=TOKENS[:1])
            model(input_ids=TOKENS[1:, :5])
        assert padded.stats()["tokens"].tolist() == single.stats()["tokens"].tolist()
        assert padded.sparsity() == pytest.approx(single.sparsity(), abs=0.01)


def test_the_last_logits_of_a_padded_batch(model, ffns):
    with torch.inference_mode(), sd.sparsify(model, "lm_head_input", RULE, ffns=ffns) as sparsifier:
        model(input_ids=TOKENS, attention_mask=RIGHT_PADDED, logits_to_keep=4)
    assert tokens_by_phase(sparsifier) == {
        "prefill": 4 + 1
    }  # three of the last four tokens of the second row are padding


def test_logits_at_stated_positions_of_a_padded_batch(model, ffns):
    positions = torch.tensor([0, 7, 9, 15])  # the last one is padding
    sparsifier = sd.sparsify(model, "lm_head_input", RULE, ffns=ffns)
    with torch.inference_mode(), sparsifier, only_logits_at(model, positions):
        model(input_ids=TOKENS, attention_mask=RIGHT_PADDED)
    assert tokens_by_phase(sparsifier) == {"prefill": 3}


def test_logits_of_unknown_tokens_of_a_padded_batch_are_an_error(model, ffns):
    sparsifier = sd.sparsify(model, "lm_head_input", RULE, ffns=ffns)
    chosen = torch.tensor([0, 2, 4, 6, 7, 1, 3, 5, 2])
    with torch.inference_mode(), sparsifier, pytest.raises(AttachError, match="cannot be assigned to the tokens"):
        model(input_ids=TOKENS, attention_mask=RIGHT_PADDED, logits_to_keep=chosen)


def test_all_sites_together_and_their_removal(model, ffns):
    before = model_state(model)
    dense = model(input_ids=TOKENS).logits
    with ExitStack() as stack:
        stack.enter_context(sd.sparsify(model, "all_inputs", RULE, ffns=ffns))
        first, _, last = (stack.enter_context(sd.sparsify(model, site, RULE, ffns=ffns)) for site in OUTER_SITES)
        sparse = model(input_ids=TOKENS).logits
        assert torch.equal(copy.deepcopy(model)(input_ids=TOKENS).logits, dense)
    assert not torch.equal(sparse, dense)
    assert first.stats()["vector"].unique().tolist() == ["attention_input"]
    assert last.stats()["module"].tolist() == ["lm_head"]
    assert torch.equal(model(input_ids=TOKENS).logits, dense)
    assert model_state(model) == before


def test_a_compiled_model_is_sparsified(model, ffns):
    for site in ("attention_input", "lm_head_input"):
        with torch.no_grad(), sd.sparsify(model, site, RULE, ffns=ffns) as sparsifier:
            eager = model(input_ids=TOKENS).logits
            expected = sparsifier.stats()["dropped"].tolist()
            sparsifier.reset()
            torch.compiler.reset()
            compiled = torch.compile(model, backend="eager")(input_ids=TOKENS).logits
            assert torch.equal(compiled, eager)
            assert sparsifier.stats()["dropped"].tolist() == expected


def test_layers_rules_and_filters(model, ffns):
    rules = {1: sd.TopK(0.5)}
    with torch.no_grad(), sd.sparsify(model, "attention_input", rules, ffns=ffns, layers=[0, 1]) as sparsifier:
        model(input_ids=TOKENS)
    assert sparsifier.stats()[["layer", "sparsity"]].values.tolist() == [[1, 0.5]]
    with (
        torch.no_grad(),
        sd.sparsify(
            model, "attention_output", RULE, ffns=ffns, filter_fn=lambda vector: vector.layer == 0
        ) as sparsifier,
    ):
        model(input_ids=TOKENS)
    assert sparsifier.stats()["layer"].tolist() == [0]
    with pytest.raises(SpecError, match=r"Unknown layer\(s\) \[5\]: attention_input is in layers \[0, 1\]"):
        sd.sparsify(model, "attention_input", RULE, ffns=ffns, layers=[5])
    first = sd.sparsify(model, "attention_input", RULE, ffns=ffns)
    second = sd.sparsify(model, "attention_input", RULE, ffns=ffns)
    with first, pytest.raises(AttachError, match="already sparsified at attention_input"):
        second.__enter__()


def test_layers_that_share_weights_are_counted_in_each_of_their_calls():
    model = build_tiny_model("hrm_text")
    with torch.no_grad(), sd.sparsify(model, "attention_input", RULE) as sparsifier:
        model(input_ids=TOKENS)
    assert (sparsifier.stats()["tokens"] % TOKENS.numel() == 0).all()
    assert (sparsifier.stats()["tokens"] > TOKENS.numel()).all()
