"""``sparsedial inspect``: show the FFNs of a model."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import JustifyMethod
from rich.markup import escape
from rich.table import Table

from sparsedial.cli.console import log, out
from sparsedial.cli.options import Device, DType, Model, Modules, TrustRemoteCode
from sparsedial.cli.parsing import parse_pairs
from sparsedial.ffn.feed_forward import SITES
from sparsedial.ffn.sites import find_site, skippable_mac_share
from sparsedial.study.dataclass_parsing import raise_problems
from sparsedial.study.run_command_options import option_name

if TYPE_CHECKING:
    from sparsedial.ffn.feed_forward import FFN, FFNs

COLUMNS = ("layer", "module", "kind", "D", "F", "projections", "sites")
NUMERIC_COLUMNS = ("layer", "D", "F")


def inspect(
    model: Model,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Print the FFNs of a model and the sites at which they can be sparsified."""
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
        shares = []
        for site in _available_sites(ffns[0]):
            shares.append(f"{site} {sum(skippable_mac_share(ffns[0], site).values()):.0%}")
        intro = "Share of the FFN's multiplications that can be skipped if all entries of a site are dropped"
        out.print(f"{intro}: {', '.join(shares)}")


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
