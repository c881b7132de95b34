"""Attaching, counting, padding, phases, and leaving nothing behind."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as prune_

import sparsedial as sd
from sparsedial.errors import AttachError, ModelError, NonFiniteError, SpecError
from sparsedial.ffn import SITES
from sparsedial.kernels import reference
from sparsedial.stats import Counters

MODELS = ("llama", "phi3", "gpt2")


def sites_of(name):
    return [s for s in SITES if not (name == "gpt2" and s == "gate")]


CASES = [(name, site) for name in MODELS for site in sites_of(name)]


def hooks(model):
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_always_called) for m in model.modules()
    )


@pytest.fixture
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("model", "site"), CASES, indirect=["model"])
@torch.inference_mode()
def test_dense_value_is_bit_for_bit_dense_and_less_is_not(model, site, tokens):
    dense = model(tokens).logits
    for rule in (sd.TopP(1), sd.TopK(1), sd.MaxP(0)):
        with sd.sparsify(model, site, rule) as dial:
            assert torch.equal(model(tokens).logits, dense)
        assert len(dial.stats()) == 3 * (2 if site == "all_inputs" else 1)
    with sd.sparsify(model, site, sd.TopP(0.5)) as dial:
        assert not torch.equal(model(tokens).logits, dense)
    assert 0.2 < dial.sparsity() < 0.95
    assert torch.equal(model(tokens).logits, dense)
    assert hooks(model) == 0


def test_each_site_does_what_its_formula_says(llama, tokens):
    mlp = llama.model.layers[1].mlp
    x = torch.randn(2, 5, 32)

    def top(v):
        return reference.select(v, "top_p", 0.6)[0]

    with torch.no_grad():
        u, g = mlp.up_proj(x), mlp.act_fn(mlp.gate_proj(x))
        expected = {
            "input": mlp(top(x)),
            "up": mlp.down_proj(top(u) * g),
            "gate": mlp.down_proj(u * top(g)),
            "intermediate": mlp.down_proj(top(u * g)),
        }
        sparse_x = top(x)
        expected["all_inputs"] = mlp.down_proj(top(mlp.up_proj(sparse_x) * mlp.act_fn(mlp.gate_proj(sparse_x))))
        for site in SITES:
            with sd.sparsify(llama, site, sd.TopP(0.6), layers=[1]):
                torch.testing.assert_close(mlp(x), expected[site], msg=site)


def test_fused_projection_halves_are_told_apart(phi3):
    mlp = phi3.model.layers[0].mlp
    x = torch.randn(7, 32)
    with torch.no_grad():
        gate, up = mlp.gate_up_proj(x).chunk(2, -1)
        g = mlp.activation_fn(gate)
        for site, i in (
            ("gate", up * reference.select(g, "top_p", 0.6)[0]),
            ("up", reference.select(up, "top_p", 0.6)[0] * g),
        ):
            with sd.sparsify(phi3, site, sd.TopP(0.6), layers=[0]):
                torch.testing.assert_close(mlp(x), mlp.down_proj(i), msg=site)


def test_counts_are_those_of_the_definition(llama, tokens):
    seen = {}
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda m, a, n=n: seen.__setitem__(n, a[0]))
        for n, layer in enumerate(llama.model.layers)
    ]
    with torch.no_grad(), sd.sparsify(llama, "intermediate", sd.TopP(0.7)) as dial:
        llama(tokens)
    for handle in handles:
        handle.remove()
    table = dial.stats()
    assert list(table.columns) == [
        "layer", "module", "site", "expert", "phase", "step", "dropped", "total", "sparsity", "tokens", "weight"
    ]  # fmt: skip
    for row in table.itertuples():
        kept = reference.select(seen[row.layer], "top_p", 0.7)[1]
        assert (row.dropped, row.total) == (tokens.numel() * 80 - int(kept.sum()), tokens.numel() * 80)
        assert row.sparsity == row.dropped / row.total
    assert dial.sparsity() == table["dropped"].sum() / table["total"].sum()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model", MODELS, indirect=True)
def test_padding_is_not_counted(model, side, tokens):
    mask = torch.ones_like(tokens)
    lengths = [12, 7, 3, 9]
    for row, length in enumerate(lengths):
        mask[row, : 12 - length] = 0
    mask = mask if side == "left" else mask.flip(1)
    padded = tokens * mask  # the padding id is a token like any other: only the mask tells
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as dial:
        model(input_ids=padded, attention_mask=mask)
    table = dial.stats()
    per_token = {f.name: {"input": f.hidden, "intermediate": f.width} for f in sd.find_ffns(model)}
    for row in table.itertuples():
        assert row.total == sum(lengths) * per_token[row.module][row.site]
    alone = 0
    for row, length in enumerate(lengths):
        ids = padded[row][mask[row].bool()][None]
        with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as single:
            model(input_ids=ids)
        alone += int(single.stats()["dropped"].sum())
        assert len(ids[0]) == length
    assert abs(int(table["dropped"].sum()) - alone) <= 0.002 * alone  # float noise moves a boundary here and there


def test_a_mask_given_by_position_counts_too(llama, tokens):
    mask = torch.ones_like(tokens)
    mask[:, :4] = 0
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.8)) as dial:
        llama(tokens, mask)
    assert set(dial.stats()["total"]) == {4 * 8 * 32}


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_separates_the_phases(llama, cache, tokens):
    mask = torch.ones_like(tokens)
    mask[0, :5] = 0
    with sd.sparsify(llama, "input", sd.TopP(0.9)) as dial:
        llama.generate(
            tokens, attention_mask=mask, max_new_tokens=5, min_new_tokens=5, do_sample=False,
            cache_implementation=cache if cache == "static" else None, disable_compile=True,
        )  # fmt: skip
    table = dial.stats().set_index(["layer", "phase"])
    for layer in range(3):
        assert table.loc[(layer, "prefill"), "total"] == (48 - 5) * 32
        assert table.loc[(layer, "generation"), "total"] == 4 * 4 * 32  # the last token is never fed back


def test_keys_and_values_as_plain_tuples_are_a_cache_too():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up, self.down = nn.Embedding(16, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, input_ids, past_key_values=None):
            x = self.embed(input_ids)
            return self.down(torch.relu(self.up(x))), ((x, x),)

    model = Model()
    with torch.no_grad(), sd.sparsify(model, "input", sd.TopK(0.5)) as dial:
        _, past = model(torch.arange(5)[None], past_key_values=[None])
        model(torch.arange(1)[None], past_key_values=past)
    assert dial.stats().set_index("phase")["tokens"].to_dict() == {"prefill": 5, "generation": 1}


def test_the_caller_may_say_what_a_forward_is(llama, tokens):
    real = torch.zeros(4, 12, dtype=torch.bool)
    real[:, 2:4] = True
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as dial:
        with dial.observe(phase="generation", step=3, real=real):
            llama(tokens)
        with dial.observe(step=4):
            llama(tokens)
    table = dial.stats()
    assert table.groupby(["phase", "step"])["total"].sum().to_dict() == {
        ("generation", 3): 3 * 8 * 32, ("prefill", 4): 3 * 48 * 32
    }  # fmt: skip
    with pytest.raises(SpecError, match="decode"), dial.observe(phase="decode"):
        pass


def test_what_the_caller_says_must_be_about_these_tokens(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as dial:
        few = dial.observe(real=torch.ones(47, dtype=torch.bool))
        with pytest.raises(SpecError, match="47 entries for a forward of 48 tokens"), few:
            llama(tokens)
        with dial.observe(real=torch.ones(48, dtype=torch.bool)):
            llama(inputs_embeds=llama.get_input_embeddings()(tokens))
    assert set(dial.stats()["total"]) == {48 * 32}


def test_keyword_arguments_and_tuples_pass_through():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x, note):
            return self.down(input=torch.relu(self.up(input=x))), note

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(16, 8)
            self.layers = nn.ModuleList([Layer(), Layer()])

        def forward(self, input_ids):
            x, notes = self.embed(input_ids), []
            for layer in self.layers:
                x, note = layer(x, note="kept")
                notes.append(note)
            return x, notes

    model = Model()
    with torch.no_grad():
        dense, _ = model(torch.arange(6)[None])
        with sd.sparsify(model, "all_inputs", sd.TopP(0.5)) as dial:
            sparse, notes = model(torch.arange(6)[None])
    assert notes == ["kept", "kept"]
    assert not torch.equal(dense, sparse)
    assert len(dial.stats()) == 4


def test_sites_nest_and_the_same_site_twice_is_an_error(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "input", sd.TopP(0.9)) as outer:
        with sd.sparsify(llama, "intermediate", sd.TopP(0.9)) as inner:
            llama(tokens)
        for site in ("input", "all_inputs"):
            with pytest.raises(AttachError, match="already"), sd.sparsify(llama, site, sd.TopP(0.5)):
                pass
        with pytest.raises(AttachError, match="already"), outer:
            pass
        with sd.sparsify(llama, "intermediate", sd.TopP(0.5)):  # free again
            llama(tokens)
    assert set(inner.stats()["site"]) == {"intermediate"}
    assert set(outer.stats()["total"]) == {2 * 48 * 32}
    assert hooks(llama) == 0


def test_nothing_is_left_after_an_exception(llama, tokens):
    dial = sd.sparsify(llama, "all_inputs", sd.TopP(0.5))
    with pytest.raises(IndexError), torch.no_grad(), dial:
        llama(tokens)
        llama(torch.full((1, 3), 1000))  # beyond the vocabulary
    assert hooks(llama) == 0
    assert set(dial.stats()["total"]) == {48 * 32, 48 * 80}  # the finished forward counts, the failed one does not
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.5)):
        pass


def test_a_forward_cut_off_by_ctrl_c_leaves_the_next_one_as_it_should_be(own_llama, tokens):
    """Torch calls no hook then."""
    down = own_llama.model.layers[1].mlp.down_proj
    mask = torch.ones_like(tokens)
    mask[:, :3] = 0
    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(0.8)) as alone:
        own_llama(tokens)

    def interrupt(*_):
        raise KeyboardInterrupt

    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(0.8)) as dial:
        handle = down.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_llama(tokens, attention_mask=mask)
        handle.remove()
        own_llama(tokens)
    assert dial.stats().equals(alone.stats())


@pytest.mark.parametrize("length", [1, 6])
def test_a_forward_cut_off_is_not_counted_though_the_dial_is_left_then(own_llama, tokens, length):
    def interrupt(*_):
        raise KeyboardInterrupt

    dial = sd.sparsify(own_llama, "input", sd.TopP(0.8))
    with torch.no_grad(), dial:
        own_llama(tokens[:1, :length])
        handle = own_llama.model.layers[2].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_llama(tokens[:1, :length])
        handle.remove()
    with torch.no_grad(), dial, dial.observe(step=7):
        own_llama(tokens[:1, :length])
    table = dial.stats()
    assert set(table["total"]) == {length * 32} and len(table) == 6  # 3 layers, without a step and with one


def test_a_model_may_be_called_with_anything():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.up, self.down = nn.Embedding(16, 8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, input_ids):
            return self.down(torch.relu(self.up(self.embed(torch.as_tensor(input_ids)))))

    model = Model()
    with torch.no_grad(), sd.sparsify(model, "intermediate", sd.TopK(0.5)) as dial:
        model([[3]])
        model([[3, 4]])
    assert dial.stats()["total"].tolist() == [3 * 16]


def test_layers_can_be_chosen(llama, tokens):
    with torch.no_grad(), sd.sparsify(llama, "gate", sd.TopP(0.9), layers=[0, 2]) as dial:
        llama(tokens)
    assert dial.stats()["layer"].tolist() == [0, 2]
    with pytest.raises(SpecError, match=r"\[7\]"):
        sd.sparsify(llama, "gate", sd.TopP(0.9), layers=[7])


def test_bad_requests_say_what_there_is(gpt2, llama):
    with pytest.raises(ModelError, match=r"no gate.*It has: input, up, intermediate, all_inputs"):
        sd.sparsify(gpt2, "gate", sd.TopP(0.9))
    with pytest.raises(SpecError, match=r"outputs.*input, up"):
        sd.sparsify(llama, "outputs", sd.TopP(0.9))
    with pytest.raises(SpecError, match=r"TopP\(0.9\)"):
        sd.sparsify(llama, "input", 0.9)


def test_a_hook_that_never_fired_is_an_error_not_a_zero(llama):
    with sd.sparsify(llama, "input", sd.TopP(0.9)) as dial:
        pass
    with pytest.raises(AttachError, match=r"never reached: model.layers.0.mlp"):
        dial.stats()


def test_nan_is_reported_with_its_layer(llama, tokens):
    weight = llama.model.layers[1].mlp.up_proj.weight
    with torch.no_grad(), sd.sparsify(llama, "intermediate", sd.TopP(0.9)) as dial:
        before = weight[3, 3].item()
        weight[3, 3] = float("nan")
        try:
            logits = llama(tokens).logits
        finally:
            weight[3, 3] = before
    assert logits.isnan().any()
    with pytest.raises(NonFiniteError, match=r"layer\(s\) \[1, 2\].*model.layers.1.mlp"):
        dial.stats()


def test_modes_mix(llama, tokens):
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as dial:
        with torch.inference_mode():
            llama(tokens)
        with torch.no_grad():
            llama(tokens)
        llama.model(tokens)  # the inner model alone
    assert set(dial.stats()["total"]) == {3 * 48 * 32, 3 * 48 * 80}


@pytest.mark.parametrize("site", SITES)
def test_compiles_as_one_graph(llama, tokens, site):
    torch._dynamo.reset()
    with torch.no_grad(), sd.sparsify(llama, site, sd.TopP(0.8)) as dial:
        eager = llama(tokens).logits
    with torch.no_grad(), sd.sparsify(llama, site, sd.TopP(0.8)) as compiled:
        out = torch.compile(llama, fullgraph=True, backend="aot_eager")(tokens).logits
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-5)
    assert compiled.stats().equals(dial.stats())


def test_one_layer_compiled_by_itself(own_llama, tokens):
    torch._dynamo.reset()
    model, single = own_llama, tokens[:1, :1]
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as dial:
        eager = [model(x).logits for x in (tokens, single, single)]
    model.model.layers[0].compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad(), sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as compiled:
        out = [model(x).logits for x in (tokens, single, single)]
    torch.testing.assert_close(out, eager, rtol=1e-4, atol=1e-5)
    assert compiled.stats().equals(dial.stats())


@pytest.mark.parametrize("padding", [0, 2])
def test_many_small_forwards_count_as_each_alone(llama, tokens, padding):
    """The counts of small forwards share memory and wait for each other: none may end up in another's place."""
    steps = [tokens.roll(i, 1)[:, :5] for i in range(40)]
    mask = torch.ones_like(steps[0])
    mask[0, :padding] = 0
    with torch.inference_mode(), sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as together:
        for step in steps:
            llama(step, attention_mask=mask)
    counted = ["dropped", "total", "tokens"]
    alone = 0
    for step in steps:
        with torch.inference_mode(), sd.sparsify(llama, "all_inputs", sd.TopP(0.8)) as dial:
            llama(step, attention_mask=mask)
        alone = alone + dial.stats()[counted]
    assert together.stats()[counted].equals(alone)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_that_come_one_at_a_time_count_as_ever(name, tokens, request, monkeypatch):
    """They take a way of their own: the same steps with the reference, which has none."""
    model = request.getfixturevalue(name)

    def steps(backend):
        monkeypatch.setenv("SPARSEDIAL_BACKEND", backend)
        logits = []
        with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as dial:
            with torch.inference_mode():
                cache = model(tokens[:1, :4], use_cache=True).past_key_values
                for i in range(4, 8):
                    mask = torch.ones(1, i + 1, dtype=torch.int64)
                    mask[0, -1] = i != 5  # a padding token
                    logits.append(model(tokens[:1, i : i + 1], attention_mask=mask, past_key_values=cache).logits)
            dial.stats()
            logits.append(model(tokens[:1, :1]).logits)  # with gradients; a prefill of one
            for step in (0, 1, 1):
                with torch.no_grad(), dial.observe(step=step):
                    logits.append(model(tokens[1:, step : step + 1]).logits)
            with pytest.raises(IndexError), torch.no_grad():
                model(torch.full((1, 1), 1000))  # beyond the vocabulary
            handle = model.get_output_embeddings().register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError), torch.no_grad():
                model(tokens[:1, :1])  # fails when all is counted
            handle.remove()
            model(tokens[:1, 3:4])
        return torch.cat([x.flatten() for x in logits]), dial

    (want, reference), (got, dial) = steps("reference"), steps("cpu")
    assert dial._selecting._places is not None and reference._selecting._places is None
    assert torch.equal(got, want) and dial.stats().equals(reference.stats())
    assert set(dial.stats()["phase"]) == {"prefill", "generation"} and dial.stats()["step"].nunique() == 2


def test_room_for_counts_is_of_the_device_and_size_of_the_call():
    """Calls of two devices and of several shapes in turn, as with `device_map` or experts in a list."""
    counters = Counters([])
    shapes = [(2, 3), (2, 3), (5,), (5,), (2, 3), *[(1, 1)] * 200]
    for shape in shapes:
        for device in ("cpu", "meta"):
            kept = counters.room(torch.empty(*shape, 8, device=device))
            assert kept.device.type == device  # never two alike in a row
    held = []
    for number, shape in enumerate(shapes):
        kept = counters.room(torch.empty(*shape, 8))
        assert kept.shape == (math.prod(shape),) and kept.dtype == torch.int32 and kept.device.type == "cpu"
        held.append(kept.fill_(number))
    assert [int(kept[0]) for kept in held] == list(range(len(shapes)))  # no two in one place


def test_the_profiler_sees_the_op_by_its_name(llama, tokens):
    with sd.sparsify(llama, "all_inputs", sd.TopP(0.8)):
        llama(tokens)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            llama(tokens)
    [seen] = [e for e in profile.key_averages() if e.key == "sparsedial::select"]
    assert seen.count == 2 * llama.config.num_hidden_layers


def test_weights_that_a_device_map_brings_in_when_needed(own_llama, tokens):
    """Accelerate replaces every module's forward, and keeps the weights elsewhere between calls."""
    from accelerate import cpu_offload

    model = own_llama
    with torch.no_grad():
        dense = model(tokens).logits
        with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as here:
            sparse = model(tokens).logits
        cpu_offload(model, execution_device=torch.device("cpu"))
        assert model.model.layers[0].mlp.up_proj.weight.device.type == "meta"
        with sd.sparsify(model, "all_inputs", sd.TopP(1)):
            assert torch.equal(model(tokens).logits, dense)
        with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as there:
            assert torch.equal(model(tokens).logits, sparse)
    assert there.stats().equals(here.stats())


@pytest.mark.parametrize("when", ["before", "while"])
def test_weights_that_are_made_anew_for_each_call(own_llama, when):
    """`torch.nn.utils.prune` takes the weight out of the module's parameters."""

    def prune():
        prune_.l1_unstructured(own_llama.model.layers[0].mlp.down_proj, "weight", 0.5)

    tokens = torch.arange(6)[None]
    if when == "before":
        prune()
    with torch.no_grad(), sd.sparsify(own_llama, "all_inputs", sd.TopP(1.0)):
        if when == "while":
            prune()
        sparse = own_llama(tokens).logits
    with torch.no_grad():
        torch.testing.assert_close(sparse, own_llama(tokens).logits)
