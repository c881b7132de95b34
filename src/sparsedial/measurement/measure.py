"""`sparsedial.measure`: the critical sparsity of a model, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from sparsedial.curves.critical import RETAIN
from sparsedial.measurement.argument_types import check_executor, check_path, check_progress
from sparsedial.measurement.arguments import describe_study
from sparsedial.measurement.progress_display import ProgressDisplay
from sparsedial.measurement.result import Measurement
from sparsedial.measurement.silent_libraries import silent_libraries
from sparsedial.measurement.study_measurement import measure_study
from sparsedial.study.criterion import SCORE
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.progress_listener import ProgressListener
from sparsedial.study.runner import LOCAL


def measure(  # noqa: PLR0913 - one argument per option of `sparsedial run`
    model: Any,
    tokenizer: Any = None,
    *,
    sites: str | Iterable[str] | None = None,
    tasks: Any = "self_prediction",
    rule: Any = "top_p",
    p: float | Iterable[float] | str | None = None,
    precision: float | None = None,
    max_examples: int | None = None,
    tolerance: float = 0.01,
    retain: float = RETAIN,
    criterion: str = SCORE,
    layers: int | Iterable[int] | None = None,
    phases: str | Iterable[str] | None = None,
    modules: Mapping[str, str] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool | ProgressListener = True,
    retry_failed: bool = False,
    executor: ExecutorConfig = LOCAL,
    name: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    kind: str | None = None,
    mask_token: int | None = None,
    accelerated: bool = False,
    **task_options: Any,
) -> Measurement:
    """Measure how much activation sparsity a model tolerates.

    ``sparsedial run`` calls this function. All arguments are checked before a model is loaded.

    If the call is interrupted (Ctrl-C), a model in memory is left as it was before. The same call with the same ``out``
    resumes: it runs only the trials that are missing. Trials of a model in memory are stored under a digest of its
    weights, configuration and tokenizer. An edited model is therefore measured again.

    Args:
        model: A transformers model in memory, or a wrapper of one, which is measured as it is. Or the name of a model:
            a hub ID, a directory, a ``.gguf`` file, an alias or "zoo:NAME".
        tokenizer: The tokenizer of a model in memory. Defaults to None, for tasks that need none.
        sites: Where entries are dropped: "input", "up", "gate", "intermediate", "all_inputs" in the FFNs;
            "attention_input", "attention_output", "lm_head_input" outside of them. Defaults to None, which means all
            sites that its FFNs have.
        tasks: One task or several: names, mappings of a name and options such as ``{"name": "arc_easy", "limit":
            100}``, or objects that implement `sparsedial.tasks.Task`. Defaults to self-prediction.
        rule: Name or class of a rule whose values are chosen by ``p`` or by a search, or a list of them, which are
            compared. Or rules such as ``TopP(0.9)``, which are the points to measure. Defaults to top-p.
        p: Values of the rule parameter, or "paper" for the 26 values of arXiv 2509.00454. Defaults to None, which means
            an adaptive search.
        precision: Half of the width of the 95% interval, in percentage points of sparsity, that the search aims at.
            Defaults to None, in which case ``tolerance`` ends the search.
        max_examples: Number of examples of each task that the search for ``precision`` may use. Defaults to 1024.
        tolerance: Precision of critical sparsity, as a fraction of sparsity, at which the search ends.
        retain: Share of the dense score that a sparse model has to keep.
        criterion: "score", "perplexity" (at most 1% higher than that of the dense model), or "both".
        layers: Indices of the layers to sparsify. Defaults to None, which means all layers.
        phases: "prefill" or "generation", to apply the rule in this phase only: the model is dense in the other one,
            which is not counted. Defaults to None, which means both.
        modules: Name patterns of the FFN projections "up", "gate" and "down". Defaults to None, in which case the
            projections are found by tracing the model.
        out: Directory of the study, which gets the trials and the report. Defaults to None, which means a temporary
            directory.
        progress: Show progress on stderr, or in the notebook. False is silent. An object that implements
            `ProgressListener` receives it. Defaults to True.
        retry_failed: Run failed trials of earlier calls again. Defaults to False.
        executor: Where trials are run. Models and tasks in memory are measured only in this process, the default.
        name: Name of a model in memory in tables and files. Defaults to None, which means the name from which it was
            loaded, else the name of its class.
        device: Device of a model that is loaded by its name: "auto", "cpu", "cuda", "cuda:N" or "spread".
        dtype: Data type of a model that is loaded by its name: "auto", "float32", "bfloat16", "float16" or "float64".
        trust_remote_code: Execute modeling code that comes with a model that is loaded by its name. Defaults to False.
        kind: Expected kind of the model. Defaults to None, in which case it is detected.
        mask_token: Token ID of the mask of a diffusion model. Defaults to None: it is read from the model.
        accelerated: Run sparse trials on the kernels of `sparsedial.accelerate`, so that the result is that of the
            accelerated model. They compute every token as a decode step does. The sites are "input", "intermediate"
            and "all_inputs". Defaults to False.
        **task_options: Options of the tasks, such as ``limit``, ``sequences``, ``length``, ``batch``, ``seed``,
            ``num_fewshot`` or ``include_path``. Each applies to all tasks that have it (docs/tasks.md).

    Returns:
        The tables, the curves and the report.

    Example:
        >>> import sparsedial as sd
        >>> model, tokenizer = sd.load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
        >>> result = sd.measure(model, sites="input", p=[0.9, 0.5], sequences=8, length=8, progress=False)
        >>> result.critical[["site", "task"]].values.tolist()
        [['input', 'self_prediction']]
        >>> result.curve("input").p.tolist()
        [0.9, 0.5]
    """
    check_executor(executor)
    shown = check_progress(progress)
    folder = None if out is None else check_path(out, "out", "a directory, or None for a temporary one")
    spec, objects = describe_study(
        model,
        tokenizer,
        name=name,
        device=device,
        sites=sites,
        tasks=tasks,
        rule=rule,
        p=p,
        precision=precision,
        max_examples=max_examples,
        tolerance=tolerance,
        retain=retain,
        criterion=criterion,
        layers=layers,
        phases=phases,
        modules=modules,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        kind=kind,
        mask_token=mask_token,
        accelerated=accelerated,
        task_options=task_options,
    )
    with ExitStack() as cleanup:
        if shown is True:
            listener: ProgressListener | None = cleanup.enter_context(ProgressDisplay())
        elif shown is False:
            listener = None
            cleanup.enter_context(silent_libraries())
        else:
            listener = shown
        return measure_study(
            spec,
            folder,
            device=device,
            listener=listener,
            executor=executor,
            retry_failed=retry_failed,
            objects=objects,
        )
