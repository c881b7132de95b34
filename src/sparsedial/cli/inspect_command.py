"""``sparsedial inspect``: show the FFNs of a model, and the share of its weights that each site can skip."""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING

from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from sparsedial.cli.console import log, out
from sparsedial.cli.options import Device, DType, Model, Modules, TrustRemoteCode
from sparsedial.cli.parsing import parse_pairs
from sparsedial.ffn.feed_forward import SITES
from sparsedial.ffn.projection_input import ATTENTION_INPUT, ATTENTION_OUTPUT
from sparsedial.ffn.site_shares import list_site_shares
from sparsedial.ffn.sites import find_site
from sparsedial.study.dataclass_parsing import raise_problems
from sparsedial.study.run_command_options import option_name

if TYPE_CHECKING:
    from sparsedial.ffn.feed_forward import FFN, FFNs

COLUMNS = ("layer", "module", "kind", "D", "F", "projections", "sites")
NUMERIC_COLUMNS = ("layer", "D", "F")
SITE_COLUMNS = ("site", "vectors", "of the modules' multiplications", "of all weights")


def inspect(
    model: Model,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Print the FFNs of a model, and the sites at which it can be sparsified."""
    from sparsedial.ffn.adapters import describe_adapters
    from sparsedial.ffn.discovery import find_ffns
    from sparsedial.models.loading import load_language_model
    from sparsedial.models.parameter_count import format_parameter_count
    from sparsedial.models.sources import check_model_exists, resolve_source

    problems: list[str] = []
    modules = parse_pairs(ffn, option_name("modules"), problems)
    raise_problems(problems)
    check_model_exists(model)
    source = resolve_source(model, trust_remote_code=trust_remote_code, log=log)
    lm = load_language_model(source, device=device, dtype=dtype, log=log)
    ffns = find_ffns(lm.model, modules=modules)

    size = format_parameter_count(lm.parameters)
    out.print(f"{escape(model)}: {size} parameters, {len(ffns)} FFNs", soft_wrap=True)
    if len(ffns):
        out.print(_ffn_table(ffns))
    for name, reason in ffns.unsupported.items():
        out.print(f"[yellow]not supported:[/] {escape(name)}: {escape(reason)}")
    for sentence in describe_adapters(ffns.adapters):
        out.print(f"[yellow]left out:[/] {escape(sentence)}")
    if len(ffns):
        out.print(_site_table(ffns))
    for site, reason in ffns.outer.missing.items():
        out.print(f"[yellow]no site {site}:[/] {escape(reason)}")
    for sentence in _describe_layers_without_attention(ffns):
        out.print(sentence)


def _site_table(ffns: FFNs) -> Table:
    """Return a table of the sites, with the shares that can be skipped if all of their entries are dropped."""
    table = Table(caption="Shares that can be skipped if all entries of a site are dropped", caption_justify="left")
    for column in SITE_COLUMNS:
        table.add_column(column, justify="left" if column == "site" else "right")
    for share in list_site_shares(ffns):
        macs = _format_share(share.mac_share, "")
        table.add_row(share.site, str(share.vectors), macs, _format_share(share.skippable_weights, "unknown"))
    return table


def _format_share(share: float | None, unknown: str) -> str:
    return unknown if share is None else f"{share:.0%}"


def _describe_layers_without_attention(ffns: FFNs) -> list[str]:
    """Return a sentence about the layers whose FFN is found and that have no attention, such as state-space layers."""
    with_attention = set(map(attrgetter("layer"), ffns.outer.at_site(ATTENTION_OUTPUT)))
    layers = sorted(set(map(attrgetter("layer"), ffns)) - with_attention)
    if not with_attention or not layers:
        return []
    listed = ", ".join(map(str, layers))
    return [f"Layers without softmax attention, which stay dense at {ATTENTION_INPUT} and {ATTENTION_OUTPUT}: {listed}"]


def _ffn_table(ffns: FFNs) -> Table:
    """Return a table with one row per FFN. The experts of a mixture-of-experts layer share one row."""
    table = Table()
    for column in COLUMNS:
        justify: JustifyMethod = "right" if column in NUMERIC_COLUMNS else "left"
        table.add_column(column, justify=justify, overflow="fold")  # no name is cut off in a narrow terminal
    expert_counts = Counter((ffn.layer, ffn.moe_path) for ffn in ffns)
    for ffn in ffns:
        name = ffn.name
        if ffn.moe_path:
            if ffn.expert:
                continue
            name = f"{ffn.moe_path} × {expert_counts[ffn.layer, ffn.moe_path]}"
        projections = _projection_names(ffn)
        table.add_row(
            str(ffn.layer),
            escape(name),
            _ffn_kind(ffn),
            str(ffn.hidden),
            str(ffn.width),
            escape(projections),
            ", ".join(_available_sites(ffn)),
        )
    return table


def _ffn_kind(ffn: FFN) -> str:
    if not ffn.gated:
        return "plain"
    if len(ffn.input_projections) == 1:
        return "gated, fused"
    return "gated"


def _projection_names(ffn: FFN) -> str:
    prefix = f"{ffn.moe_path or ffn.name}."
    names = [f"{role} {path.removeprefix(prefix)}" for role, path in ffn.names.items()]
    return ", ".join(names)


def _available_sites(ffn: FFN) -> list[str]:
    return [site for site in SITES if find_site(site).unsupported_reason(ffn) is None]
