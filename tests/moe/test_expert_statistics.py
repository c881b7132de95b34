"""Statistics of experts: phases, routing weights, idle experts, and active parameters."""

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import AttachError, NonFiniteError
from sparsedial.hooks import pending_counts
from sparsedial.study.records import SparsityCount
from sparsedial.study.trial_evaluation import active_parameters, skippable_mac_shares
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model, padded_inputs


def test_phases_follow_the_forward_pass_and_not_an_experts_first_token(qwen):
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as sparsifier:
        qwen.generate(**padded_inputs(), max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    tokens = sparsifier.stats().groupby(["layer", "phase"])["tokens"].sum()
    for layer in (0, 1):
        assert tokens[layer, "prefill"] == 13 * 2
        assert tokens[layer, "generation"] == 3 * 3 * 2  # The last token is not an input of the model.


@torch.no_grad()
def test_routing_weights_are_shares_of_the_layer(qwen):
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.9)) as sparsifier:
        with sparsifier.observe(step=0):
            qwen(**padded_inputs())
        with sparsifier.observe(step=1):
            qwen(**padded_inputs())
    table = sparsifier.stats()
    assert set(table.groupby(["layer", "vector", "step"])["weight"].sum().round(6)) == {1.0}
    assert (table["tokens"] * table["vector"].map({"input": 64, "intermediate": 32}) == table["total"]).all()
    first, second = (table[table["step"] == s].drop(columns="step").reset_index(drop=True) for s in (0, 1))
    assert first.equals(second)


@torch.no_grad()
def test_an_idle_expert_has_a_row_without_data(qwen):
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as sparsifier:
        qwen(torch.tensor([[5]]))  # One token activates two of four experts.
    table = sparsifier.stats()
    idle = table[table["total"] == 0]
    assert len(table) == 8
    assert len(idle) == 4
    assert (idle["dropped"] == 0).all()
    assert (idle["tokens"] == 0).all()
    assert (idle["weight"] == 0).all()
    assert idle["sparsity"].isna().all()
    assert table[table["total"] > 0]["sparsity"].notna().all()
    assert sparsifier.sparsity() == table["dropped"].sum() / table["total"].sum()


@torch.no_grad()
def test_a_pair_with_routing_weight_zero_is_not_counted(qwen):
    def mute(module, args, kwargs):
        x, index, weight = args
        return (x, index, torch.where(index == 2, 0, weight)), kwargs

    handle = qwen.model.layers[0].mlp.experts.register_forward_pre_hook(mute, with_kwargs=True)
    with sd.sparsify(qwen, "input", sd.TopP(0.9), layers=[0]) as sparsifier:
        qwen(**padded_inputs())
    handle.remove()
    tokens = sparsifier.stats().set_index("expert")["tokens"]
    assert tokens[2] == 0 < tokens[0]


@torch.no_grad()
def test_a_layer_that_the_model_skips_has_no_rows_and_a_model_that_skips_all_is_an_error(qwen):
    ffns = sd.find_ffns(qwen)
    sparsifier = sd.sparsify(qwen, "input", sd.TopP(0.9), ffns=ffns)
    qwen.model.layers[1].forward = lambda x, *args, **kwargs: x
    with sparsifier:
        qwen(**padded_inputs())
    assert set(sparsifier.stats()["layer"]) == {0}
    sparsifier = sd.sparsify(qwen, "input", sd.TopP(0.9), layers=[1], ffns=ffns)
    with pytest.raises(AttachError, match=r"never reached: model.layers.1.mlp.experts \(input\)\. "), sparsifier:
        qwen(**padded_inputs())


@torch.no_grad()
def test_nan_is_reported_with_its_expert(qwen):
    qwen.model.layers[1].mlp.experts.gate_up_proj[3, 0, 0] = float("nan")
    with sd.sparsify(qwen, "intermediate", sd.TopP(0.9)) as sparsifier:
        qwen(**padded_inputs())
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[1\].*model.layers.1.mlp.experts.3"):
        sparsifier.stats()


@torch.no_grad()
def test_many_forwards_are_reduced_together_and_none_is_lost(qwen, monkeypatch):

    given = padded_inputs()
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as once:
        qwen(**given)
    monkeypatch.setattr(pending_counts, "MAX_PENDING_PAIRS", 300)  # four calls of 36 pairs a forward
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as often:
        for _ in range(7):
            qwen(**given)
            assert often._coordinator.counters.pending.pending_pairs <= 300
    counts = ["dropped", "total", "tokens"]
    assert (often.stats()[counts] == 7 * once.stats()[counts]).all(axis=None)


def test_active_parameters_exclude_idle_experts(qwen):
    parameters = sum(p.numel() for p in qwen.parameters())
    idle_parameters = 2 * 2 * 3 * (64 * 32)  # Layers, idle experts, projections, weights of a projection.
    assert active_parameters(parameters, sd.find_ffns(qwen)) == parameters - idle_parameters
    shared_experts = [f for f in sd.find_ffns(build_model("qwen2_moe")) if f.expert is None]
    assert active_parameters(1000, shared_experts) == 1000
    # The routing of listed experts is not observable.
    assert active_parameters(1000, sd.find_ffns(ListedExpertsModel(GATHERS["index"]))) is None


def make_count(row, tokens):
    return SparsityCount(
        row.layer, row.module, row.vector, None, row.phase, None, row.dropped, row.total, tokens, row.weight
    )


@torch.no_grad()
def test_skippable_macs_are_a_share_of_the_active_weights():
    """Shared experts read every token, the others only the tokens routed to them."""
    model = build_model("qwen2_moe")
    ffns = list(sd.find_ffns(model))
    with sd.sparsify(model, "intermediate", sd.TopP(0.8), ffns=sd.find_ffns(model)) as sparsifier:
        model(**padded_inputs())
    rows = list(sparsifier.stats().itertuples())
    shared = 64 * 48  # Weights of one projection.
    routed = 64 * 32
    counts = [make_count(row, row.tokens) for row in rows]
    share = skippable_mac_shares(ffns, "intermediate", counts)["intermediate"]
    assert share == pytest.approx((shared + 2 * routed) / (3 * (shared + 2 * routed)))

    # Without tokens for the routed experts, only the shared experts count.
    shared_experts = [f for f in ffns if f.expert is None]
    shared_names = {f.name for f in shared_experts}
    counts = [make_count(row, row.tokens if row.module in shared_names else 0) for row in rows]
    assert skippable_mac_shares(ffns, "all_inputs", counts) == skippable_mac_shares(
        shared_experts, "all_inputs", counts
    )
