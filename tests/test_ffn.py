"""What counts as an FFN, on modules small enough to see through; what does not; and naming by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn import FFNs, check_site, skippable
from sparsedial.kernels import reference

D, W = 8, 12  # the widths of x and of the intermediate vector


class Net(nn.Module):
    """Token ids to vectors, through blocks that are added to the residual stream."""

    def __init__(self, *blocks, vocabulary=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(vocabulary, D)
        self.layers = nn.ModuleList(block() if isinstance(block, type) else block for block in blocks)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


class Gated(nn.Module):
    """Llama's, the activation a module."""

    def __init__(self, width=W):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(D, width), nn.Linear(D, width), nn.Linear(width, D)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class Plain(nn.Module):
    """GPT-2's: Conv1D, the activation a function."""

    def __init__(self):
        super().__init__()
        self.c_fc, self.c_proj = Conv1D(W, D), Conv1D(D, W)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Fused(nn.Module):
    """Gate and up out of one projection, taken apart in one of several ways."""

    def __init__(self, split):
        super().__init__()
        self.both, self.down, self.split = nn.Linear(D, 2 * W), nn.Linear(W, D), split

    def forward(self, x):
        gate, up = self.split(self.both(x))
        return self.down(F.silu(gate) * up)


SPLITS = {
    "gate first": (lambda h: h.chunk(2, -1), (0, 1), (W, 1)),
    "up first": (lambda h: h.split(W, -1)[::-1], (W, 1), (0, 1)),
    "interleaved": (lambda h: (h[..., ::2], h[..., 1::2]), (0, 2), (1, 2)),
    "viewed [2, F]": (lambda h: h.view(*h.shape[:-1], 2, W).unbind(-2), (0, 1), (W, 1)),
    "viewed [F, 2]": (lambda h: h.view(*h.shape[:-1], W, 2).unbind(-1)[::-1], (1, 2), (0, 2)),
}


class BitNet(Gated):
    """A norm behind the product."""

    def forward(self, x):
        i = F.relu(self.gate_proj(x)).square() * self.up_proj(x)
        return self.down_proj(i * torch.rsqrt(i.pow(2).mean(-1, keepdim=True) + 1e-6))


class CutOff(Gated):
    """Gemma 3n's: only what stands out from the gate's vector passes."""

    def forward(self, x):
        gate = self.gate_proj(x)
        cut = gate.mean(-1, keepdim=True) + 0.5 * gate.std(-1, keepdim=True)
        return self.down_proj(F.gelu(F.relu(gate - cut)) * self.up_proj(x))


class Attention(nn.Module):
    """Grouped-query attention whose shapes are those of a fused FFN: D to 2 W and back from W, with an output gate."""

    def __init__(self):
        super().__init__()
        self.kv, self.q, self.gate, self.out = (nn.Linear(D, n) for n in (2 * W, W, W, D))
        self.out = nn.Linear(W, D)

    def forward(self, x):
        key, value = self.kv(x).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(self.q(x), key, value)
        return self.out(mixed * torch.sigmoid(self.gate(x)))


class Latent(nn.Module):
    """A query projection of low rank, a norm between, as in DeepSeek's attention; and one without."""

    def __init__(self):
        super().__init__()
        self.q_a, self.q_b, self.k_a, self.k_b = nn.Linear(D, W), nn.Linear(W, D), nn.Linear(D, W), nn.Linear(W, D)
        self.norm = nn.LayerNorm(W)

    def forward(self, x):
        q, k = self.q_b(self.norm(self.q_a(x))), self.k_b(self.k_a(x))
        return F.scaled_dot_product_attention(q, k, x)


class GatedNorm(nn.Module):
    """A little network whose output is a gate's pre-activation."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(D, 3), nn.Linear(3, D)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(x))))


class Parallel(nn.Module):
    """Attention and FFN side by side (GPT-J), in a layer that holds the FFN's projections itself (OPT)."""

    def __init__(self):
        super().__init__()
        self.attention, self.fc1, self.fc2 = Attention(), nn.Linear(D, W), nn.Linear(W, D)

    def forward(self, x):
        return self.attention(x) + self.fc2(F.relu(self.fc1(x)))


class Llada(nn.Module):
    """LLaDA's block: `ff_proj`, `up_proj` and `ff_out` directly in it, attention in both directions."""

    def __init__(self):
        super().__init__()
        self.attn_out, self.ff_proj, self.up_proj, self.ff_out = (
            nn.Linear(a, b) for a, b in ((D, D), (D, W), (D, W), (W, D))
        )
        self.act = nn.SiLU()

    def forward(self, x):
        x = x + self.attn_out(F.scaled_dot_product_attention(x, x, x))
        x, gate = self.up_proj(x), self.ff_proj(x)
        return self.ff_out(self.act(gate) * x)


class Mixture(nn.Module):
    """Experts in a list; the tokens ``[3, 9)`` are sent to one of them only."""

    def __init__(self, expert=Gated, experts=4):
        super().__init__()
        self.experts, self.router = nn.ModuleList(expert() for _ in range(experts)), nn.Linear(D, experts)

    def forward(self, x):
        out, flat = torch.zeros_like(x).view(-1, D), x.reshape(-1, D)
        for rows in torch.arange(len(flat)).split(6):
            chosen = int(self.router(flat[rows[0]]).argmax())
            out.index_add_(0, rows, self.experts[chosen](flat[rows]))
        return out.view_as(x)


def only(*blocks):
    (ffn,) = sd.find_ffns(Net(*blocks))
    return ffn


def last(ffn):
    return {role: name.rpartition(".")[2] for role, name in ffn.names.items()}


def test_gated():
    ffn = only(Gated)
    assert (ffn.layer, ffn.name, ffn.gated, ffn.hidden, ffn.width, ffn.expert) == (0, "layers.0", True, D, W, None)
    assert last(ffn) == {"up": "up_proj", "gate": "gate_proj", "down": "down_proj"}
    assert [len(ffn.readers), ffn.down_out, ffn.weights] == [2, D, (2 * D * W, D * W)]


def test_plain_conv1d():
    ffn = only(Plain)
    assert (ffn.gated, ffn.hidden, ffn.width, last(ffn)) == (False, D, W, {"up": "c_fc", "down": "c_proj"})
    assert ffn.why_not("gate") == "it is a plain FFN, down(act(up(x))): it has no gate"
    with pytest.raises(ModelError, match=r"layers.0: no site 'gate'.*It has: input, up, intermediate, all_inputs"):
        check_site([ffn], "gate")
    with pytest.raises(SpecError, match=r"'hidden'.*input, up, gate"):
        check_site([ffn], "hidden")


@pytest.mark.parametrize("split", SPLITS)
def test_fused_halves_are_told_apart(split):
    take, gate, up = SPLITS[split]
    net = Net(Fused(take))
    (ffn,) = sd.find_ffns(net)
    assert (ffn.gate.start, ffn.gate.step) == gate
    assert (ffn.up.start, ffn.up.step) == up
    assert ffn.width == ffn.gate.width == W
    assert len(ffn.readers) == 1
    layer, x = net.layers[0], torch.randn(5, D)
    with torch.no_grad():
        pre, u = take(layer.both(x))
        g = F.silu(pre)
        expected = {
            "gate": layer.down(reference.select(g, "top_p", 0.5)[0] * u),
            "up": layer.down(g * reference.select(u, "top_p", 0.5)[0]),
        }
        for site, y in expected.items():
            with sd.sparsify(net, site, sd.TopP(0.5)):
                torch.testing.assert_close(layer(x), y)


@pytest.mark.parametrize("block", [BitNet, CutOff, Llada])
def test_gates_of_other_kinds(block):
    ffn = only(block)
    assert (ffn.gated, ffn.width) == (True, W)
    assert last(ffn)["up"] == "up_proj"
    assert last(ffn)["gate"] in ("gate_proj", "ff_proj")
    assert ffn.name == "layers.0"


class Shifted(Gated):
    scale = 1

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * (self.up_proj(x) + 1) * self.scale)


def test_zeros_that_are_not_the_projections_are_made_where_u_and_g_are_multiplied():
    net, x = Net(Shifted), torch.randn(5, D)
    ffn, layer = sd.find_ffns(net)[0], net.layers[0]
    assert ffn.why_not("up") is ffn.why_not("gate") is None
    with torch.no_grad():
        u = layer.up_proj(x) + 1
        kept = reference.select(u, "top_p", 0.5)[0]
        expected = layer.down_proj(F.silu(layer.gate_proj(x)) * kept)
        with sd.sparsify(net, "up", sd.TopP(0.5)) as dial:
            torch.testing.assert_close(layer(x), expected)
        assert dial.stats()["dropped"].item() == int(((kept == 0) & (u != 0)).sum())
        # Nested, whoever came first: the rule on i sees what is left of it.
        expected = layer.down_proj(reference.select(F.silu(layer.gate_proj(x)) * kept, "top_p", 0.5)[0])
        for first, second in (("up", "intermediate"), ("intermediate", "up")):
            with sd.sparsify(net, first, sd.TopP(0.5)), sd.sparsify(net, second, sd.TopP(0.5)):
                torch.testing.assert_close(layer(x), expected)


def test_a_site_whose_zeros_are_nobodys_is_refused():
    class Scaled(Shifted):
        scale = 3

    ffn = only(Scaled)
    assert ffn.why_not("up") == "zeroing entries of W x would not zero entries of the up vector"
    assert ffn.why_not("gate") is ffn.why_not("input") is None


def test_in_the_layer_and_beside_the_attention():
    first, second = sd.find_ffns(Net(Parallel, Parallel))
    assert (first.name, last(first)) == ("layers.0", {"up": "fc1", "down": "fc2"})
    assert (second.name, second.layer) == ("layers.1", 1)


@pytest.mark.parametrize("block", [Attention, Latent, GatedNorm])
def test_what_only_looks_like_one_is_not_taken(block):
    assert [f.layer for f in sd.find_ffns(Net(block, Gated))] == [1]


def test_nothing_found_says_what_was_seen_and_what_to_do():
    class Sum(Gated):  # as with low-rank adapters that were not merged
        def forward(self, x):
            return self.down_proj(F.silu(self.gate_proj(x) + self.up_proj(x) + self.gate_proj(2 * x)))

    with pytest.raises(
        ModelError,
        match=r"Net: no FFN found. Seen: 8 projections called \(Linear\).*layers.1.down_proj reads an activation of 2 "
        r"projections' outputs.*name the modules by hand: find_ffns\(model, modules=.*--ffn up=PATTERN",
    ):
        sd.find_ffns(Net(Attention, Sum))


def test_a_forward_that_fails_is_told_apart():
    net = Net(Gated, vocabulary=4)  # six token ids do not fit, and nothing says so
    with pytest.raises(ModelError, match=r"Net could not be called with input_ids.*IndexError.*inputs=.*by hand"):
        sd.find_ffns(net)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert len(sd.find_ffns(net, inputs={"input_ids": torch.arange(4)[None]})) == 1


def test_inside_a_multimodal_wrapper():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision, self.text = Net(Parallel, Parallel), Net(Parallel, Parallel)

        def forward(self, input_ids, pixels=None):
            return self.text(input_ids) + (0 if pixels is None else self.vision(pixels))

    wrapper, ids = Wrapper(), torch.arange(6)[None]
    assert [(f.layer, f.name) for f in sd.find_ffns(wrapper)] == [(0, "text.layers.0"), (1, "text.layers.1")]
    both = sd.find_ffns(wrapper, inputs={"input_ids": ids, "pixels": ids})  # two stacks share numbers: one run of them
    assert [(f.layer, f.name) for f in both] == [
        (0, "text.layers.0"), (1, "text.layers.1"), (2, "vision.layers.0"), (3, "vision.layers.1")
    ]  # fmt: skip


def test_blocks_in_a_list_inside_a_layer_are_not_experts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.mlps = Attention(), nn.ModuleList([Gated(), Gated()])

        def forward(self, x):
            x = x + self.attention(x)
            x = x + self.mlps[0](x)
            return x + self.mlps[1](x)

    found = sd.find_ffns(Net(Two, Two))
    assert [(f.layer, f.expert, f.name) for f in found] == [
        (0, None, "layers.0.mlps.0"), (0, None, "layers.0.mlps.1"),
        (1, None, "layers.1.mlps.0"), (1, None, "layers.1.mlps.1"),
    ]  # fmt: skip


@pytest.mark.parametrize("expert", [Gated, Plain, lambda: Fused(SPLITS["interleaved"][0])])
def test_experts_in_a_list_are_all_found_also_those_no_token_reached(expert):
    net = Net(Mixture(expert), Gated, Mixture(expert))
    found = sd.find_ffns(net)
    assert not found.not_understood
    assert [(f.layer, f.expert) for f in found] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, None),
        *((2, e) for e in range(4)),
    ]
    assert [f.name for f in found if f.layer == 2] == [f"layers.2.experts.{e}" for e in range(4)]
    layer, x = net.layers[0], torch.randn(6, D)
    with torch.no_grad():
        for index, e in enumerate(layer.experts):
            dense = e(x)
            with sd.sparsify(net, "up", sd.TopP(0.5), ffns=FFNs([f for f in found if f.expert == index])):
                assert not torch.equal(e(x), dense)
            with sd.sparsify(net, "up", sd.TopP(1), ffns=found):
                assert torch.equal(e(x), dense)


def test_experts_that_all_read_every_token():
    class Dense(Mixture):
        def forward(self, x):
            return sum(e(x) * w for e, w in zip(self.experts, self.router(x).softmax(-1).split(1, -1), strict=True))

    assert [(f.layer, f.expert) for f in sd.find_ffns(Net(Dense))] == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_an_expert_that_cannot_be_watched_is_not_passed_over():
    class Weighted(Gated):
        def forward(self, x, *, weight=None):
            if weight is None:
                raise ValueError("no weight")
            return super().forward(x) * weight

    class Fussy(Mixture):
        def __init__(self):
            super().__init__(Weighted)

        def forward(self, x):
            flat = x.reshape(-1, D)
            return self.experts[1](flat[torch.arange(len(flat))], weight=2.0).view_as(x)

    found = sd.find_ffns(Net(Gated, Fussy))
    assert [(f.layer, f.expert) for f in found] == [(0, None), (1, 1)]
    assert list(found.not_understood) == [f"layers.1.experts.{e}" for e in (0, 2, 3)]
    with pytest.raises(
        ModelError, match=r"layers.1.experts.0: an expert that no token tried was sent to.*cannot be sparsified"
    ):
        sd.sparsify(Net(Gated, Fussy), "input", sd.TopP(0.5))


def test_stacked_experts_are_named():
    class StackedExperts(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, D, W))

        def forward(self, x):
            return F.relu(x @ self.up[0]) @ self.up[1].T

    found = sd.find_ffns(Net(StackedExperts))
    assert len(found) == 0
    (reason,) = found.not_understood.values()
    assert list(found.not_understood) == ["layers.0"]
    assert reason.startswith("StackedExperts stacks its experts' weights in one parameter and runs them by itself")


def test_a_tied_block_is_found_where_it_is_first():
    shared = Gated()
    found = sd.find_ffns(Net(shared, Plain, shared))
    assert [(f.layer, f.name) for f in found] == [(0, "layers.0"), (1, "layers.1")]


def test_training_mode_is_restored_module_by_module():
    net = Net(Gated, Plain).train()
    net.layers[1].eval()
    before = [m.training for m in net.modules()]
    sd.find_ffns(net)
    assert [m.training for m in net.modules()] == before


@pytest.mark.parametrize("site", ["input", "up", "intermediate"])
def test_under_an_attached_dial(site):
    net = Net(Gated, Parallel)
    before = [(f.layer, f.names) for f in sd.find_ffns(net)]
    with sd.sparsify(net, site, sd.TopP(0.5)) as dial:
        assert [(f.layer, f.names) for f in sd.find_ffns(net)] == before
        net(torch.arange(3)[None])
    assert dial.stats()["total"].sum() == 3 * 2 * (D if site == "input" else W)  # the look itself was not counted


HAND = {"up": "layers.*.up_proj", "gate": "layers.*.gate_proj", "down": "layers.*.down_proj"}


def test_by_hand():
    net = Net(Gated, Attention, Gated)
    named, found = sd.find_ffns(net, modules=HAND), sd.find_ffns(net)
    assert [(f.layer, f.name, dict(f.names), f.hidden, f.width) for f in named] == [
        (f.layer, f.name, dict(f.names), f.hidden, f.width) for f in found
    ]
    assert named[0].why_not("up") is named[0].why_not("intermediate") is None
    assert named[0].why_not("gate") == "the gate's activation is not known: it was named by hand"
    x = torch.arange(6)[None]
    with torch.no_grad(), sd.sparsify(net, "all_inputs", sd.TopP(0.5), ffns=found):
        expected = net(x)
    with torch.no_grad(), sd.sparsify(net, "all_inputs", sd.TopP(0.5), ffns=named):
        assert torch.equal(net(x), expected)


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ({"up": "*.up_proj"}, SpecError, r"expected patterns for 'up', 'down' and, if gated, 'gate'"),
        (HAND | {"side": "*"}, SpecError, "side"),
        (HAND | {"gate": "*.gate"}, ModelError, r"up='layers.\*.up_proj' matched 2.*gate='\*.gate' matched 0"),
        ({"up": "x", "down": "y"}, ModelError, "at least one"),
        (HAND | {"down": "*.gate_proj"}, ModelError, "do not fit together: down reads 8 entries"),
    ],
)
def test_by_hand_errors(patterns, error, message):
    with pytest.raises(error, match=message):
        sd.find_ffns(Net(Gated, Gated), modules=patterns)


def test_skippable_shares():
    gated, plain = only(Gated), only(Plain)  # three, and two, matrices of one size
    assert {s: skippable(gated, s) for s in ("input", "intermediate", "all_inputs", "gate", "up")} == {
        "input": {"input": 2 / 3},
        "intermediate": {"intermediate": 1 / 3},
        "all_inputs": {"input": 2 / 3, "intermediate": 1 / 3},
        "gate": {"gate": 2 / 3},
        "up": {"up": 2 / 3},
    }
    assert skippable(plain, "input") == {"input": 1 / 2}
    assert skippable(plain, "up") == {"up": 1 / 2}
    assert skippable(plain, "all_inputs") == {"input": 1 / 2, "intermediate": 1 / 2}
