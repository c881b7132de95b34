"""One FFN of any width, outside of a model."""

import torch
from torch import nn

from sparsedial.ffn.expression import OutputSlice
from sparsedial.ffn.feed_forward import FFN


def make_ffn(width, hidden=6, seed=0):
    """Return a gated FFN with random weights. Its input and its intermediate vector have ``width`` entries."""
    generator = torch.Generator().manual_seed(seed)
    up, gate, down = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, hidden)
    for module in (up, gate, down):
        for parameter in module.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return FFN(
        layer=0,
        name="mlp",
        up=OutputSlice(up, 0, 1, width),
        gate=OutputSlice(gate, 0, 1, width),
        down=down,
        names={"up": "mlp.up", "gate": "mlp.gate", "down": "mlp.down"},
        hidden=width,
        width=width,
    )
