"""``sparsedial run``: measure the critical sparsity of one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sparsedial.cli import run_options as options
from sparsedial.cli.console import set_output
from sparsedial.cli.execution import default_folder, print_measurement, run_until_interrupted
from sparsedial.cli.options import (
    Device,
    DType,
    JsonOutput,
    Kind,
    MaskToken,
    Model,
    Modules,
    Quiet,
    RetryFailed,
    TrustRemoteCode,
)
from sparsedial.cli.parsing import parse_batch, parse_layers, parse_pairs, parse_switch, parse_values, split_names
from sparsedial.study.run_command_options import TASK_OPTIONS, option_name

DEFAULT_TASK = "self_prediction"

SAME_NAMES = (
    "rule", "tolerance", "precision", "max_examples", "retain", "criterion", "dtype", "trust_remote_code", "kind",
    "mask_token", "accelerated",
)  # fmt: skip
"""Options whose name and value are those of an argument of `measure`. So are most options of tasks."""


def run(  # noqa: PLR0913 - one parameter per command-line option
    context: typer.Context,
    model: Model,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: TrustRemoteCode = False,
    kind: Kind = None,
    mask_token: MaskToken = None,
    site: options.Site = None,
    rule: options.Rule = "top_p",
    p: options.Values = None,
    layers: options.Layers = None,
    phases: options.Phases = None,
    accelerated: options.Accelerated = False,
    tasks: options.Tasks = None,
    include_path: options.IncludePath = None,
    limit: options.Limit = None,
    text: options.TextFile = None,
    num_fewshot: options.NumFewshot = None,
    apply_chat_template: options.ApplyChatTemplate = None,
    max_gen_toks: options.MaxGenToks = None,
    do_sample: options.DoSample = None,
    metrics: options.Metrics = None,
    thinking_markers: options.ThinkingMarkers = None,
    sequences: options.Sequences = None,
    length: options.Length = None,
    seed: options.Seed = None,
    batch: options.Batch = None,
    diffusion_steps: options.DiffusionSteps = None,
    block_length: options.BlockLength = None,
    remasking: options.Remasking = None,
    temperature: options.Temperature = None,
    guidance: options.Guidance = None,
    mc_samples: options.McSamples = None,
    fraction: options.Fraction = None,
    reuse_mask: options.ReuseMask = None,
    retain: options.Retain = 0.99,
    criterion: options.Criterion = "score",
    tolerance: options.Tolerance = 0.01,
    precision: options.Precision = None,
    max_examples: options.MaxExamples = None,
    retry_failed: RetryFailed = False,
    out_dir: options.OutDir = None,
    json: JsonOutput = False,
    quiet: Quiet = False,
) -> None:
    """Measure the critical sparsity of a model at each site, and write a report.

    Run the same command again to resume an interrupted run.
    """
    from sparsedial.measurement.measure import measure

    set_output(json, quiet)
    arguments = _check_arguments(model, device, context.params)
    folder = out_dir or default_folder(Path(model).resolve().name if Path(model).exists() else model)
    with run_until_interrupted() as display:
        measurement = measure(
            model, device=device, out=folder, progress=display, retry_failed=retry_failed, **arguments
        )
    print_measurement(measurement, json)


def _check_arguments(model: str, device: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `measure` that the options describe. Raise an error if an option is malformed."""
    problems: list[str] = []
    arguments = _measure_arguments(options, problems)
    if problems:
        _raise_all_problems(model, device, arguments, problems)
    return arguments


def _raise_all_problems(model: str, device: str, arguments: Mapping[str, Any], problems: list[str]) -> None:
    """Raise an error about malformed options, together with the problems of the study that the others describe."""
    from sparsedial.measurement.arguments import describe_study
    from sparsedial.study.dataclass_parsing import raise_problems

    study_arguments = {name: value for name, value in arguments.items() if name not in TASK_OPTIONS}
    task_options = {name: value for name, value in arguments.items() if name in TASK_OPTIONS}
    spec, _ = describe_study(model, device=device, task_options=task_options, **study_arguments)
    raise_problems([*problems, *spec.problems(device)])


def _measure_arguments(options: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the arguments of `measure` that the options describe, and append their problems to ``problems``."""
    values = options["p"]
    arguments = {name: options[name] for name in SAME_NAMES}
    task_options = {name: options[name] for name in TASK_OPTIONS}
    task_options["metrics"] = parse_pairs(options["metrics"], option_name("metrics"), problems)
    task_options["apply_chat_template"] = parse_switch(options["apply_chat_template"])
    task_options["batch"] = parse_batch(options["batch"], option_name("batch"), problems)
    return {
        **arguments,
        **task_options,
        "sites": split_names(*options["site"] or ()) or None,
        "tasks": split_names(*options["tasks"] or (DEFAULT_TASK,)),
        "p": parse_values(values, option_name("values"), problems) if values else None,
        "layers": parse_layers(options["layers"], option_name("layers"), problems),
        "phases": split_names(*options["phases"]) if options["phases"] else None,
        "modules": parse_pairs(options["ffn"], option_name("modules"), problems),
    }
