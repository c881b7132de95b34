"""Every architecture of transformers' causal-LM mapping: what is found in it, and that it can be sparsified.

Each is in one of the tables below, so nothing fails, or starts to work, without being seen. docs/architectures.md
says the same in full.
"""

from pathlib import Path

import architectures
import pytest
import torch
import transformers

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import SITES, FFNs

# An FFN in every layer that has one, and every site: these must work.
WORK = """
    apertus arcee bamba bart bert bert-generation big_bird bigbird_pegasus biogpt bitnet blenderbot
    blenderbot-small bloom blt camembert codegen cohere cohere2 cohere_compass_text cpmant ctrl cwm
    data2vec-text diffllama doge electra emu3 ernie ernie4_5 exaone4 falcon falcon_h1 fuyu gemma gemma2 gemma3
    gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text git glm glm4 got_ocr2 gpt-sw3
    gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj granite granite_swa helium hrm_text
    hunyuan_v1_dense hyperclovax internlm3 iquestcoder jais2 lfm2 lfm3 llama marian mbart megatron-bert minicpm3
    ministral ministral3 mistral mllama modernbert-decoder moshi moss_transcribe_diarize mpt musicgen
    musicgen_melody mvp nanochat nemotron olmo olmo2 olmo3 olmo_hybrid openai-gpt opt pegasus persimmon phi phi3
    phi4_multimodal plbart prophetnet qwen2 qwen3 qwen3_5 qwen3_5_text recurrent_gemma reformer rembert roberta
    roberta-prelayernorm roc_bert roformer rwkv seed_oss smollm3 stablelm starcoder2 trocr vaultgemma whisper
    xglm xlm xlm-roberta xlm-roberta-xl xlnet xlstm xmod youtu zamba
""".split()  # noqa: SIM905

# Mixtures that stack their experts' weights in one parameter: all of the above, expert by expert.
MIXTURES = """
    afmoe aria_text axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
    dots1 dots3_note dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint glm4_moe glm4_moe_lite glm_moe_dsa
    gpt_oss granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3 hy_v4 inkling2_text
    jamba kimi_linear kolibri1 laguna lfm2_moe mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text
    mixtral nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen4_exp
    qwen4_exp_text solar_open zaya
""".split()  # noqa: SIM905

# Mixtures some of whose experts run by themselves, by how many layers of the tiny model have another FFN: those must
# work, and the module that runs the experts must be named in an error.
PARTLY = {0: "dbrx jetmoe", 2: "inkling_text llama4 llama4_text longcat_flash"}
PARTLY = {model_type: found for found, names in PARTLY.items() for model_type in names.split()}

# Named in the issue or in wide use: may not leave WORK.
PROMISED = """
    apertus arcee bart bloom codegen cohere cohere2 falcon gemma gemma2 gemma3 gemma3_text gemma3n_text glm glm4 gpt2
    gpt_neox gptj granite llama mistral mpt nemotron olmo olmo2 olmo3 opt phi phi3 qwen2 qwen3 smollm3 stablelm
    starcoder2
""".split()  # noqa: SIM905


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model_type", architectures.MODEL_TYPES)
def test_architecture(model_type):
    if model_type in architectures.NOT_BUILT:
        pytest.skip(architectures.NOT_BUILT[model_type])
    model = architectures.build(model_type)
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])  # some change themselves when they are called first
    before = architectures.state(model)
    if model_type in architectures.NOTHING_FOUND:
        with pytest.raises(ModelError, match=r"no FFN found.*name the modules by hand"):
            sd.find_ffns(model)
        assert architectures.state(model) == before
        return
    ffns = sd.find_ffns(model)
    assert architectures.state(model) == before
    layers = architectures.layers_with_ffn(model_type, model)
    if model_type in WORK + MIXTURES:
        assert len({f.layer for f in ffns}) == layers
        assert not ffns.not_understood
        for ffn in ffns:
            assert {site for site in SITES if ffn.why_not(site)} == (set() if ffn.gated else {"gate"})
        assert bool([f for f in ffns if f.stack is not None]) == (model_type in MIXTURES)
    else:
        assert len({f.layer for f in ffns}) == PARTLY[model_type] <= layers
        with pytest.raises(ModelError, match=next(iter(ffns.not_understood)).replace(".", r"\.")):
            sd.sparsify(model, "input", sd.TopP(0.5), ffns=ffns)
    if ffns:
        architectures.check(model, FFNs(list(ffns)))


def test_every_architecture_is_in_one_table():
    tables = [*WORK, *MIXTURES, *PARTLY, *architectures.NOT_BUILT, *architectures.NOTHING_FOUND]
    assert sorted(tables) == architectures.MODEL_TYPES
    assert set(PROMISED) <= set(WORK)


def test_the_page_says_the_same():
    page = (Path(__file__).parent.parent / "docs" / "architectures.md").read_text()
    if f"transformers {transformers.__version__}," not in page:
        pytest.skip("written with another version of transformers")
    rows = {cells[1].strip(): cells[-2].strip() for line in page.splitlines() if len(cells := line.split("|")) > 6}
    assert [name for name, result in rows.items() if result == "works"] == sorted(WORK + MIXTURES)
    assert [name for name, result in rows.items() if result.startswith("partly")] == sorted(PARTLY)
    assert list(rows)[2:] == architectures.MODEL_TYPES
