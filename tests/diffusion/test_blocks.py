"""transformers' block diffusion model under a dial: its own generate, the step told."""

from pathlib import Path

import pytest
import torch
import transformers

import sparsedial as sd
from sparsedial.diffusion.blocks import generate_blocks
from sparsedial.diffusion.kinds import kind_of
from sparsedial.diffusion.overlap import Steps
from sparsedial.diffusion.sampler import Denoising
from sparsedial.errors import ModelError, TaskError
from sparsedial.models import LanguageModel, load_model
from sparsedial.sites import FFNs
from sparsedial.sources import Source, find_model
from sparsedial.tasks import TaskOptions, make_tasks
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.generation import Prompt

pytestmark = [
    pytest.mark.skipif(
        not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"), reason="this transformers has no diffusion_gemma"
    ),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # its generate's
]
PROMPT = torch.arange(3, 9)[None]
OPTIONS = {"max_new_tokens": 16, "max_denoising_steps": 4}


@pytest.fixture(scope="module")
def gemma():
    from transformers import DiffusionGemmaConfig, DiffusionGemmaTextConfig, Gemma4VisionConfig

    text = DiffusionGemmaTextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, global_head_dim=16, sliding_window=16, num_experts=4, top_k_experts=2,
        moe_intermediate_size=16, max_position_embeddings=256, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8)
    return transformers.DiffusionGemmaForBlockDiffusion(config).eval()


def loaded(model, tokenizer=None):
    source = Source("gemma", Path(), "test", "0" * 64)
    return LanguageModel(model, tokenizer, source, "float32", torch.device("cpu"), "block-diffusion")


def dense_ffns(model):
    """Without the experts."""
    return FFNs([f for f in sd.find_ffns(model) if f.expert is None])


def test_it_is_known_and_its_ffns_are_found(gemma):
    assert kind_of(gemma) == "block-diffusion"
    names = [f.name for f in dense_ffns(gemma)]
    assert [n for n in names if n.startswith("model.decoder.layers")] == [
        f"model.decoder.layers.{i}.mlp" for i in (0, 1)
    ]


def test_it_is_loaded_as_what_it_is(gemma, tmp_path):
    gemma.save_pretrained(tmp_path / "gemma")
    lm = load_model(find_model(str(tmp_path / "gemma")), device="cpu", dtype="float32")
    assert (type(lm.model), lm.kind) == (type(gemma), "block-diffusion")
    assert torch.equal(generate_blocks(lm.model, PROMPT, **OPTIONS), generate_blocks(gemma, PROMPT, **OPTIONS))


def test_its_generate_is_deterministic_and_at_p_one_the_same(gemma):
    dense = generate_blocks(gemma, PROMPT, seed=1, **OPTIONS)
    assert dense.shape == (1, 22)
    assert not torch.equal(dense, generate_blocks(gemma, PROMPT, seed=2, **OPTIONS))
    ffns, state = dense_ffns(gemma), torch.get_rng_state()
    with sd.sparsify(gemma, "all_inputs", sd.TopP(1.0), ffns=ffns) as dial:
        assert torch.equal(generate_blocks(gemma, PROMPT, seed=1, dial=dial, **OPTIONS), dense)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_step_is_told_by_the_models_own_loop(gemma):
    with sd.sparsify(gemma, "intermediate", sd.TopP(0.9), ffns=dense_ffns(gemma)) as dial:
        steps = Steps(dial)
        generate_blocks(gemma, PROMPT, dial=dial, **OPTIONS)
    table = dial.stats()
    denoised = table[table["module"].str.startswith("model.decoder.layers")]
    assert sorted(set(denoised["step"])) == [0, 1, 2, 3]
    assert set(denoised["phase"]) == {"generation"}
    assert set(denoised["total"]) == {2 * 8 * 48}  # two blocks of eight tokens in every step
    encoded = table[table["module"].str.startswith("model.encoder")]
    assert encoded["step"].isna().all()
    assert encoded.groupby("phase")["total"].max().to_dict() == {"prefill": 6 * 48, "generation": 8 * 48}
    likeness = steps.table()
    assert set(likeness.loc[likeness["step"] > 0, "compared"]) == {16}


def test_with_its_experts_where_they_are_understood(gemma):
    ffns = sd.find_ffns(gemma)
    assert not ffns.not_understood
    assert {f.expert for f in ffns if f.name.startswith("model.decoder.layers.1.experts")} == {0, 1, 2, 3}
    dense = generate_blocks(gemma, PROMPT, seed=1, **OPTIONS)
    with sd.sparsify(gemma, "all_inputs", sd.TopP(1.0), ffns=ffns) as dial:
        assert torch.equal(generate_blocks(gemma, PROMPT, seed=1, dial=dial, **OPTIONS), dense)
    table = dial.stats()
    routed = table[table["expert"].notna() & table["module"].str.startswith("model.decoder")]
    assert set(routed["step"]) == {0, 1, 2, 3}


def test_it_answers_tasks_that_generate(gemma):
    tokenizer = type("Tokenizer", (), {"eos_token_id": 1, "decode": lambda self, row: " ".join(map(str, row))})()
    lm = loaded(gemma, tokenizer)
    ways = DiffusionAnswers(Denoising(steps=3))
    prompts = [Prompt([3, 4, 5], (), 8), Prompt([6, 7], ("9",), 12)]
    with sd.sparsify(gemma, "intermediate", sd.TopP(0.9), ffns=dense_ffns(gemma)) as dial:
        steps = ways.watch(dial)
        made = ways.generate(lm, prompts, seed=3, dial=dial)
    assert [len(m.tokens) <= p.limit for m, p in zip(made, prompts, strict=True)] == [True, True]
    assert set(steps.table()["step"]) <= {0, 1, 2}
    dense = [m.tokens for m in ways.generate(lm, prompts, seed=3)]
    assert dense == [m.tokens for m in ways.generate(lm, prompts, seed=3)]


def test_what_it_cannot_do_yet_is_said(gemma, llama):
    with pytest.raises(ModelError, match="given as block-diffusion, but it is causal"):
        generate_blocks(llama, PROMPT)
    lm = loaded(gemma)
    for name, error in (("self_prediction", TaskError), ("restoration", ModelError), ("next_token", TaskError)):
        [task] = make_tasks([name], TaskOptions(sequences=2, length=4))
        with pytest.raises(error, match=r"not causal|block-diffusion"):
            task.prepare(lm)
