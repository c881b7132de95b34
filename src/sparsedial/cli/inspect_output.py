"""The output of ``sparsedial inspect``: tables for the terminal, or plain data for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sparsedial.cli.console import out
from sparsedial.ffn.layer_groups import FfnLayout, LayerGroup, format_layers, group_layers
from sparsedial.ffn.projection_input import ATTENTION_INPUT, ATTENTION_OUTPUT
from sparsedial.ffn.site_shares import list_site_shares
from sparsedial.measurement.progress_display import escape_markup

if TYPE_CHECKING:
    from sparsedial.ffn.feed_forward import FFNs
    from sparsedial.models.loading import LanguageModel

SITE_COLUMNS = ("site", "vectors", "of its modules", "of all weights")
SCHEMA = 1
"""Version of the JSON document."""


def describe_model(lm: LanguageModel, ffns: FFNs) -> dict[str, Any]:
    """Return what is printed about a model as plain data.

    Args:
        lm: The model.
        ffns: Its FFNs.

    Returns:
        The content of the JSON document. Shares are fractions, and null if they are unknown.
    """
    from sparsedial.ffn.adapters import describe_adapters

    groups = []
    for group in group_layers(ffns):
        layout = {**asdict(group.layout), "projections": dict(group.layout.projections)}
        groups.append({**layout, "layers": group.layers, "modules": group.modules})
    return {
        "schema": SCHEMA,
        "model": lm.source.name,
        "origin": lm.source.origin,
        "kind": lm.kind,
        "parameters": lm.parameters,
        "weights_per_token": ffns.weights_per_token,
        "ffns": len(ffns),
        "layer_groups": groups,
        "sites": [asdict(share) for share in list_site_shares(ffns)],
        "missing_sites": dict(ffns.outer.missing),
        "layers_without_attention": _list_layers_without_attention(ffns),
        "unsupported": ffns.unsupported,
        "left_out": list(describe_adapters(ffns.adapters)),
    }


def print_model(lm: LanguageModel, ffns: FFNs) -> None:
    """Print the FFNs and the sites of a model.

    Args:
        lm: The model.
        ffns: Its FFNs.
    """
    from sparsedial.ffn.adapters import describe_adapters
    from sparsedial.models.parameter_count import format_parameter_count

    size = format_parameter_count(lm.parameters)
    origin = escape_markup(lm.source.origin)
    out.print(f"{escape_markup(lm.source.name)} (from: {origin}): {size} parameters, {len(ffns)} FFNs", soft_wrap=True)
    groups = group_layers(ffns)
    for group in groups:
        for line in describe_group(group):
            out.print(escape_markup(line), soft_wrap=True)
    for sentence in _describe_missing_ffn_sites(groups):
        out.print(sentence, soft_wrap=True)
    for name, reason in ffns.unsupported.items():
        out.print(f"[yellow]not supported:[/] {escape_markup(name)}: {escape_markup(reason)}", soft_wrap=True)
    for sentence in describe_adapters(ffns.adapters):
        out.print(f"[yellow]left out:[/] {escape_markup(sentence)}", soft_wrap=True)
    if groups:
        out.print(make_site_table(ffns))
    for site, reason in ffns.outer.missing.items():
        out.print(f"[yellow]no site {site}:[/] {escape_markup(reason)}", soft_wrap=True)
    layers = _list_layers_without_attention(ffns)
    if layers:
        out.print(
            f"Layers without softmax attention, which stay dense at {ATTENTION_INPUT} and {ATTENTION_OUTPUT}: "
            f"{format_layers(layers)}",
            soft_wrap=True,
        )


def describe_group(group: LayerGroup) -> list[str]:
    """Return two lines about a group of layers. The experts of a mixture-of-experts layer are described together.

    Args:
        group: The layers.
    """
    layout = group.layout
    path = group.modules[0] if len(group.modules) == 1 else layout.module
    experts = "" if layout.experts is None else f" × {layout.experts} experts"
    noun = "layer" if len(group.layers) == 1 else "layers"
    return [
        f"{noun} {format_layers(group.layers)}: {path}{experts}",
        f"  {layout.kind}, D {layout.hidden}, F {layout.width}: {_describe_projections(layout)}",
    ]


def make_site_table(ffns: FFNs) -> Table:
    """Return a table of the sites, with the shares that can be skipped if all of their entries are dropped.

    Args:
        ffns: The FFNs of the model.
    """
    table = Table(
        caption="Shares of the multiplications of its modules, and of all weights, that can be skipped if all "
        "entries of a site are dropped",
        caption_justify="left",
    )
    for column in SITE_COLUMNS:
        table.add_column(column, justify="left" if column == "site" else "right", overflow="fold")
    for share in list_site_shares(ffns):
        macs = _format_share(share.mac_share, "")
        table.add_row(share.site, str(share.vectors), macs, _format_share(share.skippable_weights, "unknown"))
    return table


def _describe_projections(layout: FfnLayout) -> str:
    """Return the names of the projections with their roles. A fused projection has two roles."""
    roles: dict[str, list[str]] = {}
    for role, name in layout.projections:
        roles.setdefault(name, []).append(role)
    return ", ".join(f"{'+'.join(names)} {name}" for name, names in roles.items())


def _describe_missing_ffn_sites(groups: Sequence[LayerGroup]) -> list[str]:
    """Return a sentence for each group that lacks a site that another group has."""
    known: dict[str, None] = {}
    for group in groups:
        known.update(dict.fromkeys(group.layout.sites))
    sentences = []
    for group in groups:
        missing = [site for site in known if site not in group.layout.sites]
        if missing:
            sentences.append(f"Layers {format_layers(group.layers)} do not have the sites {', '.join(missing)}.")
    return sentences


def _format_share(share: float | None, unknown: str) -> str:
    return unknown if share is None else f"{share:.0%}"


def _list_layers_without_attention(ffns: FFNs) -> list[int]:
    """Return the layers whose FFN is found and that have no attention, such as state-space layers."""
    with_attention = set(map(attrgetter("layer"), ffns.outer.at_site(ATTENTION_OUTPUT)))
    if not with_attention:
        return []
    return sorted(set(map(attrgetter("layer"), ffns)) - with_attention)
