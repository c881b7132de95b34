"""Decoder layers with bottleneck adapters, and mixtures of experts that resemble them."""

import torch
from torch import nn

from tests.support.ffn_modules import HIDDEN, WIDTH, GatedFFN, ListedExperts

BOTTLENECK = 3  # Width of the adapters.


class Bottleneck(nn.Module):
    """An adapter with a residual connection.

    Args:
        width: Width of its intermediate vector.
    """

    def __init__(self, width=BOTTLENECK):
        super().__init__()
        self.down = nn.Linear(HIDDEN, width)
        self.up = nn.Linear(width, HIDDEN)

    def forward(self, x):
        return x + self.up(torch.relu(self.down(x)))


class SequentialAdapterLayer(nn.Module):
    """An FFN with an adapter behind it (Houlsby, Pfeiffer)."""

    def __init__(self):
        super().__init__()
        self.mlp = GatedFFN()
        self.adapter = Bottleneck()

    def forward(self, x):
        return self.adapter(self.mlp(x))


class ParallelAdapterLayer(SequentialAdapterLayer):
    """An FFN with an adapter that reads the same input."""

    def forward(self, x):
        return self.mlp(x) + self.adapter(x)


class DirectAdapterLayer(nn.Module):
    """An FFN with an adapter whose projections are directly in the layer."""

    def __init__(self):
        super().__init__()
        self.mlp = GatedFFN()
        self.adapter_down = nn.Linear(HIDDEN, BOTTLENECK)
        self.adapter_up = nn.Linear(BOTTLENECK, HIDDEN)

    def forward(self, x):
        x = self.mlp(x)
        return x + self.adapter_up(torch.relu(self.adapter_down(x)))


class WrappedAdapterLayer(nn.Module):
    """An FFN that was replaced by a module with the FFN and an adapter in it, in a dictionary with an unused one."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.ModuleDict(
            {"base": GatedFFN(), "adapters": nn.ModuleDict({"english": Bottleneck(), "french": UncallableBottleneck()})}
        )

    def forward(self, x):
        x = self.mlp["base"](x)
        rows = torch.arange(x.shape[1])
        return self.mlp["adapters"]["english"](x[:, rows])


class UncallableBottleneck(Bottleneck):
    """An adapter that needs a second argument."""

    def forward(self, x, residual):
        return super().forward(x) + residual


class SharedExpertLayer(ListedExperts):
    """Narrow experts in a list, beside a wide shared expert.

    Args:
        experts: Number of experts.
    """

    def __init__(self, experts=5):
        super().__init__(lambda: Bottleneck(4), experts)
        self.shared_expert = GatedFFN()

    def forward(self, x):
        return super().forward(x) + self.shared_expert(x)


class NarrowSharedExpertLayer(ListedExperts):
    """Wide experts in a list, beside a narrow shared expert."""

    def __init__(self):
        super().__init__(GatedFFN, 5)
        self.shared_expert = Bottleneck()

    def forward(self, x):
        return super().forward(x) + self.shared_expert(x)


class ParameterRouterLayer(nn.Module):
    """Narrow experts beside a wide shared expert, with a router that is a parameter of the layer."""

    def __init__(self):
        super().__init__()
        self.router = nn.Parameter(torch.randn(5, HIDDEN))
        self.experts = nn.ModuleList(Bottleneck(4) for _ in range(5))
        self.shared_expert = GatedFFN()

    def forward(self, x):
        weights = (x @ self.router.T).softmax(-1).split(1, -1)
        routed = sum(expert(x) * weight for expert, weight in zip(self.experts, weights, strict=True))
        return self.shared_expert(x) + routed


assert BOTTLENECK < HIDDEN < WIDTH
