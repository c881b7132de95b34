"""Evaluation of a model on the kernels that skip weights, while a sparsifier applies the rule and counts.

A kernel skips every entry that is zero already. So the sparsifier sets the dropped entries to zero, and the kernel gets
the vectors that it gets in an accelerated model. Each token is computed as in a decode step, also in prompts, and the
result has the same bits: the result of a product does not depend on the other vectors of the call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from sparsedial.acceleration.backend import load_backend
from sparsedial.acceleration.kept_input_projections import KeptInputProjections
from sparsedial.acceleration.projections import ProjectionPatch, ProjectionSettings
from sparsedial.acceleration.supported_models import check_dtype, check_ffns
from sparsedial.acceleration.whole_ffns import FfnPatch, WholeFfn, find_formula
from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.dense_copies import DenseCopies

KERNEL_SITES = ("input", "intermediate", "all_inputs")
"""Sites whose dropped entries are zeros of the vectors that the projections read."""


def check_kernels(model: nn.Module, ffns: Sequence[FFN]) -> None:
    """Check that FFNs can run on the kernels. A `ModelError` is raised if they cannot.

    Args:
        model: The model.
        ffns: Some of its FFNs.
    """
    check_dtype(ffns, load_backend(check_ffns(model, ffns)))


@contextmanager
def run_on_kernels(model: nn.Module, ffns: Sequence[FFN]) -> Iterator[None]:
    """Run FFNs on the kernels, for any number of tokens, until the end of the `with` block.

    Args:
        model: The model.
        ffns: Some of its FFNs. They have passed `check_kernels`.

    Yields:
        None: Nothing.
    """
    backend = load_backend(check_ffns(model, ffns))
    settings = ProjectionSettings(backend, "decode", None)
    with ExitStack() as cleanup:
        for ffn in ffns:
            formula = find_formula(model, ffn, backend)
            for modules in (ffn.input_projections, [ffn.down]):
                projections = KeptInputProjections(modules, None, settings)
                cleanup.callback(projections.layout.restore)
                for module in modules:
                    cleanup.callback(ProjectionPatch(module, projections).remove)
            if formula is not None and backend.ffn_kernels is not None:
                whole = WholeFfn(formula, backend.ffn_kernels, ffn, sys.maxsize)
                cleanup.callback(FfnPatch(model.get_submodule(ffn.name), whole).remove)
        cleanup.callback(DenseCopies(model).remove)
        yield
