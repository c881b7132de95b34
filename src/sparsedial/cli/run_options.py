"""Options of ``sparsedial run`` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsedial.cli.options import DIFFUSION_PANEL, OUTPUT_PANEL, SEARCH_PANEL, SPARSITY_PANEL, TASKS_PANEL
from sparsedial.study.run_command_options import option_name


def _option(field: str, help_text: str, panel: str, *aliases: str) -> Any:
    return typer.Option(option_name(field), *aliases, help=help_text, rich_help_panel=panel)


def _sparsity_option(field: str, help_text: str) -> Any:
    return _option(field, help_text, SPARSITY_PANEL)


def _task_option(field: str, help_text: str, *aliases: str) -> Any:
    return _option(field, help_text, TASKS_PANEL, *aliases)


def _diffusion_option(field: str, help_text: str) -> Any:
    return _option(field, help_text, DIFFUSION_PANEL)


def _search_option(field: str, help_text: str) -> Any:
    return _option(field, help_text, SEARCH_PANEL)


Site = Annotated[
    list[str] | None,
    _sparsity_option(
        "sites",
        "Site where entries are dropped: input, up, gate, intermediate, all_inputs (in FFNs); attention_input, "
        "attention_output, lm_head_input (outside of them); or a site of an installed package. "
        "Comma-separated or repeated. Default: the sites in FFNs that the model has.",
    ),
]
Rule = Annotated[
    str,
    _sparsity_option(
        "rules",
        "Rule that selects the entries to keep: top_p, top_k, max_p, n_of_m, weighted_top_k, weighted_top_p, "
        "threshold, cett, or a rule of an installed package. Options follow in parentheses: 'top_p(q=2)'.",
    ),
]
Values = Annotated[
    list[str] | None,
    _sparsity_option(
        "values",
        "Comma-separated values of the rule's parameter, each from 0 to 1 for the built-in rules, or paper for the "
        "26 values of arXiv 2509.00454. Default: chosen by an adaptive search.",
    ),
]
Layers = Annotated[
    list[str] | None,
    _sparsity_option("layers", "Indices of the layers to sparsify, such as 0,3,5-9. Default: all layers."),
]
Phases = Annotated[
    list[str] | None,
    _sparsity_option(
        "phases",
        "Phase in which entries are dropped: prefill (prompts and scored texts) or generation. The model is dense in "
        "the other one. Default: prefill,generation.",
    ),
]
Accelerated = Annotated[
    bool,
    _sparsity_option(
        "accelerated",
        "Run the sparse model on the kernels of sparsedial.accelerate, which skip the weights of dropped entries.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    _task_option(
        "tasks",
        "Comma-separated or repeated tasks: self_prediction, restoration, denoising, next_token, masked_token, names "
        "of lm-eval tasks, paper and paper-instruct for those of the paper, or tasks of an installed package. "
        "Default: self_prediction.",
    ),
]
IncludePath = Annotated[
    Path | None,
    _task_option("include_path", "Directory with the YAML files of additional lm-eval tasks.", "--include-dir"),
]
Limit = Annotated[
    int | None,
    _task_option(
        "limit",
        "Number of examples per lm-eval task, or of documents for next_token and masked_token. Default: all.",
    ),
]
TextFile = Annotated[
    str | None,
    _task_option(
        "text",
        "File with the documents for next_token and masked_token: one document per line, or a .jsonl file with the "
        "key text in each line. Default: the held-out documents of the model zoo.",
    ),
]
NumFewshot = Annotated[
    int | None,
    _task_option("num_fewshot", "Number of few-shot examples per prompt of lm-eval tasks. Default: that of each task."),
]
ApplyChatTemplate = Annotated[
    str | None,
    _task_option(
        "apply_chat_template",
        "Apply the tokenizer's chat template to the prompts of lm-eval tasks: on, off, or auto, which applies it if "
        "the tokenizer has one. Default: off, or on if the option is given without a value.",
    ),
]
MaxGenToks = Annotated[
    int | None,
    _task_option(
        "max_gen_toks",
        "Maximum number of tokens that lm-eval tasks generate per text. In a study file, each task can have its own. "
        "Default: that of each task.",
    ),
]
DoSample = Annotated[
    bool | None,
    typer.Option(
        option_name("do_sample"),
        help="Draw the tokens of generated texts at random, with the seed of --seed. The default is that of each task, "
        "which is nearly always greedy decoding.",
        rich_help_panel=TASKS_PANEL,
    ),
]
Metrics = Annotated[
    list[str] | None,
    _task_option(
        "metrics",
        "Metric of a task: TASK=METRIC. Repeatable. Default: see docs/tasks.md.",
    ),
]
ThinkingMarkers = Annotated[
    str | None,
    _task_option(
        "thinking_markers",
        "Texts around the thoughts of a thinking model: START,END such as '<think>,</think>', or none. Generated texts "
        "are then divided into thinking and answer. Default: auto, which reads them from the chat template or the "
        "tokenizer.",
    ),
]
Sequences = Annotated[
    int | None,
    _task_option(
        "sequences", "Number of sequences that self_prediction, restoration and denoising sample. Default: 64."
    ),
]
Length = Annotated[
    int | None,
    _task_option(
        "length",
        "Number of tokens per sequence that self_prediction, restoration and denoising sample, and maximum number per "
        "document of next_token and masked_token. Default: 96.",
    ),
]
Seed = Annotated[
    int | None,
    _task_option(
        "seed", "Random seed of sampling, masks and few-shot examples. Default: 0, or 1234 for lm-eval tasks."
    ),
]
Batch = Annotated[
    str | None,
    _task_option(
        "batch",
        "Maximum number of sequences or documents per forward pass. For lm-eval tasks, number of tokens in units of "
        "512. It is halved when memory runs out. Default: auto (8 on a CPU, 64 on other devices).",
    ),
]
DiffusionSteps = Annotated[
    int | None,
    _diffusion_option(
        "diffusion_steps",
        "Number of denoising steps of restoration, denoising and lm-eval tasks. Default: one per token.",
    ),
]
BlockLength = Annotated[
    int | None,
    _diffusion_option(
        "block_length",
        "Number of tokens per block that denoising and lm-eval tasks complete before the next block. "
        "Default: all tokens.",
    ),
]
Remasking = Annotated[
    str | None,
    _diffusion_option(
        "remasking",
        "Which predictions are masked again after each step of denoising and lm-eval tasks: low_confidence or random. "
        "Default: random for denoising, low_confidence for lm-eval tasks.",
    ),
]
Temperature = Annotated[
    float | None,
    _diffusion_option(
        "temperature",
        "Sampling temperature of denoising and lm-eval tasks. For lm-eval tasks, the default 0 selects the most likely "
        "token. For denoising, 0 means its default of 1. Causal models use it with --do-sample only.",
    ),
]
Guidance = Annotated[
    float | None,
    _diffusion_option(
        "guidance",
        "Weight of classifier-free guidance in denoising and lm-eval tasks. Default: 0 (no guidance).",
    ),
]
McSamples = Annotated[
    int | None,
    _diffusion_option("mc_samples", "Number of Monte Carlo samples per log-likelihood of lm-eval tasks. Default: 128."),
]
Fraction = Annotated[
    float | None,
    _diffusion_option("fraction", "Fraction of tokens that restoration and masked_token mask. Default: 0.5."),
]
ReuseMask = Annotated[
    int | None,
    _diffusion_option(
        "reuse_mask",
        "Number of consecutive denoising steps of denoising and lm-eval tasks that share one set of kept entries. "
        "Default: 1 (no sharing).",
    ),
]
Retain = Annotated[float, _search_option("retain", "Share of the dense score that a sparse model has to keep.")]
Criterion = Annotated[
    str,
    _search_option(
        "criterion",
        "What the search looks for and the report shows: score (see --retain), perplexity (at most 1% higher than that "
        "of the dense model), or both.",
    ),
]
Tolerance = Annotated[
    float,
    _search_option(
        "tolerance", "Precision of critical sparsity, as a fraction of sparsity, at which the search stops."
    ),
]
Precision = Annotated[
    float | None,
    _search_option(
        "precision",
        "Half width of the 95% interval that the search aims at, in percentage points of sparsity, such as 1.5. It "
        "replaces --tolerance. More values of p are measured and, where these do not help, more examples. "
        "Default: none.",
    ),
]
MaxExamples = Annotated[
    int | None,
    _search_option(
        "max-examples",
        "Maximum number of examples of each task that the search for --precision may use. Default: 1024, or all "
        "examples of the task if it has fewer.",
    ),
]
OutDir = Annotated[
    Path | None,
    typer.Option("--out", help="Output directory. Default: runs/<name of the model>.", rich_help_panel=OUTPUT_PANEL),
]
