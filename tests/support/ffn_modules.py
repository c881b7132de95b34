"""Small modules that contain FFNs of different kinds, and modules that only resemble one."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

import sparsedial as sd

HIDDEN = 8  # Width of the input vector.
WIDTH = 12  # Width of the intermediate vector.


class Net(nn.Module):
    """A model with one residual layer per module.

    Args:
        *layers: Modules, or classes to create them from.
        vocabulary: Number of token ids.
    """

    def __init__(self, *layers, vocabulary=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(vocabulary, HIDDEN)
        self.layers = nn.ModuleList()
        for layer in layers:
            self.layers.append(layer() if isinstance(layer, type) else layer)

    def forward(self, input_ids):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        return x


def find_only_ffn(layer):
    """Return the FFN of a model with one layer."""
    (ffn,) = sd.find_ffns(Net(layer))
    return ffn


def last_names(ffn):
    """Return the last piece of each projection's path, by role."""
    return {role: path.rpartition(".")[2] for role, path in ffn.names.items()}


class GatedFFN(nn.Module):
    """The FFN of Llama."""

    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, WIDTH)
        self.up_proj = nn.Linear(HIDDEN, WIDTH)
        self.down_proj = nn.Linear(WIDTH, HIDDEN)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class PlainFFN(nn.Module):
    """The FFN of GPT-2, with `Conv1D` and an activation function that is no module."""

    def __init__(self):
        super().__init__()
        self.c_fc = Conv1D(WIDTH, HIDDEN)
        self.c_proj = Conv1D(HIDDEN, WIDTH)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class FusedFFN(nn.Module):
    """A gated FFN with one projection for gate and up.

    Args:
        split: Returns the gate and the up part of the projection's output.
    """

    def __init__(self, split):
        super().__init__()
        self.gate_up = nn.Linear(HIDDEN, 2 * WIDTH)
        self.down = nn.Linear(WIDTH, HIDDEN)
        self.split = split

    def forward(self, x):
        gate, up = self.split(self.gate_up(x))
        return self.down(F.silu(gate) * up)


# Layout of a fused projection -> (split function, (start, step) of the gate, (start, step) of up).
FUSED_LAYOUTS = {
    "gate first": (lambda h: h.chunk(2, -1), (0, 1), (WIDTH, 1)),
    "up first": (lambda h: h.split(WIDTH, -1)[::-1], (WIDTH, 1), (0, 1)),
    "interleaved": (lambda h: (h[..., ::2], h[..., 1::2]), (0, 2), (1, 2)),
    "viewed [2, F]": (lambda h: h.view(*h.shape[:-1], 2, WIDTH).unbind(-2), (0, 1), (WIDTH, 1)),
    "viewed [F, 2]": (lambda h: h.view(*h.shape[:-1], WIDTH, 2).unbind(-1)[::-1], (1, 2), (0, 2)),
}


class BitNetFFN(GatedFFN):
    """A gated FFN with a norm after the product."""

    def forward(self, x):
        i = F.relu(self.gate_proj(x)).square() * self.up_proj(x)
        return self.down_proj(i * torch.rsqrt(i.pow(2).mean(-1, keepdim=True) + 1e-6))


class ThresholdFFN(GatedFFN):
    """The FFN of Gemma 3n, whose gate passes only values above a threshold that depends on the token."""

    def forward(self, x):
        gate = self.gate_proj(x)
        threshold = gate.mean(-1, keepdim=True) + 0.5 * gate.std(-1, keepdim=True)
        return self.down_proj(F.gelu(F.relu(gate - threshold)) * self.up_proj(x))


class ShiftedFFN(GatedFFN):
    """A gated FFN with u = W x + 1, so a zero of W x is no zero of u.

    Attributes:
        scale: Factor of the intermediate vector.
    """

    scale = 1

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * (self.up_proj(x) + 1) * self.scale)


class ScaledFFN(ShiftedFFN):
    """A gated FFN whose intermediate vector is 3 u * g."""

    scale = 3


class Attention(nn.Module):
    """Attention with an output gate, whose projections have the shapes of a fused FFN."""

    def __init__(self):
        super().__init__()
        self.kv = nn.Linear(HIDDEN, 2 * WIDTH)
        self.q = nn.Linear(HIDDEN, WIDTH)
        self.gate = nn.Linear(HIDDEN, WIDTH)
        self.out = nn.Linear(WIDTH, HIDDEN)

    def forward(self, x):
        key, value = self.kv(x).chunk(2, -1)
        mixed = F.scaled_dot_product_attention(self.q(x), key, value)
        return self.out(mixed * torch.sigmoid(self.gate(x)))


class LatentAttention(nn.Module):
    """Attention of DeepSeek, with low-rank projections, one of them with a norm in between."""

    def __init__(self):
        super().__init__()
        self.q_a = nn.Linear(HIDDEN, WIDTH)
        self.q_b = nn.Linear(WIDTH, HIDDEN)
        self.k_a = nn.Linear(HIDDEN, WIDTH)
        self.k_b = nn.Linear(WIDTH, HIDDEN)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x):
        q = self.q_b(self.norm(self.q_a(x)))
        k = self.k_b(self.k_a(x))
        return F.scaled_dot_product_attention(q, k, x)


class GateNetwork(nn.Module):
    """A gate computed by a small network."""

    def __init__(self):
        super().__init__()
        self.down = nn.Linear(HIDDEN, 3)
        self.up = nn.Linear(3, HIDDEN)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(x))))


class ParallelLayer(nn.Module):
    """Attention in parallel to an FFN (GPT-J), whose projections are directly in the layer (OPT)."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.fc1 = nn.Linear(HIDDEN, WIDTH)
        self.fc2 = nn.Linear(WIDTH, HIDDEN)

    def forward(self, x):
        return self.attention(x) + self.fc2(F.relu(self.fc1(x)))


class LLaDALayer(nn.Module):
    """The layer of LLaDA, with ``ff_proj``, ``up_proj`` and ``ff_out`` directly in it."""

    def __init__(self):
        super().__init__()
        self.attn_out = nn.Linear(HIDDEN, HIDDEN)
        self.ff_proj = nn.Linear(HIDDEN, WIDTH)
        self.up_proj = nn.Linear(HIDDEN, WIDTH)
        self.ff_out = nn.Linear(WIDTH, HIDDEN)
        self.act = nn.SiLU()

    def forward(self, x):
        x = x + self.attn_out(F.scaled_dot_product_attention(x, x, x))
        return self.ff_out(self.act(self.ff_proj(x)) * self.up_proj(x))


class ListedExperts(nn.Module):
    """A mixture-of-experts layer with experts in a list, which routes six tokens at a time to one expert.

    Args:
        expert: Creates an expert.
        experts: Number of experts.
    """

    def __init__(self, expert=GatedFFN, experts=4):
        super().__init__()
        self.experts = nn.ModuleList(expert() for _ in range(experts))
        self.router = nn.Linear(HIDDEN, experts)

    def forward(self, x):
        flat = x.reshape(-1, HIDDEN)
        out = torch.zeros_like(flat)
        for rows in torch.arange(len(flat)).split(6):
            index = int(self.router(flat[rows[0]]).argmax())
            out.index_add_(0, rows, self.experts[index](flat[rows]))
        return out.view_as(x)
