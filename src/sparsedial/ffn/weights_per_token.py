"""Number of weights that a model reads for one token, of which the weights of a site are a share."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from torch import nn

from sparsedial.ffn.data_flow_trace import DataFlow
from sparsedial.ffn.feed_forward import FFN
from sparsedial.ffn.projections import in_features, out_features


def count_weights_per_token(model: nn.Module, flow: DataFlow, ffns: Iterable[FFN]) -> int | None:
    """Return the number of weights that a forward pass reads for one token.

    Tables of embeddings are not included, because one row of them is read. An output layer that uses the same matrix
    as the embedding is included. Modules that did not run are not included, such as a vision tower. The experts of a
    mixture of experts count in proportion to the tokens that are routed to them.

    Args:
        model: The model.
        flow: The data flow of one forward pass.
        ffns: The FFNs of the model.

    Returns:
        The number of weights. None if the share of the tokens that an expert reads is unknown.
    """
    total = 0.0
    counted: set[int] = set()
    for ffn in ffns:
        if ffn.expert is None:
            continue
        if ffn.active_fraction is None:
            return None
        total += ffn.active_fraction * sum(ffn.macs)
        counted.update(map(id, ffn.down.parameters()))
    modules = dict.fromkeys(map(attrgetter("module"), flow.calls))
    for module in modules:
        own = list(module.parameters())
        if counted.isdisjoint(map(id, own)):
            biases = sum(parameter.numel() for parameter in own if parameter.dim() == 1)
            total += in_features(module) * out_features(module) + biases
        counted.update(map(id, own))
    for key, parameter in flow.read_parameters.items():
        if key not in counted:
            total += parameter.numel()
    return round(total)
