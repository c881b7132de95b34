"""Groups of layers whose FFNs are built alike, for listings of a model's FFNs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparsedial.ffn.feed_forward import FFN, SITES, FFNs
from sparsedial.ffn.sites import find_site


@dataclass(frozen=True)
class FfnLayout:
    """Layout that the FFNs of a group of layers have in common.

    Attributes:
        module: Path of the module that contains the projections, with ``*`` in place of the index of the layer. The
            layer's own path is in `LayerGroup.modules`.
        kind: "plain", "gated", or "gated, fused" if one projection computes both branches.
        experts: Number of experts in each layer. None if the FFN is not a mixture of experts.
        hidden: Width of the input vector.
        width: Width of the intermediate vector.
        projections: Name of each projection inside the module, by role.
        sites: The built-in sites at which the FFN can be sparsified.
    """

    module: str
    kind: str
    experts: int | None
    hidden: int
    width: int
    projections: tuple[tuple[str, str], ...]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose FFNs have the same layout.

    Attributes:
        layers: Indices of the layers, in ascending order.
        modules: Path of the module with the projections in each layer, or of the module with its experts.
        layout: What the layers have in common.
    """

    layers: tuple[int, ...]
    modules: tuple[str, ...]
    layout: FfnLayout


def group_layers(ffns: FFNs) -> list[LayerGroup]:
    """Return the FFNs of a model as groups of layers that are built alike.

    Args:
        ffns: The FFNs of the model.

    Returns:
        The groups, in the order of their first layers.
    """
    modules: dict[tuple[int, str], list[FFN]] = defaultdict(list)
    for ffn in ffns:
        modules[ffn.layer, ffn.moe_path or ffn.name].append(ffn)
    members: dict[FfnLayout, list[tuple[int, str]]] = defaultdict(list)
    for (layer, module), same_module in modules.items():
        members[_describe_layout(layer, module, same_module)].append((layer, module))
    groups = []
    for layout, entries in members.items():
        layers = tuple(layer for layer, _ in entries)
        paths = tuple(module for _, module in entries)
        groups.append(LayerGroup(layers, paths, layout))
    return groups


def format_layers(layers: Iterable[int]) -> str:
    """Return indices of layers as text, with ranges.

    Args:
        layers: Indices in any order.

    Example:
        >>> format_layers([0, 1, 2, 3, 7, 9, 10])
        '0–3, 7, 9–10'
    """
    runs: list[list[int]] = []
    for layer in sorted(set(layers)):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    texts = []
    for run in runs:
        if len(run) == 1:
            texts.append(str(run[0]))
        else:
            texts.append(f"{run[0]}–{run[-1]}")
    return ", ".join(texts)


def _describe_layout(layer: int, module: str, ffns: Sequence[FFN]) -> FfnLayout:
    """Return the layout of the FFN, or of the experts, in one module."""
    first = ffns[0]
    names = []
    for role in sorted(first.names, key=("gate", "up", "down").index):
        names.append((role, first.names[role].removeprefix(f"{module}.")))
    return FfnLayout(
        module=_hide_index(module, layer),
        kind=_describe_kind(first),
        experts=len(ffns) if first.moe_path else None,
        hidden=first.hidden,
        width=first.width,
        projections=tuple((role, _hide_index(name, layer)) for role, name in names),
        sites=tuple(site for site in SITES if find_site(site).unsupported_reason(first) is None),
    )


def _hide_index(path: str, layer: int) -> str:
    """Return a path with ``*`` in place of the first component that is the index of the layer."""
    return re.sub(rf"(?<![^.]){layer}(?![^.])", "*", path, count=1)


def _describe_kind(ffn: FFN) -> str:
    if not ffn.gated:
        return "plain"
    if len(ffn.input_projections) == 1:
        return "gated, fused"
    return "gated"
