"""Generation with transformers' block diffusion model, whose own loop determines the denoising step."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.block_diffusion_generation import generate_blocks
from sparsedial.inference.run_context import RunContext
from sparsedial.models.kind import detect_kind
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from tests.support.tiny_diffusion_gemma import BLOCK_DIFFUSION_MARKS, find_dense_ffns, make_diffusion_gemma

pytestmark = BLOCK_DIFFUSION_MARKS
PROMPT = torch.arange(3, 9)[None]
OPTIONS = {"max_new_tokens": 16, "max_denoising_steps": 4}


@pytest.fixture(scope="module")
def gemma():
    return make_diffusion_gemma()


def test_its_kind_is_detected_and_its_ffns_are_found(gemma):
    assert detect_kind(gemma) == "block-diffusion"
    names = [ffn.name for ffn in find_dense_ffns(gemma)]
    assert [name for name in names if name.startswith("model.decoder.layers")] == [
        "model.decoder.layers.0.mlp",
        "model.decoder.layers.1.mlp",
    ]


def test_it_is_loaded_with_its_own_class(gemma, tmp_path):
    gemma.save_pretrained(tmp_path / "gemma")
    lm = load_language_model(resolve_source(str(tmp_path / "gemma")), device="cpu", dtype="float32")
    assert (type(lm.model), lm.kind) == (type(gemma), "block-diffusion")
    assert torch.equal(generate_blocks(lm.model, PROMPT, **OPTIONS), generate_blocks(gemma, PROMPT, **OPTIONS))


def test_generation_is_deterministic_and_the_same_at_p_one(gemma):
    dense = generate_blocks(gemma, PROMPT, RunContext(seed=1), **OPTIONS)
    assert dense.shape == (1, 22)
    assert not torch.equal(dense, generate_blocks(gemma, PROMPT, RunContext(seed=2), **OPTIONS))
    ffns = find_dense_ffns(gemma)
    state = torch.get_rng_state()
    with sd.sparsify(gemma, "all_inputs", sd.TopP(1.0), ffns=ffns) as sparsifier:
        assert torch.equal(generate_blocks(gemma, PROMPT, RunContext(sparsifier, seed=1), **OPTIONS), dense)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_models_own_loop_determines_the_step(gemma):
    with sd.sparsify(gemma, "intermediate", sd.TopP(0.9), ffns=find_dense_ffns(gemma)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        generate_blocks(gemma, PROMPT, RunContext(sparsifier), **OPTIONS)
    table = sparsifier.stats()
    denoised = table[table["module"].str.startswith("model.decoder.layers")]
    assert sorted(set(denoised["step"])) == [0, 1, 2, 3]
    assert set(denoised["phase"]) == {"generation"}
    assert set(denoised["total"]) == {2 * 8 * 48}  # two blocks of eight tokens in every step
    encoded = table[table["module"].str.startswith("model.encoder")]
    assert encoded["step"].isna().all()
    assert encoded.groupby("phase")["total"].max().to_dict() == {"prefill": 6 * 48, "generation": 8 * 48}
    overlaps = overlap.table()
    assert set(overlaps.loc[overlaps["step"] > 0, "compared"]) == {16}


def test_its_experts_are_sparsified(gemma):
    ffns = sd.find_ffns(gemma)
    assert not ffns.unsupported
    assert {ffn.expert for ffn in ffns if ffn.name.startswith("model.decoder.layers.1.experts")} == {0, 1, 2, 3}
    dense = generate_blocks(gemma, PROMPT, RunContext(seed=1), **OPTIONS)
    with sd.sparsify(gemma, "all_inputs", sd.TopP(1.0), ffns=ffns) as sparsifier:
        assert torch.equal(generate_blocks(gemma, PROMPT, RunContext(sparsifier, seed=1), **OPTIONS), dense)
    table = sparsifier.stats()
    routed = table[table["expert"].notna() & table["module"].str.startswith("model.decoder")]
    assert set(routed["step"]) == {0, 1, 2, 3}


def test_a_model_of_another_kind_is_an_error(llama):
    with pytest.raises(ModelError, match=r"block-diffusion.* causal"):
        generate_blocks(llama, PROMPT)
