"""Measure which architectures of transformers have the sites outside of the FFNs, and write that part of the page.

    python -m tools.outer_sites docs/architectures.md

It replaces the last section of the page, which `tools.architectures` writes with the rest of it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

import sparsedial as sd
from sparsedial.errors import ModelError
from sparsedial.ffn import FFNs
from sparsedial.ffn.projection_input import OUTER_SITES, ProjectionInput
from tools.tiny_models import MODEL_TYPES, build_tiny_model

HEADING = "## Sites outside of the FFNs"
RULE = sd.TopP(0.5)


@dataclass(frozen=True)
class OuterSitesRow:
    """One row of the table.

    Attributes:
        model_type: Name of the architecture.
        cells: For each of `OUTER_SITES`, the projections that read its vectors, or "none" with the reason.
    """

    model_type: str
    cells: tuple[str, ...]

    @property
    def has_all_sites(self) -> bool:
        """True if the architecture has all sites."""
        return not any(cell.startswith("none") for cell in self.cells)


class _ManualHooks:
    """Hooks that apply the rule to what projections read, without a sparsifier.

    Args:
        vectors: The vectors of one site.

    Attributes:
        dropped: Number of dropped entries by name of the vector. Each vector counts once.
    """

    def __init__(self, vectors: Sequence[ProjectionInput]) -> None:
        self.dropped: dict[str, int] = defaultdict(int)
        self._handles = []
        for vector in vectors:
            for projection in vector.projections:
                counts = projection is vector.projections[0]
                hook = self._make_hook(vector.name if counts else None)
                self._handles.append(projection.register_forward_pre_hook(hook, with_kwargs=True))

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def _make_hook(self, name: str | None) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            x = args[0] if args else next(iter(kwargs.values()))
            y, kept = sd.apply_rule(x, RULE)
            if name is not None:
                self.dropped[name] += x.numel() - int(kept.sum())
            if args:
                return (y, *args[1:]), kwargs
            return args, {**kwargs, next(iter(kwargs)): y}

        return hook


@torch.inference_mode()
def check_outer_site(model: nn.Module, ffns: FFNs, site: str) -> None:
    """Assert that a site is exact: p = 1 is dense, and p = 0.5 gives the logits and counts of hooks made by hand.

    Args:
        model: The model.
        ffns: Its FFNs, with the vectors outside of them.
        site: One of `OUTER_SITES`, which the model has.
    """
    tokens = torch.randint(3, 128, (2, 8), generator=torch.Generator().manual_seed(1))
    vectors = ffns.outer.at_site(site)
    dense = model(input_ids=tokens).logits
    with sd.sparsify(model, site, sd.TopP(1), ffns=ffns):
        assert torch.equal(model(input_ids=tokens).logits, dense), f"{site}: p = 1 changes the logits"
    for layer in sorted({vector.layer for vector in vectors}):
        with sd.sparsify(model, site, RULE, ffns=ffns, layers=[layer]):
            assert not torch.equal(model(input_ids=tokens).logits, dense), f"{site}: layer {layer} has no effect"
    with sd.sparsify(model, site, RULE, ffns=ffns) as sparsifier:
        sparse = model(input_ids=tokens).logits
    hooks = _ManualHooks(vectors)
    expected = model(input_ids=tokens).logits
    hooks.remove()
    assert torch.equal(sparse, expected), f"{site}: the logits differ from those of hooks made by hand"
    dropped = sparsifier.stats().set_index("module")["dropped"].to_dict()
    assert dropped == hooks.dropped, f"{site}: {dropped} entries were dropped, expected {dict(hooks.dropped)}"
    assert torch.equal(model(input_ids=tokens).logits, dense), f"{site}: the model has changed"


def measure_outer_sites(model_type: str, not_built: str | None) -> OuterSitesRow:
    """Build an architecture and sparsify it at each site outside of the FFNs.

    Args:
        model_type: Name of the architecture.
        not_built: Why it is not built. None if it is built.

    Returns:
        The row of the table.
    """
    if not_built is not None:
        return OuterSitesRow(model_type, ("none: not built",) * len(OUTER_SITES))
    model = build_tiny_model(model_type)
    try:
        ffns = sd.find_ffns(model)
    except ModelError:
        return OuterSitesRow(model_type, ("none: no FFN is found",) * len(OUTER_SITES))
    cells = []
    for site in OUTER_SITES:
        vectors = ffns.outer.at_site(site)
        if vectors:
            check_outer_site(model, ffns, site)
            cells.append(_describe_vectors(vectors))
        else:
            cells.append(f"none: {ffns.outer.missing[site]}")
    return OuterSitesRow(model_type, tuple(cells))


def _describe_vectors(vectors: Sequence[ProjectionInput]) -> str:
    layers: dict[str, set[int]] = defaultdict(set)
    for vector in vectors:
        layers[", ".join(vector.names)].add(vector.layer)
    texts = []
    for names, indices in layers.items():
        texts.append(f"{names} (layers {', '.join(map(str, sorted(indices)))})")
    if vectors[0].vector == OUTER_SITES[-1]:
        texts = list(layers)
    return "; ".join(texts)


def render_section(rows: Sequence[OuterSitesRow]) -> str:
    """Return the section of the page in Markdown.

    Args:
        rows: One row per architecture.

    Returns:
        The text, which starts with `HEADING`.
    """
    complete = sum(row.has_all_sites for row in rows)
    lines = [
        HEADING,
        "",
        f"**{complete} of {len(rows)} architectures ({complete / len(rows):.0%}) have all three sites.** At each site,",
        "p = 1 leaves the logits bit-identical, and p = 0.5 in any single layer changes them. With p = 0.5 in all",
        "layers, logits and counts are those of forward hooks that were written for these projections by hand.",
        "",
        "A cell lists the projections that read the vector, and the layers of the tiny model that have it. Layers that",
        "are not listed have no softmax attention, such as those of a linear attention or of a state-space model. They",
        "stay dense at the two sites of the attention. With low-rank queries, keys and values, the vector is read by",
        "the projections that compress the hidden state. A gate of the attention's output that reads the same vector",
        "is included. The projections that only choose the tokens to attend to are not.",
        "",
        f"| architecture | {' | '.join(OUTER_SITES)} |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(f"| {row.model_type} | {' | '.join(row.cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all architectures and replace the section of the page."""
    from tools.architectures import NOT_BUILT

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="Markdown file whose last section is replaced.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # The models are too small for several threads.
    transformers.logging.set_verbosity_error()
    rows = [measure_outer_sites(model_type, NOT_BUILT.get(model_type)) for model_type in MODEL_TYPES]
    text = arguments.page.read_text().partition(f"\n{HEADING}")[0]
    arguments.page.write_text(f"{text.rstrip()}\n\n{render_section(rows)}")


if __name__ == "__main__":
    main()
