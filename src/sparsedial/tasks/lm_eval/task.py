"""Implementation of `Task` with the prompts, filters and metrics of lm-eval and the forward passes of sparsedial."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.base import Scores, TaskGroup
from sparsedial.tasks.lm_eval.answering import Answers, answer_requests
from sparsedial.tasks.lm_eval.digests import config_digest, digest
from sparsedial.tasks.lm_eval.encoder import make_weightless_hflm, silence_lm_eval
from sparsedial.tasks.lm_eval.judging import aggregate_metrics, apply_metrics
from sparsedial.tasks.lm_eval.metrics import Metric, per_example_values
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from sparsedial.tasks.lm_eval.requests import PreparedRequests, encode_requests

VERSION = 1  # incremented when the same examples would get other numbers


@dataclass(frozen=True)
class LmEvalTask:
    """One task of lm-eval with its data. `load_lm_eval_tasks` creates it.

    Attributes:
        name: lm-eval's name of the task.
        group: Group that averages the task, else the group by which the task was requested, else None.
        metric: Metric that defines the score.
        num_fewshot: Few-shot examples per prompt.
        settings: How the task is run.
        lm_eval_task: Task object of lm-eval.
    """

    name: str
    group: TaskGroup | None
    metric: Metric
    num_fewshot: int
    settings: LmEvalSettings
    lm_eval_task: Any = field(repr=False, compare=False)

    @property
    def reuse_mask(self) -> int:
        """Number of denoising steps for which a diffusion model reuses its kept sets."""
        return self.settings.diffusion.reuse_mask

    def identity(self) -> dict[str, Any]:
        """Return everything about the task that changes the score. Configuration and data are included as hashes."""
        identity = {
            "task": self.name,
            "version": VERSION,
            "lm_eval": version("lm_eval"),
            "task_version": str(self.lm_eval_task.VERSION),
            "config": self._config_digest,
            "data": self._data_digest,
            "metric": self.metric.label,
            "limit": self.settings.limit,
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.settings.apply_chat_template,
            "seed": self.settings.seed,
            "batch_tokens": self.settings.batch_tokens,
        }
        if self.settings.diffusion != DiffusionOptions():
            identity["diffusion"] = self.settings.diffusion.to_json()
        return identity

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Return every request in the tokens of a model.

        Args:
            lm: Model with a tokenizer.
            progress: Called with the requests done and in total.

        Returns:
            `PreparedRequests` as plain JSON.

        Raises:
            TaskError: The model has no tokenizer or chat template, cannot answer this kind of request, or the task
                returned fewer examples than requested.
            ModelError: The model is a masked diffusion model without a mask token.
            SpecError: The denoising schedule does not fit the length of the texts.
        """
        backend = make_backend(lm, self.settings.diffusion)
        encoder = make_weightless_hflm(lm)
        instances = self._build_instances(lm, encoder)
        prepared = encode_requests(self.name, instances, encoder, progress)
        self._check_count(len(prepared.documents()), "made requests for")
        backend.check_requests(
            self.name,
            needs_loglikelihoods=bool(prepared.loglikelihood_requests()),
            generation_lengths=[request.limit for request in prepared.generation_requests().values()],
        )
        return replace(prepared, max_shared_length=backend.max_shared_length()).to_json()

    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Answer the requests with a model, and score the answers with lm-eval.

        Args:
            lm: Model that the requests were prepared for.
            examples: Requests from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the requests done and in total.

        Returns:
            One number per document. The details hold lm-eval's aggregate of every metric.

        Raises:
            TaskError: A log-likelihood is NaN, or there are fewer scores than examples.
        """
        answers = self.answer(lm, examples, sparsifier, progress)
        scores = self.judge(examples, answers.responses)
        return replace(scores, details={**answers.details, **scores.details})

    def answer(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Answers:
        """Answer the requests with a model.

        Args:
            lm: Model that the requests were prepared for.
            examples: Requests from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the requests done and in total.

        Returns:
            The answers in lm-eval's format, and statistics of the generated texts.

        Raises:
            TaskError: A log-likelihood is NaN, or the model refuses the options of a generation.
        """
        return answer_requests(
            make_backend(lm, self.settings.diffusion),
            PreparedRequests.from_json(examples),
            self.name,
            need_greedy="acc" in self.metric.name and self.lm_eval_task.OUTPUT_TYPE == "loglikelihood",
            run=RunContext(sparsifier, progress, self.settings.batch_tokens, self.settings.seed),
        )

    def judge(self, examples: dict[str, Any], responses: Sequence[Sequence[Any]]) -> Scores:
        """Score answers with lm-eval's filters and metrics.

        Args:
            examples: Requests from `prepare`.
            responses: Answers to each request in lm-eval's format, from any model.

        Returns:
            One number per document. The details hold lm-eval's aggregate of every metric.

        Raises:
            TaskError: There are fewer scores than examples, or a score is not a number.
        """
        requests = PreparedRequests.from_json(examples).requests
        results = apply_metrics(self.lm_eval_task, self._documents, requests, responses)
        metric_results = results[self.metric.filter]
        self._check_count(len(metric_results), "scored")
        details = aggregate_metrics(self.lm_eval_task, results)
        return Scores(self.metric.label, per_example_values(self.metric, metric_results, self.name), details)

    def _build_instances(self, lm: LanguageModel, encoder: Any) -> list[Any]:
        """Return lm-eval's requests of the task."""
        arguments: dict[str, Any] = {}
        if self.settings.apply_chat_template:
            if not encoder.tokenizer.chat_template:
                raise TaskError(
                    f"task {self.name!r}: the tokenizer of {lm.source.name!r} has no chat template: leave "
                    "--apply-chat-template out, or use an instruction-tuned model"
                )
            arguments = {"chat_template": encoder.apply_chat_template, "tokenizer_name": encoder.tokenizer_name}
        with silence_lm_eval():
            self.lm_eval_task.set_fewshot_seed(seed=self.settings.seed)
            self.lm_eval_task.build_all_requests(
                limit=self.settings.limit,
                cache_requests=False,
                apply_chat_template=self.settings.apply_chat_template,
                fewshot_as_multiturn=self.settings.apply_chat_template,  # as lm-eval's command line does
                **arguments,
            )
        instances: list[Any] = self.lm_eval_task.instances
        self.lm_eval_task._instances = None
        return instances

    def _check_count(self, count: int, action: str) -> None:
        """Raise an error if lm-eval processed another number of examples than expected."""
        expected = self.settings.limit or len(self.lm_eval_task.eval_docs)
        if count != expected:
            raise TaskError(f"task {self.name!r} {action} {count} examples, expected {expected}")

    @cached_property
    def _documents(self) -> dict[int, Any]:
        return dict(self.lm_eval_task.doc_iterator(limit=self.settings.limit))

    @cached_property
    def _data_digest(self) -> str:
        shots: list[Any] = []
        if self.num_fewshot:
            with silence_lm_eval():
                shots = list(self.lm_eval_task.fewshot_docs() or [])
        return digest([list(self._documents.values()), shots])

    @cached_property
    def _config_digest(self) -> str:
        return config_digest(self.lm_eval_task.config)
