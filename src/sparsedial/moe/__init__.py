"""Support for mixture-of-experts layers: sparsification of stacked experts and token tracking for listed experts.

A layer either stacks the weights of its experts in one parameter per projection (`stacked_experts`), or holds each
expert as a module of its own in a list (`listed_expert_tokens`).
"""

from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker, RowTracker
from sparsedial.moe.routing import Routing

__all__ = ["ExpertTokenTracker", "Routing", "RowTracker"]
