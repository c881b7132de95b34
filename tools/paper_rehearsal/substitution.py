"""The study files of the paper with their models, tasks and limits replaced by small ones. Everything else stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsedial.study.spec import StudySpec
from sparsedial.tasks.lm_eval.loader import TASK_SETS
from sparsedial.tasks.spec import TaskSpec

STUDIES = Path(__file__).parents[2] / "examples" / "paper"
TASK_FOLDER = Path(__file__).parent / "tasks"

MODELS = {
    "google/gemma-3-1b-pt": "gemma3-text",
    "google/gemma-3-4b-pt": "gemma3",
    "google/gemma-3-12b-pt": "gemma3",
    "google/gemma-3-27b-pt": "gemma3",
    "meta-llama/Llama-3.2-1B": "zoo:dense-0.4m",
    "meta-llama/Llama-3.2-3B": "zoo:dense-1.3m",
    "meta-llama/Llama-3.1-8B": "zoo:dense-1.3m",
    "meta-llama/Llama-3.1-70B": "zoo:dense-1.3m",
    "Qwen/Qwen2.5-0.5B": "qwen2",
    "Qwen/Qwen2.5-1.5B": "qwen2",
    "Qwen/Qwen2.5-3B": "qwen2",
    "Qwen/Qwen2.5-7B": "qwen2",
    "Qwen/Qwen2.5-14B": "qwen2",
    "Qwen/Qwen2.5-32B": "qwen2",
    "Qwen/Qwen2.5-72B": "qwen2",
    "google/gemma-3-1b-it": "gemma3-text-chat",
    "google/gemma-3-4b-it": "gemma3-text-chat",
    "google/gemma-3-12b-it": "gemma3-text-chat",
    "google/gemma-3-27b-it": "gemma3-text-chat",
    "meta-llama/Llama-3.2-1B-Instruct": "llama-chat",
    "meta-llama/Llama-3.2-3B-Instruct": "llama-chat",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-chat",
    "meta-llama/Llama-3.1-70B-Instruct": "llama-chat",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-3B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-14B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-32B-Instruct": "qwen2-chat",
    "Qwen/Qwen2.5-72B-Instruct": "qwen2-chat",
    "Qwen/Qwen3-4B-Instruct-2507": "qwen3-chat",
    "Qwen/Qwen3-4B-Thinking-2507": "qwen3-thinking",
    "Qwen/Qwen3-30B-A3B": "qwen3-moe",
    "allenai/OLMoE-1B-7B-0924": "olmoe",
    "GSAI-ML/LLaDA-8B-Base": "llada",
}
"""The model of the rehearsal for each model of the paper: one of the zoo, or one that `tiny_models` builds."""

TASKS = {
    "arc_easy": "rehearsal_choice",
    "arc_challenge": "rehearsal_choice",
    "boolq": "rehearsal_choice",
    "hellaswag": "rehearsal_choice",
    "winogrande": "rehearsal_choice",
    "piqa": "rehearsal_choice",
    "sciq": "rehearsal_choice",
    "lambada_standard": "rehearsal_last_word",
    "triviaqa": "rehearsal_answer",
    "gsm8k": "rehearsal_arithmetic",
    "ifeval": "rehearsal_instructions",
    "mmlu_redux": "rehearsal_answer",
    "humaneval": "rehearsal_programs",
    "mbpp": "rehearsal_programs",
    "mmlu": "rehearsal_subjects",
    "ceval-valid": "rehearsal_subjects",
    "cmmlu": "rehearsal_subjects",
    "gpqa_main_n_shot": "rehearsal_choice",
    "denoising": "denoising",
}
"""The task of the rehearsal for each task of the paper: one of the folder ``tasks``, or a built-in one."""

LIMITS = {"limit": 8, "mc_samples": 4}
"""Options of all tasks that bound their work."""
GENERATION_LIMITS = {"max_gen_toks": 6}
"""Options of all tasks that replace those of a study which sets them."""
DENOISING_LIMITS = {"sequences": 8, "length": 8}


def paper_studies() -> list[Path]:
    """Return the study files of the paper, in alphabetical order."""
    return sorted(STUDIES.glob("*.yaml"))


def substitute(spec: StudySpec, model_folder: Path) -> StudySpec:
    """Return a study of the paper with small models, tasks and limits.

    Args:
        spec: The study of the paper.
        model_folder: Folder of the models that are not in the zoo.

    Returns:
        The study of the rehearsal. Models and tasks that stand for several ones are listed once.
    """
    models = dict.fromkeys(_model_name(model, model_folder) for model in spec.models)
    limits = dict(LIMITS)
    for option, limit in GENERATION_LIMITS.items():
        if option in spec.task_options:
            limits[option] = limit
    return replace(
        spec,
        models=tuple(models),
        tasks=tuple(_substitute_tasks(spec.tasks)),
        task_options={**spec.task_options, "include_path": str(TASK_FOLDER), **limits},
    )


def _model_name(model: str, folder: Path) -> str:
    name = MODELS[model]
    return name if name.startswith("zoo:") else str(folder / name)


def _substitute_tasks(tasks: Sequence[TaskSpec]) -> list[TaskSpec]:
    """Return the tasks of the rehearsal with their options. Sets of tasks are replaced by their members."""
    options: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        for name in TASK_SETS.get(task.name, [task.name]):
            limits = DENOISING_LIMITS if name == "denoising" else {}
            options.setdefault(TASKS[name], {**task.options, **limits})
    return [TaskSpec(name, task_options) for name, task_options in options.items()]
