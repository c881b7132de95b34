"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from sparsedial.errors import SpecError
from sparsedial.study.run_command_options import option_name

MODEL_PANEL = "Model"
SPARSITY_PANEL = "Sparsity"
TASKS_PANEL = "Tasks"
DIFFUSION_PANEL = "Diffusion"
SEARCH_PANEL = "Search"
OUTPUT_PANEL = "Output"

Model = Annotated[
    str,
    typer.Argument(
        help="Model: a Hugging Face Hub ID, a directory with safetensors files, a .gguf file, an alias such as "
        "smollm2-135m, or zoo:NAME for a model of the zoo.",
        show_default=False,
    ),
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        option_name("modules"),
        help="Name pattern of an FFN projection: up=PATTERN, gate=PATTERN or down=PATTERN. Repeatable. "
        "Default: the projections are detected by tracing the model.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Device of the model: auto, cpu, cuda, cuda:N, or spread, which distributes the model over all GPUs.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DType = Annotated[
    str,
    typer.Option(
        help="Data type of the model: auto, float32, bfloat16, float16 or float64.", rich_help_panel=MODEL_PANEL
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Execute modeling code that comes with the model.", rich_help_panel=MODEL_PANEL
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        help="Kind of the model: causal, masked-diffusion or block-diffusion. Default: detected from the model.",
        rich_help_panel=MODEL_PANEL,
    ),
]
MaskToken = Annotated[
    int | None,
    typer.Option(
        help="Mask token ID of a diffusion model. Default: read from the configuration or tokenizer.",
        rich_help_panel=MODEL_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print results and errors only, without messages and progress.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
JsonOutput = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the results as one JSON document to stdout. Tables, messages and progress go to stderr.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="Run failed trials of earlier runs again.", rich_help_panel=OUTPUT_PANEL),
]
Reference = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        help="Values to compare with, drawn as open marks: paper (the values of arXiv 2509.00454), a reference file, "
        "or the directory, results.json or critical.csv of another report. Repeatable.",
    ),
]
IncludeMissing = Annotated[
    bool,
    typer.Option(
        "--include-missing", help="Include the values of the references for which there is no measurement here."
    ),
]


def check_reference_options(reference: Sequence[str] | None, include_missing: bool) -> None:
    """Check that an option for references comes with a reference.

    Args:
        reference: Value of ``--reference``.
        include_missing: Value of ``--include-missing``.

    Raises:
        SpecError: The values of references are to be included, but there is no reference.
    """
    if include_missing and not reference:
        raise SpecError("--include-missing: it has no effect without --reference. Add a reference, or leave it out.")
