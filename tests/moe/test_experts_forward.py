"""The forward pass of stacked experts: outputs and counts of many architectures.

The expected values come from `tests.support.expert_reference`. Counts are compared in float64, where rounding moves no
boundary.
"""

import pytest
import torch

import sparsedial as sd
from sparsedial.ffn import SITES, FFNs
from sparsedial.rules import TopP
from tests.support.expert_models import (
    MODEL_TYPES,
    build_model,
    discovery_inputs,
    experts_configurations,
    model_inputs,
    padded_inputs,
    stacked_modules,
)
from tests.support.expert_reference import PLAIN, ExpertCount, ReferenceExperts, record_experts_calls
from tools.architectures import model_state, supported_sites


def build_float64_model(model_type):
    """Return a model whose experts run in float64, with activation limits that take effect."""
    model = build_model(model_type).double()
    model.set_experts_implementation("batched_mm")  # `grouped_mm` does not support float64.
    for module in stacked_modules(model).values():
        for limit in {"limit", "swiglu_limit"} & set(vars(module)):
            setattr(module, limit, 0.5)
    return model


def find_experts(model, model_type):
    """Return the experts of a model, after checks of their number and their sites."""
    ffns = sd.find_ffns(model, inputs=discovery_inputs(model_type))
    assert not ffns.unsupported
    experts = [f for f in ffns if f.stacked_module is not None]
    assert experts
    assert {f.expert for f in experts} == set(range(4))
    is_plain = model_type in PLAIN
    assert {f.gated for f in experts} == {not is_plain}
    assert set(SITES) - set(supported_sites(experts)) == ({"gate"} if is_plain else set())
    return experts


def check_counts(table, counts, label):
    """Compare the statistics of one layer with the reference."""
    first_vector = table["vector"].iloc[0]
    layer_weight = sum(count.weight for (_, vector), count in counts.items() if vector == first_vector)
    for row in table.itertuples():
        count = counts.get((row.expert, row.vector), ExpertCount())
        assert (row.dropped, row.total, row.tokens) == (count.dropped, count.total, count.tokens), label
        assert row.weight == pytest.approx(count.weight / layer_weight, abs=1e-6)
        assert row.phase == "prefill"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_outputs_and_counts_are_those_of_the_reference(model_type):
    model = build_float64_model(model_type)
    inputs = model_inputs(model_type)
    real = inputs["attention_mask"].bool().reshape(-1)
    experts = find_experts(model, model_type)
    modules = stacked_modules(model)
    sites = [site for site in SITES if site != "gate" or model_type not in PLAIN]
    for site in sites:
        with sd.sparsify(model, site, sd.TopP(0.7), ffns=FFNs(experts)) as sparsifier:
            calls = record_experts_calls(model, lambda: model(**inputs))
        table = sparsifier.stats()
        assert set(calls) == set(modules)
        for path, call in calls.items():
            label = f"{path} {site}"
            mask = real if len(call.hidden_states) == len(real) else None
            expected, counts = ReferenceExperts(model_type, modules[path], site, TopP(0.7)).run(call, mask)
            torch.testing.assert_close(call.output, expected.view(call.output.shape), msg=label)
            layer_table = table[table["module"].str.rpartition(".")[0] == path]
            assert len(layer_table) == 4 * (2 if site == "all_inputs" else 1)
            check_counts(layer_table, counts, label)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_with_nothing_dropped_every_implementation_gives_the_models_own_output(model_type):
    model = build_model(model_type)
    inputs = model_inputs(model_type)
    ffns = sd.find_ffns(model, inputs=discovery_inputs(model_type))
    before = model_state(model)
    sites = supported_sites(ffns)
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        model.set_experts_implementation(implementation)
        configurations = experts_configurations(model)
        dense = model(**inputs).logits
        for site in sites:
            with sd.sparsify(model, site, sd.TopP(1), ffns=ffns) as sparsifier:
                logits = model(**inputs).logits
            assert torch.equal(logits, dense), f"{implementation} {site}"
            assert sparsifier.stats()["total"].sum() > 0
        assert experts_configurations(model) == configurations
        assert torch.equal(model(**inputs).logits, dense)
    assert model_state(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_counts_do_not_depend_on_the_order_of_pairs(qwen, dtype):
    model = qwen.to(dtype)
    tables = {}
    for implementation in ("batched_mm", "grouped_mm", "eager"):
        model.set_experts_implementation(implementation)
        with sd.sparsify(model, "all_inputs", sd.TopP(0.7), layers=[0]) as sparsifier:
            model(**padded_inputs())
        tables[implementation] = sparsifier.stats()
    exact = ["layer", "module", "vector", "expert", "total", "tokens", "weight"]
    for implementation in ("batched_mm", "eager"):
        assert tables[implementation][exact].equals(tables["grouped_mm"][exact])
        # Rounding moves a boundary here and there.
        difference = (tables[implementation]["dropped"] - tables["grouped_mm"]["dropped"]).abs()
        assert difference.max() <= (2 if dtype == torch.float32 else 8)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "nemotron_h", "gemma4_text"])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        pytest.param(torch.float32, marks=pytest.mark.slow),
        torch.bfloat16,
        pytest.param(torch.float16, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_eager_experts_work_in_every_dtype(model_type, dtype):
    model = build_model(model_type).to(dtype)
    model.set_experts_implementation("eager")
    inputs = padded_inputs()
    ffns = sd.find_ffns(model)
    dense = model(**inputs).logits
    tables = {}
    for site in supported_sites(ffns):
        with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
            logits = model(**inputs).logits
        if model_type == "nemotron_h":  # It adds up the experts of a token in the dtype of its router.
            torch.testing.assert_close(logits, dense, rtol=0.05, atol=0.05)
        else:
            assert torch.equal(logits, dense), site
        with sd.sparsify(model, site, sd.TopP(0.7), ffns=ffns) as sparsifier:
            model(**inputs)
        tables[site] = sparsifier.stats()
        assert 0 < sparsifier.sparsity() < 1
    if dtype == torch.float64:  # No boundary is moved by rounding.
        model.set_experts_implementation("batched_mm")
        for site, table in tables.items():
            with sd.sparsify(model, site, sd.TopP(0.7), ffns=ffns) as sparsifier:
                model(**inputs)
            assert sparsifier.stats().equals(table), site


@pytest.mark.parametrize(
    "site", [pytest.param(site, marks=() if site == "all_inputs" else pytest.mark.slow) for site in SITES]
)
def test_compiles_as_one_graph(qwen, site):
    torch._dynamo.reset()
    inputs = padded_inputs()
    with torch.no_grad(), sd.sparsify(qwen, site, sd.TopP(0.8)) as sparsifier:
        eager = qwen(**inputs).logits
    with torch.no_grad(), sd.sparsify(qwen, site, sd.TopP(0.8)) as compiled:
        out = torch.compile(qwen, fullgraph=True, backend="aot_eager")(**inputs).logits
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-4)
    exact = ["layer", "module", "vector", "expert", "phase", "total", "tokens"]
    assert compiled.stats()[exact].equals(sparsifier.stats()[exact])
    assert abs(compiled.sparsity() - sparsifier.sparsity()) < 1e-3


def test_weights_that_are_offloaded_between_calls(qwen):
    from accelerate import cpu_offload

    with torch.no_grad():
        with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as in_memory:
            sparse = qwen(**padded_inputs()).logits
        cpu_offload(qwen, execution_device=torch.device("cpu"))
        assert qwen.model.layers[0].mlp.experts.down_proj.device.type == "meta"
        with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as offloaded:
            assert torch.equal(qwen(**padded_inputs()).logits, sparse)
    assert offloaded.stats().equals(in_memory.stats())
