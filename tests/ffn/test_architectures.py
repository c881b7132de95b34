"""Every architecture in transformers' causal language model mapping: its FFNs are found and can be sparsified.

Each architecture is in one of the tables below, so a test fails if one stops to work and also if one starts to work.
docs/architectures.md has the same results with more detail.
"""

from pathlib import Path

import pytest
import torch
import transformers

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import SITES, FFNs
from tools.architecture_counts import (
    COUNTED,
    ERROR,
    NO_CACHE,
    NOT_CALLED,
    check_cached_step,
    check_padding,
)
from tools.architectures import NOT_BUILT, NOTHING_FOUND, check_sparsification, model_state
from tools.tiny_models import MODEL_TYPES, build_tiny_model, count_ffn_layers

# An FFN is found in every layer that has one, and all sites of its kind are supported.
WORK = """
    apertus apertus1p5_text arcee bamba bart bert bert-generation big_bird bigbird_pegasus biogpt bitnet
    blenderbot blenderbot-small bloom blt camembert codegen cohere cohere2 cohere_compass_text cpmant ctrl cwm
    data2vec-text diffllama doge dory electra emu3 ernie ernie4_5 exaone exaone4 falcon falcon_h1 fuyu gemma
    gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text git glm glm4
    got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj granite granite_swa helium
    hrm_text hunyuan_v1_dense hyperclovax internlm3 iquestcoder jais2 lfm2 lfm3 llama marian mbart
    megatron-bert minicpm3 ministral ministral3 mistral mllama modernbert-decoder moshi
    moss_transcribe_diarize mpt musicgen musicgen_melody mvp nanochat nemotron olmo olmo2 olmo3 olmo_hybrid
    openai-gpt opt pegasus persimmon phi phi3 phi4_multimodal plbart prophetnet qwen2 qwen3 qwen3_5
    qwen3_5_text recurrent_gemma reformer rembert roberta roberta-prelayernorm roc_bert roformer rwkv seed_oss
    smollm3 stablelm starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod
    youtu zamba
""".split()

# The same holds for these mixture-of-experts models, whose experts are stacked in one parameter per projection.
STACKED_EXPERTS = """
    afmoe aria_text axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
    dots1 dots3_note dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint glm4_moe glm4_moe_lite
    glm_moe_dsa gpt_oss granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3 hy_v4
    inkling2_loop_text inkling2_text jamba kimi_linear kolibri1 laguna lara_mini lfm2_moe mellum mimo_v2_flash
    minimax minimax_m2 minimax_m3_vl_text mixtral nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe
    qwen3_5_moe_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text sarvam_mla sarvam_moe solar_open zaya
""".split()

# Some experts of these models do not run through the experts interface, and an error names the module that runs them.
# The value is the number of layers in which another FFN is found, which must work.
PARTLY = {"dbrx": 0, "jetmoe": 0, "inkling_text": 2, "llama4": 2, "llama4_text": 2, "longcat_flash": 2}

# Architectures in which a padded batch is not counted but an error, or in which no cached step is counted.
COUNTS = {
    "blt": (ERROR, NOT_CALLED),
    "cpmant": (ERROR, COUNTED),
    "openai-gpt": (COUNTED, NO_CACHE),
    "prophetnet": (ERROR, COUNTED),
}

# Widely used architectures, which must stay in WORK.
WIDELY_USED = """
    apertus arcee bart bloom codegen cohere cohere2 falcon gemma gemma2 gemma3 gemma3_text gemma3n_text glm glm4 gpt2
    gpt_neox gptj granite llama mistral mpt nemotron olmo olmo2 olmo3 opt phi phi3 qwen2 qwen3 smollm3 stablelm
    starcoder2
""".split()

# The other architectures are built from the same parts. `make test-long` tests all of them.
REPRESENTATIVE = {*WIDELY_USED, *PARTLY, *COUNTS, *NOTHING_FOUND, *STACKED_EXPERTS[::5]}


PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def is_page_of_this_version():
    """Return True if docs/architectures.md, and so the tables here, are of the installed version of transformers."""
    return f"transformers {transformers.__version__}," in PAGE.read_text()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Run on one thread, because the models are too small for several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=() if name in REPRESENTATIVE else pytest.mark.slow) for name in MODEL_TYPES],
)
def test_architecture(model_type):
    if model_type in NOT_BUILT:
        pytest.skip(NOT_BUILT[model_type])
    if model_type not in WIDELY_USED and not is_page_of_this_version():
        pytest.skip("the tables are those of another version of transformers")
    model = build_tiny_model(model_type)
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])  # Some models change in their first forward pass.
    before = model_state(model)
    if model_type in NOTHING_FOUND:
        with pytest.raises(ModelError, match=r"no FFN found.*name the modules by hand"):
            sd.find_ffns(model)
        assert model_state(model) == before
        return
    ffns = sd.find_ffns(model)
    assert model_state(model) == before
    ffn_layers = {ffn.layer for ffn in ffns}
    if model_type in PARTLY:
        assert len(ffn_layers) == PARTLY[model_type] <= count_ffn_layers(model_type, model)
        with pytest.raises(ModelError, match=next(iter(ffns.unsupported)).replace(".", r"\.")):
            sd.sparsify(model, "input", sd.TopP(0.5), ffns=ffns)
    else:
        assert model_type in WORK + STACKED_EXPERTS
        assert len(ffn_layers) == count_ffn_layers(model_type, model)
        assert not ffns.unsupported
        for ffn in ffns:
            unsupported_sites = {site for site in SITES if ffn.unsupported_reason(site)}
            assert unsupported_sites == (set() if ffn.gated else {"gate"})
        assert any(ffn.stacked_module is not None for ffn in ffns) == (model_type in STACKED_EXPERTS)
    if ffns:
        supported = FFNs(list(ffns))
        check_sparsification(model, supported)
        expected = COUNTS.get(model_type, (COUNTED, COUNTED))
        assert (check_padding(model, supported), check_cached_step(model, supported)) == expected


def test_every_architecture_is_in_one_table():
    if not is_page_of_this_version():
        pytest.skip("the tables are those of another version of transformers")
    tables = [*WORK, *STACKED_EXPERTS, *PARTLY, *NOT_BUILT, *NOTHING_FOUND]
    assert sorted(tables) == MODEL_TYPES
    assert set(WIDELY_USED) <= set(WORK)


def test_the_page_has_the_same_results():
    if not is_page_of_this_version():
        pytest.skip("written with another version of transformers")
    page = PAGE.read_text()
    results = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 6:
            results[cells[1]] = cells[-2]
    assert [name for name, result in results.items() if result == "works"] == sorted(WORK + STACKED_EXPERTS)
    assert [name for name, result in results.items() if result.startswith("partly")] == sorted(PARTLY)
    assert list(results)[2:] == MODEL_TYPES
