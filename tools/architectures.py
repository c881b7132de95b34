"""Measure which architectures of transformers are supported, and write the page about them.

    python -m tools.architectures docs/architectures.md

Every architecture in the causal language model mapping is built with tiny, random weights. Its FFNs are found and
sparsified at every site.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import FFN, SITES, FFNs
from tools.architecture_counts import check_cached_step, check_padding
from tools.outer_sites import measure_outer_sites, render_section
from tools.tiny_models import MODEL_TYPES, build_tiny_model, count_ffn_layers

# Architectures that are not built, with the reason.
NOT_BUILT = {
    "gemma3n": "its vision tower needs Pillow and timm (the text model, gemma3n_text, works)",
    "gemma4_assistant": "a draft model that runs only on another model's hidden states, keys and values",
    "gemma4_unified_assistant": "a draft model that runs only on another model's hidden states, keys and values",
}
# Architectures in which no FFN is found, with the reason.
NOTHING_FOUND = {
    "falcon_mamba": "state-space layers only, no FFN",
    "mamba": "state-space layers only, no FFN",
    "mamba2": "state-space layers only, no FFN",
    "zamba2": "up and gate are sums of a shared projection's and a low-rank adapter's outputs",
}


@dataclass(frozen=True)
class ArchitectureRow:
    """One row of the table.

    Attributes:
        model_type: Name of the architecture.
        result: Starts with "works", "partly", "none found", "not built" or "fails".
        kind: "plain", "gated" or "fused gated". Empty if no FFN has projections that are modules.
        projections: Names of its projections.
        experts: Kind and projections of stacked experts. Empty if there are none.
        layers: Number of layers in which an FFN was found.
        sites: Names of the supported sites.
        padding: Result of `check_padding`.
        cached_step: Result of `check_cached_step`.
    """

    model_type: str
    result: str
    kind: str = ""
    projections: str = ""
    experts: str = ""
    layers: str = ""
    sites: str = ""
    padding: str = ""
    cached_step: str = ""

    @property
    def status(self) -> str:
        """The first words of the result."""
        return self.result.partition(":")[0]


def supported_sites(ffns: Sequence[FFN]) -> list[str]:
    """Return the sites that every FFN has.

    Args:
        ffns: The FFNs. If there are none, there is no site.

    Returns:
        Names of the sites.
    """
    if not ffns:
        return []
    sites = set(SITES)
    for ffn in ffns:
        sites -= {site for site in SITES if ffn.unsupported_reason(site) is not None}
    return sorted(sites, key=SITES.index)


@torch.inference_mode()
def check_sparsification(model: nn.Module, ffns: FFNs) -> None:
    """Assert that p = 1 is dense bit for bit, that p = 0.5 in any layer is not, and that the model is restored.

    The message of a failed assertion names the site.

    Args:
        model: The model.
        ffns: Its FFNs.
    """
    tokens = torch.randint(3, 128, (2, 8), generator=torch.Generator().manual_seed(1))
    before = model_state(model)
    dense = model(input_ids=tokens).logits
    assert dense.isfinite().all(), "logits are not finite"
    for site in supported_sites(ffns):
        with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
            assert torch.equal(model(input_ids=tokens).logits, dense), f"{site}: p = 1 changes the logits"
        for layer in sorted({ffn.layer for ffn in ffns}):
            with sd.sparsify(model, site, sd.TopP(0.5), ffns=ffns, layers=[layer]) as sparsifier:
                assert not torch.equal(model(input_ids=tokens).logits, dense), f"{site}: layer {layer} has no effect"
        assert 0 < sparsifier.sparsity() < 1, f"{site}: a sparsity of {sparsifier.sparsity()}"
    assert torch.equal(model(input_ids=tokens).logits, dense), "the model has changed"
    assert model_state(model) == before, "a hook or a patch remains"


def model_state(model: nn.Module) -> list[Any]:
    """Return everything in a model that a hook, a patch or a forgotten flag would change.

    Args:
        model: The model.

    Returns:
        One entry per module and parameter, to be compared with ``==``.
    """
    state: list[Any] = []
    for name, module in model.named_modules():
        hooks = [list(value.items()) for key, value in vars(module).items() if "hooks" in key and value]
        state.append((name, module.training, sorted(vars(module)), *hooks))
    for parameter in model.parameters():
        state.append((parameter.data_ptr(), parameter._version, parameter.requires_grad))
    return state


def measure(model_type: str) -> ArchitectureRow:
    """Build an architecture, find its FFNs and sparsify them.

    Args:
        model_type: Name of the architecture.

    Returns:
        The row of the table.
    """
    if model_type in NOT_BUILT:
        return ArchitectureRow(model_type, f"not built: {NOT_BUILT[model_type]}")
    model = build_tiny_model(model_type)
    padding = cached_step = ""
    try:
        ffns = sd.find_ffns(model)
        if ffns:
            supported = FFNs(list(ffns))
            check_sparsification(model, supported)
            padding = check_padding(model, supported)
            cached_step = check_cached_step(model, supported)
    except ModelError:
        return ArchitectureRow(model_type, f"none found: {NOTHING_FOUND.get(model_type, 'not known why')}")
    except AssertionError as error:
        return ArchitectureRow(model_type, f"fails: {error}")
    kind, projections = _describe([ffn for ffn in ffns if ffn.stacked_module is None])
    experts = _describe([ffn for ffn in ffns if ffn.stacked_module is not None])
    ffn_layers = {ffn.layer for ffn in ffns}
    return ArchitectureRow(
        model_type,
        _result(ffns),
        kind,
        projections,
        experts=" ".join(experts).strip(),
        layers=f"{len(ffn_layers)} of {count_ffn_layers(model_type, model)}",
        sites=", ".join(supported_sites(ffns)),
        padding=padding,
        cached_step=cached_step,
    )


def _result(ffns: FFNs) -> str:
    if not ffns.unsupported:
        return "works"
    modules = sorted({re.sub(r"\.\d+\.", ".*.", path) for path in ffns.unsupported})
    return f"partly: experts stacked in `{modules[0]}`, which runs them by itself"


def _describe(ffns: Sequence[FFN]) -> tuple[str, str]:
    """Return the kind of the first FFN and the names of its projections (up, down, gate)."""
    if not ffns:
        return "", ""
    ffn = ffns[0]
    kind = "plain"
    if ffn.gated:
        kind = "fused gated" if ffn.names["gate"] == ffn.names["up"] else "gated"
    parent = ffn.name if ffn.stacked_module is None else ffn.moe_path
    names = [path.removeprefix(f"{parent}.") for path in ffn.names.values()]
    return kind, ", ".join(dict.fromkeys(names))


def render_page(rows: Sequence[ArchitectureRow]) -> str:
    """Return the page in Markdown.

    Args:
        rows: One row per architecture.

    Returns:
        The text of docs/architectures.md.
    """
    counts = Counter(row.status for row in rows)
    stacked = sum(row.status == "works" and bool(row.experts) for row in rows)
    lines = [
        "# Architectures",
        "",
        "*For the researcher who asks whether a model is supported.*",
        "",
        f"This page lists every architecture in the causal-LM mapping of transformers {transformers.__version__},",
        "with the result of a measurement on a tiny, randomly initialised model. No module was named by hand.",
        "`make architectures` writes this page. `tests/ffn/test_architectures.py` fails if a result differs from it.",
        "",
        f"- **{counts['works']} work.** An FFN is found in every layer that has one. At every listed site,",
        "  p = 1 leaves the logits bit-identical, p = 0.5 in any single layer changes them, and the model is",
        "  unchanged afterwards.",
        f"  Of these architectures, {stacked} are mixtures of experts that stack the weights of the experts in one",
        "  parameter. Each expert is an FFN.",
        f"- **{counts['partly']} work partly.** They are mixtures of experts, too, but the module in the last column",
        "  runs its stacked experts without transformers' experts interface. An error names this module. The other",
        "  FFNs of the model work.",
        f"- **{counts['none found']} have no FFN that is found**, and **{counts['not built']} are not built** in this",
        "  measurement. The last column states the reason.",
        f"- **{counts['fails']} fail.**",
        "",
        "*Layers* is the number of layers in which an FFN was found, and the number of layers of the tiny model that",
        "have one (experts included). The site `all_inputs` is available wherever `input` and `intermediate` are.",
        "",
        "*Padding* compares a padded batch with its rows, one by one and without padding. `counted`: the counts are",
        "equal. `error`: the architecture computes another number of vectors than tokens, so that a padded batch is an",
        "error. State the real vectors with `observe(real=...)`, or run without padding.",
        "*Cached step* compares the phases of the forward passes of `generate` with the number of vectors that they",
        "compute. `counted`: the phases are right. `no cache`: each forward pass computes all tokens again.",
        "`not called`: the tiny model cannot be called with a cache, also without a sparsifier.",
        "",
        "| architecture | FFN | projections (up, down, gate) | stacked experts | layers | sites | padding "
        "| cached step | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *map(_render_row, rows),
    ]
    return "\n".join(lines) + "\n"


def _render_row(row: ArchitectureRow) -> str:
    sites = row.sites.replace(", all_inputs", "")
    cells = (
        row.model_type,
        row.kind,
        row.projections,
        row.experts,
        row.layers,
        sites,
        row.padding,
        row.cached_step,
        row.result,
    )
    return "| " + " | ".join(cells).replace("  ", " ") + " |"


def main() -> None:
    """Measure all architectures and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown file to write.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # The models are too small for several threads.
    transformers.logging.set_verbosity_error()
    rows = [measure(model_type) for model_type in MODEL_TYPES]
    outer_sites = [measure_outer_sites(model_type, NOT_BUILT.get(model_type)) for model_type in MODEL_TYPES]
    arguments.page.write_text(f"{render_page(rows)}\n{render_section(outer_sites)}")


if __name__ == "__main__":
    main()
