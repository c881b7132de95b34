"""Experts stacked in one parameter: the same suite over tiny models of many architectures.

What is expected is worked out here, token by token and expert by expert, from the weights and from what the router
said; nothing of `sparsedial.experts` is used for it. Counting is compared in float64, where no boundary is a matter
of rounding.
"""

import architectures
import pytest
import torch
import transformers
from torch import nn

import sparsedial as sd
from sparsedial.errors import AttachError, ModelError, NonFiniteError
from sparsedial.ffn import SITES, FFNs
from sparsedial.kernels import reference
from sparsedial.study import trial

# ---------------------------------------------------------------------- the architectures


def halves(experts, z):
    gate, up = z.chunk(2, -1)
    return experts.act_fn(gate), up


def gpt_oss(experts, z):
    gate, up = z[..., ::2].clamp(max=experts.limit), z[..., 1::2].clamp(-experts.limit, experts.limit)
    return gate * torch.sigmoid(experts.alpha * gate), up + 1


def minimax_m3(experts, z):
    gate, up = z.chunk(2, -1)
    gate, up = gate.clamp(max=experts.swiglu_limit), up.clamp(-experts.swiglu_limit, experts.swiglu_limit)
    return gate * torch.sigmoid(experts.swiglu_alpha * gate), up + 1


def deepseek_v4(experts, z):
    gate, up = z.chunk(2, -1)
    return experts.act_fn(gate.clamp(max=experts.limit)), up.clamp(-experts.limit, experts.limit)


SPECIAL = {"gpt_oss": gpt_oss, "minimax_m3_vl_text": minimax_m3, "deepseek_v4": deepseek_v4, "nemotron_h": None}
TRANSPOSED = {"gpt_oss", "aria_text"}
FEW_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
PARTICULARS = {
    "gemma4_text": {"enable_moe_block": True, **FEW_EXPERTS},
    "diffusion_gemma": {
        "kind": getattr(transformers, "DiffusionGemmaForBlockDiffusion", None),
        "text_config": {**FEW_EXPERTS, "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
        "canvas_length": 6,
    },
}
MODEL_TYPES = """
    qwen2_moe qwen3_moe qwen3_next qwen3_5_moe_text olmoe mixtral gpt_oss deepseek_v2 deepseek_v3 deepseek_v4 glm4_moe
    granitemoe phimoe ernie4_5_moe minimax minimax_m2 minimax_m3_vl_text jamba hunyuan_v1_moe lfm2_moe nemotron_h
    aria_text gemma4_text diffusion_gemma
""".split()  # noqa: SIM905
if "sub_configs_defaults" not in vars(transformers.CONFIG_MAPPING["diffusion_gemma"]):
    # In older versions Aria runs its experts by itself, and DiffusionGemma wants a configuration for its images.
    MODEL_TYPES = [m for m in MODEL_TYPES if m not in ("aria_text", "diffusion_gemma")]


def build(model_type):
    return architectures.build(model_type, **PARTICULARS.get(model_type, {}))


def padded():
    """Three rows of six tokens, padded on the left to different lengths."""
    ids = torch.randint(3, 128, (3, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[2, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def inputs_of(model_type):
    given = padded()
    if model_type == "diffusion_gemma":  # a prompt, and a canvas of which every token is real
        given["decoder_input_ids"] = given["input_ids"][:, :4] + 1
    return given


def finder_inputs(model_type):
    return inputs_of(model_type) if model_type == "diffusion_gemma" else None


def stacks_of(model):
    return {name: m for name, m in model.named_modules() if hasattr(m, "_apply_gate")}


def config_of(model):
    return {
        name: (m.config, getattr(m.config, "_experts_implementation", None)) for name, m in stacks_of(model).items()
    }


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The models are too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def qwen():
    return build("qwen3_moe")


# ---------------------------------------------------------------------- by definition, slowly


def by_definition(model_type, experts, x, index, weight, real, site, p):
    """What the experts of a layer put out for ``x``, and {(expert, vector): [dropped, total, tokens, weight]}."""
    transposed, split = model_type in TRANSPOSED, SPECIAL.get(model_type, halves)
    first = "up_proj" if split is None else "gate_up_proj"
    vectors = ("input", "intermediate") if site == "all_inputs" else (site,)
    counts = {}
    out = torch.zeros(len(x), experts.down_proj.shape[1 if not transposed else 2], dtype=x.dtype)

    def project(v, name, e):
        matrix = getattr(experts, name)[e]
        y = v @ matrix if transposed else matrix @ v
        return y + getattr(experts, f"{name}_bias")[e] if hasattr(experts, f"{name}_bias") else y

    for token in range(len(x)):
        for slot in range(index.shape[1]):
            e, w = int(index[token, slot]), weight[token, slot]

            def sparse(vector, v, e=e, w=w, token=token):
                if vector not in vectors:
                    return v
                y, kept = reference.select(v, "top_p", p)
                if real is None or real[token]:
                    row = counts.setdefault((e, vector), [0, 0, 0, 0.0])
                    for i, more in enumerate((len(v) - int(kept), len(v), 1, float(w))):
                        row[i] += more
                return y

            z = project(sparse("input", x[token]), first, e)
            if split is None:
                i = experts.act_fn(sparse("up", z))
            else:
                g, u = split(experts, z)
                i = sparse("up", u) * sparse("gate", g)
            out[token] += project(sparse("intermediate", i), "down_proj", e) * w
    return out, counts


def watch(model, run):
    """Run, and return what every stack of experts was given and what it gave back."""
    seen, handles = {}, []
    for name, module in stacks_of(model).items():
        handles.append(module.register_forward_hook(lambda m, args, out, n=name: seen.__setitem__(n, (*args, out))))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_outputs_and_counts_are_those_of_the_definition(model_type):
    model = build(model_type).double()
    model.set_experts_implementation("batched_mm")  # the one that knows float64
    for module in stacks_of(model).values():
        for limit in {"limit", "swiglu_limit"} & set(vars(module)):
            setattr(module, limit, 0.5)  # so that it clamps
    given = inputs_of(model_type)
    real = given["attention_mask"].bool().reshape(-1)
    ffns = sd.find_ffns(model, inputs=finder_inputs(model_type))
    assert not ffns.not_understood
    experts = [f for f in ffns if f.stack is not None]
    assert experts and {f.expert for f in experts} == set(range(4))
    plain = SPECIAL.get(model_type, halves) is None
    assert {f.gated for f in experts} == {not plain}
    assert {s for f in experts for s in SITES if f.why_not(s)} == ({"gate"} if plain else set())
    stacks = stacks_of(model)
    for site in (s for s in SITES if not (plain and s == "gate")):
        with sd.sparsify(model, site, sd.TopP(0.7), ffns=FFNs(experts)) as dial:
            seen = watch(model, lambda: model(**given))
        table = dial.stats()
        assert set(seen) == set(stacks)
        for name, (x, index, weight, out) in seen.items():
            mask = real if len(x) == len(real) else None
            expected, counts = by_definition(model_type, stacks[name], x, index, weight, mask, site, 0.7)
            torch.testing.assert_close(out, expected.view(out.shape), msg=f"{name} {site}")
            rows = table[table["module"].str.rpartition(".")[0] == name]
            assert len(rows) == 4 * (2 if site == "all_inputs" else 1)
            whole = sum(c[3] for (_, vector), c in counts.items() if vector == rows["site"].iloc[0])
            for row in rows.itertuples():
                dropped, total, tokens, w = counts.get((row.expert, row.site), [0, 0, 0, 0.0])
                assert (row.dropped, row.total, row.tokens) == (dropped, total, tokens), f"{name} {site}"
                assert row.weight == pytest.approx(w / whole, abs=1e-6)
                assert row.phase == "prefill"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_nothing_dropped_is_the_models_own_output_whatever_runs_its_experts(model_type):
    model, given = build(model_type), inputs_of(model_type)
    ffns = sd.find_ffns(model, inputs=finder_inputs(model_type))
    before, sites = architectures.state(model), [s for s in SITES if all(f.why_not(s) is None for f in ffns)]
    for implementation in ("eager", "batched_mm", "grouped_mm"):
        model.set_experts_implementation(implementation)
        own, dense = config_of(model), model(**given).logits
        for site in sites:
            with sd.sparsify(model, site, sd.TopP(1), ffns=ffns) as dial:
                logits = model(**given).logits
            if implementation == "eager":
                torch.testing.assert_close(logits, dense, rtol=1e-4, atol=1e-4)
            else:
                assert torch.equal(logits, dense), f"{implementation} {site}"
            assert dial.stats()["total"].sum() > 0
        assert {n: (id(c), i) for n, (c, i) in config_of(model).items()} == {n: (id(c), i) for n, (c, i) in own.items()}
        assert torch.equal(model(**given).logits, dense)
    assert architectures.state(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_sorted_by_expert_or_not_the_counts_are_the_same(qwen, dtype):
    model, tables = qwen.to(dtype), {}
    for implementation in ("batched_mm", "grouped_mm", "eager"):
        model.set_experts_implementation(implementation)
        with sd.sparsify(model, "all_inputs", sd.TopP(0.7), layers=[0]) as dial:
            model(**padded())
        tables[implementation] = dial.stats()
    assert tables["eager"].equals(tables["grouped_mm"])
    exact = ["layer", "module", "site", "expert", "total", "tokens", "weight"]
    assert tables["batched_mm"][exact].equals(tables["grouped_mm"][exact])
    apart = (tables["batched_mm"]["dropped"] - tables["grouped_mm"]["dropped"]).abs()
    assert apart.max() <= (2 if dtype == torch.float32 else 8)  # rounding moves a boundary here and there


# ---------------------------------------------------------------------- finding


def test_an_expert_is_an_ffn(qwen):
    ffns = sd.find_ffns(qwen)
    assert [(f.layer, f.expert) for f in ffns] == [(layer, e) for layer in (0, 1) for e in range(4)]
    f = ffns[5]
    assert (f.name, f.hidden, f.width, f.down_out) == ("model.layers.1.mlp.experts.1", 64, 32, 64)
    assert f.weights == (64 * 32 * 2, 64 * 32)
    assert f.names == {
        "up": "model.layers.1.mlp.experts.gate_up_proj",
        "gate": "model.layers.1.mlp.experts.gate_up_proj",
        "down": "model.layers.1.mlp.experts.down_proj",
    }
    assert sd.find_ffns(build("nemotron_h"))[-1].gated is False


def test_finding_draws_no_random_numbers(qwen):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    sd.find_ffns(qwen)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model_type", ["dbrx", "jetmoe", "llama4_text"])
def test_experts_that_run_by_themselves_are_named(model_type):
    model = build(model_type)
    ffns = sd.find_ffns(model)
    name, reason = next(iter(ffns.not_understood.items()))
    assert type(model.get_submodule(name)).__name__ in reason
    with pytest.raises(ModelError, match=rf"{name}: .*experts interface.*layers="):
        sd.sparsify(model, "input", sd.TopP(0.5))


def test_an_activation_that_is_no_product_is_named_and_its_layer_can_be_left_out(qwen):
    strange = qwen.model.layers[1].mlp.experts

    class Strange(type(strange)):
        def _apply_gate(self, z):
            gate, up = z.chunk(2, -1)
            return self.act_fn(gate) * up + 1

    strange.__class__ = Strange
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.experts: what Strange computes .*--layers"):
        sd.sparsify(qwen, "intermediate", sd.TopP(0.5))
    with torch.no_grad(), sd.sparsify(qwen, "intermediate", sd.TopP(0.5), layers=[0]) as dial:
        qwen(**padded())
    assert set(dial.stats()["layer"]) == {0}


PACKED = {
    "another way than one 3-D parameter": lambda w: w.reshape(4, -1),
    "quantised, as torch.bfloat16 and torch.float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
    r"\[4, 64, 64\] and \[4, 64, 16\], do not fit": lambda w: w[..., :16],
}


@pytest.mark.parametrize("reason", PACKED)
def test_weights_packed_another_way_are_named(qwen, reason):
    experts = qwen.to(torch.bfloat16).model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(PACKED[reason](experts.down_proj.detach()), requires_grad=False)
    qwen.model.layers[0].forward = lambda x, *args, **kwargs: x
    with pytest.raises(ModelError, match=rf"model.layers.0.mlp.experts: .*Qwen3MoeExperts.*{reason}"):
        sd.sparsify(qwen, "input", sd.TopP(0.5))


# ---------------------------------------------------------------------- attaching


@torch.no_grad()
def test_only_the_layers_chosen_run_ours(qwen):
    first, second = (layer.mlp.experts for layer in qwen.model.layers)
    own = second.config
    with sd.sparsify(qwen, "intermediate", sd.TopP(0.5), layers=[1]) as dial:
        assert first.config is own is qwen.config
        assert second.config is not own
        assert second.config.hidden_size == own.hidden_size
        assert qwen.config._experts_implementation == "grouped_mm"
        qwen(**padded())
    assert second.config is own
    assert set(dial.stats()["layer"]) == {1}


@torch.no_grad()
def test_sites_nest_and_what_is_left_goes_on(qwen):
    dense = qwen(**padded()).logits
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as outer:
        with sd.sparsify(qwen, "intermediate", sd.TopP(0.9)) as inner:
            both = qwen(**padded()).logits
            with pytest.raises(AttachError, match="already"), sd.sparsify(qwen, "all_inputs", sd.TopP(0.5)):
                pass
        one = qwen(**padded()).logits
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.9)) as together:
        assert torch.equal(qwen(**padded()).logits, both)
    assert not torch.equal(one, both)
    assert torch.equal(qwen(**padded()).logits, dense)
    sums = together.stats().groupby("site")["dropped"].sum()
    assert sums["intermediate"] == inner.stats()["dropped"].sum()
    assert outer.stats()["tokens"].sum() == 2 * inner.stats()["tokens"].sum()


@torch.no_grad()
def test_nothing_is_left_after_an_exception(qwen):
    before, own = architectures.state(qwen), config_of(qwen)
    dial = sd.sparsify(qwen, "up", sd.TopP(0.5))
    with pytest.raises(IndexError), dial:
        qwen(**padded())
        qwen(torch.full((1, 3), 1000))  # beyond the vocabulary
    assert architectures.state(qwen) == before
    assert config_of(qwen) == own
    assert dial.stats()["tokens"].sum() == 13 * 2 * 2  # the finished forward's, not the failed one's


@torch.no_grad()
def test_a_stack_is_sparsified_as_a_whole_or_not_at_all(qwen):
    ffns, before = sd.find_ffns(qwen), architectures.state(qwen)
    with pytest.raises(AttachError, match=r"only 3 of 4 experts"):
        sd.sparsify(qwen, "input", sd.TopP(0.5), ffns=FFNs(ffns[1:])).__enter__()
    assert architectures.state(qwen) == before
    with sd.sparsify(qwen, "input", sd.TopP(0.5), ffns=ffns):
        qwen(**padded())


@torch.no_grad()
def test_a_model_that_changes_its_experts_implementation_meanwhile(qwen):
    """As `generate` does on a GPU, where decoding takes batched_mm."""
    dense = {}
    for implementation in ("grouped_mm", "batched_mm"):
        qwen.set_experts_implementation(implementation)
        dense[implementation] = qwen(**padded()).logits
    with sd.sparsify(qwen, "gate", sd.TopP(1)) as dial:
        for implementation in ("grouped_mm", "batched_mm"):
            qwen.set_experts_implementation(implementation)
            assert torch.equal(qwen(**padded()).logits, dense[implementation])
    assert dial.stats()["tokens"].sum() == 2 * 13 * 2 * 2
    assert qwen.config._experts_implementation == "batched_mm"


@pytest.mark.parametrize("site", SITES)
def test_compiles_as_one_graph(qwen, site):
    torch._dynamo.reset()
    given = padded()
    with torch.no_grad(), sd.sparsify(qwen, site, sd.TopP(0.8)) as dial:
        eager = qwen(**given).logits
    with torch.no_grad(), sd.sparsify(qwen, site, sd.TopP(0.8)) as compiled:
        out = torch.compile(qwen, fullgraph=True, backend="aot_eager")(**given).logits
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-4)
    exact = ["layer", "module", "site", "expert", "phase", "total", "tokens"]
    assert compiled.stats()[exact].equals(dial.stats()[exact])
    assert abs(compiled.sparsity() - dial.sparsity()) < 1e-3


def test_weights_that_a_device_map_brings_in_when_needed(qwen):
    from accelerate import cpu_offload

    with torch.no_grad():
        with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as here:
            sparse = qwen(**padded()).logits
        cpu_offload(qwen, execution_device=torch.device("cpu"))
        assert qwen.model.layers[0].mlp.experts.down_proj.device.type == "meta"
        with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as there:
            assert torch.equal(qwen(**padded()).logits, sparse)
    assert there.stats().equals(here.stats())


# ---------------------------------------------------------------------- counting


def test_phases_follow_the_request_not_the_experts_first_call(qwen):
    given = padded()
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as dial:
        qwen.generate(**given, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    tokens = dial.stats().groupby(["layer", "phase"])["tokens"].sum()
    for layer in (0, 1):
        assert tokens[layer, "prefill"] == 13 * 2
        assert tokens[layer, "generation"] == 3 * 3 * 2  # the last token is never fed back


@torch.no_grad()
def test_shares_of_the_routing_weight(qwen):
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.9)) as dial:
        with dial.observe(step=0):
            qwen(**padded())
        with dial.observe(step=1):
            qwen(**padded())
    table = dial.stats()
    assert set(table.groupby(["layer", "site", "step"])["weight"].sum().round(6)) == {1.0}
    assert (table["tokens"] * table["site"].map({"input": 64, "intermediate": 32}) == table["total"]).all()
    first, second = (table[table["step"] == s].drop(columns="step").reset_index(drop=True) for s in (0, 1))
    assert first.equals(second)


@torch.no_grad()
def test_an_expert_without_a_token_is_no_data(qwen):
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as dial:
        qwen(torch.tensor([[5]]))  # one token: two of four experts
    table = dial.stats()
    idle = table[table["total"] == 0]
    assert len(table) == 8 and len(idle) == 4
    assert (idle["dropped"] == 0).all() and (idle["tokens"] == 0).all() and (idle["weight"] == 0).all()
    assert idle["sparsity"].isna().all()
    assert table[table["total"] > 0]["sparsity"].notna().all()
    assert dial.sparsity() == table["dropped"].sum() / table["total"].sum()


@torch.no_grad()
def test_a_pair_whose_weight_is_zero_reached_no_expert(qwen):
    def mute(module, args, kwargs):
        x, index, weight = args
        return (x, index, torch.where(index == 2, 0, weight)), kwargs

    handle = qwen.model.layers[0].mlp.experts.register_forward_pre_hook(mute, with_kwargs=True)
    with sd.sparsify(qwen, "input", sd.TopP(0.9), layers=[0]) as dial:
        qwen(**padded())
    handle.remove()
    tokens = dial.stats().set_index("expert")["tokens"]
    assert tokens[2] == 0 < tokens[0]


@torch.no_grad()
def test_a_layer_that_was_not_reached_is_named(qwen):
    qwen.model.layers[1].forward = lambda x, *args, **kwargs: x
    with sd.sparsify(qwen, "input", sd.TopP(0.9)) as dial:
        qwen(**padded())
    with pytest.raises(AttachError, match=r"never reached: model.layers.1.mlp.experts \(input\)\. "):
        dial.stats()


@torch.no_grad()
def test_nan_is_reported_with_its_expert(qwen):
    qwen.model.layers[1].mlp.experts.gate_up_proj[3, 0, 0] = float("nan")
    with sd.sparsify(qwen, "intermediate", sd.TopP(0.9)) as dial:
        qwen(**padded())
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[1\].*model.layers.1.mlp.experts.3"):
        dial.stats()


@torch.no_grad()
def test_many_forwards_are_reduced_together_and_none_is_lost(qwen, monkeypatch):
    from sparsedial import stats

    given = padded()
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as once:
        qwen(**given)
    monkeypatch.setattr(stats, "PAIRS", 300)  # four calls of 36 pairs a forward
    with sd.sparsify(qwen, "all_inputs", sd.TopP(0.8)) as often:
        for _ in range(7):
            qwen(**given)
            assert sum(len(calls) for _, calls in often._selecting.counters._closed) * 36 <= 300
    counts = ["dropped", "total", "tokens"]
    assert (often.stats()[counts] == 7 * once.stats()[counts]).all(axis=None)


def test_the_parameters_that_a_token_goes_through(qwen):
    ffns = sd.find_ffns(qwen)
    assert {f.active for f in ffns} == {2 / 4}
    parameters = sum(p.numel() for p in qwen.parameters())
    assert trial._active(parameters, ffns) == parameters - 2 * 2 * 3 * 64 * 32  # layers, idle experts, projections
    shared = [f for f in sd.find_ffns(build("qwen2_moe")) if f.expert is None]
    assert trial._active(1000, shared) == 1000
    assert trial._active(1000, sd.find_ffns(Net(PICKS["index"]))) is None  # which of a list are called is not known


@torch.no_grad()
def test_skippable_is_a_share_of_the_active_weights():
    """Shared experts see every token, the others those routed to them."""
    model = build("qwen2_moe")
    ffns = sd.find_ffns(model)
    with sd.sparsify(model, "intermediate", sd.TopP(0.8), ffns=ffns) as dial:
        model(**padded())
    rows = dial.stats().to_dict("records")
    shared, routed = 64 * 48, 64 * 32  # one projection's weights; two of the four experts are active
    share = trial._skippable(list(ffns), "intermediate", rows)["intermediate"]
    assert share == pytest.approx((shared + 2 * routed) / (3 * (shared + 2 * routed)))
    rows = [{**r, "tokens": 0} if r["expert"] is not None and r["expert"] == r["expert"] else r for r in rows]
    alone = [f for f in ffns if f.expert is None]
    assert trial._skippable(list(ffns), "all_inputs", rows) == trial._skippable(alone, "all_inputs", rows)


# ---------------------------------------------------------------------- experts in a list


class Listed(nn.Module):
    """A mixture whose experts are modules in a list, as many models' own code still has it."""

    def __init__(self, pick):
        super().__init__()
        self.router, self.pick = nn.Linear(16, 4), pick
        self.experts = nn.ModuleList(
            nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))}) for _ in range(4)
        )

    def forward(self, x):
        flat = x.view(-1, 16)
        weight, chosen = self.router(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(chosen == e)
            out.index_add_(0, token, expert["mlp"](self.pick(flat, token)) * weight[token, slot, None])
        return out.view_as(x)


class Net(nn.Module):
    def __init__(self, pick):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(128, 16), nn.ModuleList(Listed(pick) for _ in range(2))

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


PICKS = {
    "index": lambda flat, token: flat[token],
    "index with a new axis": lambda flat, token: flat[None, token].reshape(-1, 16),
    "index_select": lambda flat, token: flat.index_select(0, token),
    "mask": lambda flat, token: flat[torch.zeros(len(flat), dtype=torch.bool).index_fill(0, token, True)],
    "copy": lambda flat, token: flat.double()[token].float(),
}


@pytest.mark.parametrize("pick", PICKS)
@pytest.mark.parametrize("site", ["input", "up", "intermediate", "all_inputs"])
@torch.no_grad()
def test_padding_is_not_counted_where_experts_are_in_a_list(pick, site):
    model, given = Net(PICKS[pick]), padded()
    with sd.sparsify(model, site, sd.TopP(0.7)) as dial:
        model(**given)
    table = dial.stats()
    assert set(table["tokens"].groupby([table["layer"], table["site"]]).sum()) == {13 * 2}
    assert table["weight"].isna().all()  # not seen
    alone = []
    for ids, mask in zip(given["input_ids"], given["attention_mask"].bool(), strict=True):
        with sd.sparsify(model, site, sd.TopP(0.7)) as single:
            model(ids[mask][None])
        alone.append(single.stats().set_index(["layer", "site", "expert"])[["dropped", "total", "tokens"]])
    together = table.set_index(["layer", "site", "expert"])[["dropped", "total", "tokens"]]
    assert (together[["total", "tokens"]] == sum(alone)[["total", "tokens"]]).all(axis=None)
    assert (together["dropped"] - sum(alone)["dropped"]).abs().max() <= 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@torch.no_grad()
def test_rows_that_cannot_be_followed_are_an_error_only_with_padding():
    model = Net(lambda flat, token: flat.gather(0, token[:, None].expand(-1, 16)))
    with sd.sparsify(model, "input", sd.TopP(0.7)) as dial:
        model(padded()["input_ids"])
    assert dial.stats()["tokens"].sum() == 18 * 2 * 2
    with sd.sparsify(model, "input", sd.TopP(0.7)) as dial:
        model(**padded())
    with pytest.raises(AttachError, match=r"which tokens layers.0.experts.*could not be followed"):
        dial.stats()


@torch.no_grad()
def test_an_idle_expert_in_a_list_is_no_data_too():
    model = Net(PICKS["index"])
    with sd.sparsify(model, "input", sd.TopP(0.7)) as dial:
        model(torch.tensor([[5]]))
    table = dial.stats()
    assert len(table) == 8 and (table["total"] == 0).sum() == table["sparsity"].isna().sum() == 4
