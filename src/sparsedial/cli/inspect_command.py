"""``sparsedial inspect``: show the FFNs of a model, and the share of its weights that each site can skip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsedial.cli.console import log, print_json, set_output
from sparsedial.cli.inspect_output import describe_model, print_model
from sparsedial.cli.options import Device, DType, JsonOutput, Model, Modules, Quiet, TrustRemoteCode
from sparsedial.cli.parsing import parse_pairs
from sparsedial.study.dataclass_parsing import raise_problems
from sparsedial.study.run_command_options import option_name

if TYPE_CHECKING:
    from sparsedial.ffn.feed_forward import FFNs
    from sparsedial.models.loading import LanguageModel


def inspect(  # noqa: PLR0913 - one parameter per command-line option
    model: Model,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Print the FFNs of a model, and the sites at which it can be sparsified."""
    from sparsedial.report.csv_and_json import to_json

    set_output(json, quiet)
    problems: list[str] = []
    modules = parse_pairs(ffn, option_name("modules"), problems)
    raise_problems(problems)
    lm, ffns = _load(model, modules, device, dtype, trust_remote_code)
    if json:
        print_json(to_json(describe_model(lm, ffns)))
    else:
        print_model(lm, ffns)


def _load(
    name: str, modules: dict[str, str] | None, device: str, dtype: str, trust_remote_code: bool
) -> tuple[LanguageModel, FFNs]:
    """Return a model and its FFNs."""
    from sparsedial.ffn.discovery import find_ffns
    from sparsedial.models.loading import load_language_model
    from sparsedial.models.sources import check_model_exists, resolve_source

    check_model_exists(name)
    source = resolve_source(name, trust_remote_code=trust_remote_code, log=log)
    lm = load_language_model(source, device=device, dtype=dtype, log=log)
    return lm, find_ffns(lm.model, modules=modules)
