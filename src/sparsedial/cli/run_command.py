"""``sparsedial run``: measure the critical sparsity of one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sparsedial.cli import run_options as options
from sparsedial.cli.execution import default_folder, execute_study
from sparsedial.cli.options import Device, DType, Kind, MaskToken, Model, Modules, RetryFailed, TrustRemoteCode
from sparsedial.cli.parsing import parse_batch, parse_layers, parse_numbers, parse_pairs, split_names
from sparsedial.study.run_command_options import TASK_OPTIONS, option_name

if TYPE_CHECKING:
    from sparsedial.study.spec import StudySpec


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
    tasks: options.Tasks = "self_prediction",
    include_path: options.IncludePath = None,
    limit: options.Limit = None,
    text: options.TextFile = None,
    num_fewshot: options.NumFewshot = None,
    apply_chat_template: options.ApplyChatTemplate = None,
    metrics: options.Metrics = None,
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
    tolerance: options.Tolerance = 0.01,
    precision: options.Precision = None,
    max_examples: options.MaxExamples = None,
    retry_failed: RetryFailed = False,
    out_dir: options.OutDir = None,
) -> None:
    """Measure the critical sparsity of a model at each site, and write a report.

    Run the same command again to resume an interrupted run.
    """
    from sparsedial.study.runner import LOCAL

    problems: list[str] = []
    spec = _make_spec(context.params, problems)
    folder = out_dir or default_folder(Path(model).resolve().name if Path(model).exists() else model)
    execute_study(spec, folder, device, LOCAL, retry_failed=retry_failed, argument_problems=problems)


def _make_spec(arguments: Mapping[str, Any], problems: list[str]) -> StudySpec:
    """Return the study that the arguments of the command describe, and append their problems to ``problems``."""
    from sparsedial.study.spec import StudySpec
    from sparsedial.tasks.spec import TaskSpec

    values = arguments["p"]
    sites = arguments["site"]
    return StudySpec(
        models=(arguments["model"],),
        sites=tuple(dict.fromkeys(sites)) if sites else None,
        rules=(arguments["rule"],),
        tasks=tuple(map(TaskSpec, split_names(arguments["tasks"]))),
        task_options=_task_options(arguments, problems),
        values=parse_numbers(values, option_name("values"), problems) if values else None,
        tolerance=arguments["tolerance"],
        precision=arguments["precision"],
        max_examples=arguments["max_examples"],
        retain=arguments["retain"],
        layers=parse_layers(arguments["layers"], option_name("layers"), problems),
        modules=parse_pairs(arguments["ffn"], option_name("modules"), problems),
        dtype=arguments["dtype"],
        trust_remote_code=arguments["trust_remote_code"],
        kind=arguments["kind"],
        mask_token=arguments["mask_token"],
    )


def _task_options(arguments: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the task options that the user gave. Other options keep the defaults of the tasks."""
    task_options = {name: arguments[name] for name in TASK_OPTIONS}
    task_options["metrics"] = parse_pairs(arguments["metrics"], option_name("metrics"), problems)
    task_options["batch"] = parse_batch(arguments["batch"], option_name("batch"), problems)
    if arguments["include_path"] is not None:
        task_options["include_path"] = str(arguments["include_path"])
    return {name: value for name, value in task_options.items() if value is not None}
