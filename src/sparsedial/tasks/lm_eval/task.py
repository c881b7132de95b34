"""Implementation of `Task` with the prompts, filters and metrics of lm-eval and the forward passes of sparsedial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar

from sparsedial.errors import TaskError
from sparsedial.hooks.forward_context import PHASES, PREFILL
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.batch_size import default_rows
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.model_limits import check_token_ids
from sparsedial.inference.prefix_tree import MAX_TREE_TOKENS
from sparsedial.inference.run_context import Progress, RunContext, find_speed_callback, ignore_progress
from sparsedial.inference.thinking_markers import find_markers
from sparsedial.inference.thinking_segments import SegmentDivider
from sparsedial.models.kind import MASKED_DIFFUSION
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.base import Scores, TaskGroup
from sparsedial.tasks.batch_option import copy_with
from sparsedial.tasks.chat_template import AUTO, IDENTITY_ENTRY, has_chat_template
from sparsedial.tasks.example_blocks import EXAMPLES, ExampleBlock
from sparsedial.tasks.lm_eval.answering import Answers, LoglikelihoodPlan, answer_requests
from sparsedial.tasks.lm_eval.chance import chance_score
from sparsedial.tasks.lm_eval.digests import code_digest, config_digest, digest, unread_code
from sparsedial.tasks.lm_eval.encoder import make_weightless_hflm, seed_random_generators, silence_lm_eval
from sparsedial.tasks.lm_eval.generation_statistics import average_documents
from sparsedial.tasks.lm_eval.judging import aggregate_metrics, apply_metrics, document_id
from sparsedial.tasks.lm_eval.likelihoods import find_perplexity_metric, likelihood_columns
from sparsedial.tasks.lm_eval.metrics import Metric, check_mean, find_result_metric, per_example_values
from sparsedial.tasks.lm_eval.options import TOKENS_PER_BATCH_ROW, LmEvalSettings
from sparsedial.tasks.lm_eval.request_workload import count_work
from sparsedial.tasks.lm_eval.requests import GENERATION, PreparedRequests, encode_requests
from sparsedial.tasks.workload import Workload

VERSION = 3  # incremented when the same examples would get other numbers
MAX_RENDERED_DOCUMENTS = 128
"""Number of documents whose requests are part of the identity of a task."""
SAMPLED_DOCUMENTS = 32
"""Number of documents from which the work of a task is estimated."""
SHARED_BY_BLOCKS = ("unread_code", "_data_digest", "_config_digest", "_code_digest", "_requests_digest")
"""Cached properties that are the same for all blocks of a task."""


@dataclass(frozen=True)
class LmEvalTask:
    """One task of lm-eval with its data. `load_lm_eval_tasks` creates it.

    Attributes:
        name: lm-eval's name of the task, after the name of a group and ``::`` if another task has the same name.
        group: Group that averages the task, else the group by which the task was requested, else None.
        metric: Metric that defines the score.
        num_fewshot: Few-shot examples per prompt.
        settings: How the task is run.
        lm_eval_task: Task object of lm-eval.
        block: Range of documents to score. None means all that the settings request.
    """

    needs_tokenizer: ClassVar[bool] = True

    name: str
    group: TaskGroup | None
    metric: Metric
    num_fewshot: int
    settings: LmEvalSettings
    lm_eval_task: Any = field(repr=False, compare=False)
    block: ExampleBlock | None = None

    @cached_property
    def unread_code(self) -> tuple[str, ...]:
        """Places at which the code of the task loads code whose changes are not noticed, such as ``utils.py: exec``."""
        return tuple(unread_code(self.lm_eval_task))

    @property
    def reuse_mask(self) -> int:
        """Number of denoising steps for which a diffusion model reuses its kept sets."""
        return self.settings.diffusion.reuse_mask

    @property
    def gives_likelihoods(self) -> bool:
        """True if a metric of the task is a perplexity."""
        return self._perplexity_metric is not None

    @cached_property
    def _perplexity_metric(self) -> str | None:
        return find_perplexity_metric(self.lm_eval_task, self.metric.name)

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases of the forward passes, see `sparsedial.tasks.base.scored_phases`."""
        return PHASES if self.lm_eval_task.OUTPUT_TYPE == GENERATION else (PREFILL,)

    def batch_rows(self, lm: LanguageModel) -> int:
        """Return the maximum number of tokens per forward pass, in units of `TOKENS_PER_BATCH_ROW`. See `BatchedTask`.

        Args:
            lm: The model, on its device.
        """
        if self.settings.batch_tokens is None:
            return default_rows(lm.device)
        return max(1, self.settings.batch_tokens // TOKENS_PER_BATCH_ROW)

    def with_batch(self, rows: int) -> LmEvalTask:
        """Return a task that differs only in its number of tokens per forward pass.

        Args:
            rows: Maximum number of tokens, in units of `TOKENS_PER_BATCH_ROW`.
        """
        return copy_with(self, settings=replace(self.settings, batch_tokens=TOKENS_PER_BATCH_ROW * rows))

    def with_chat_template(self, is_available: bool) -> LmEvalTask:
        """Return the task for a model, if the model decides whether its chat template is applied.

        Args:
            is_available: True if the tokenizer of the model has a chat template.
        """
        if self.settings.apply_chat_template is not None:
            return self
        return copy_with(self, settings=replace(self.settings, apply_chat_template=is_available))

    @property
    def _chat_template_choice(self) -> bool | str:
        """True or False if the chat template is applied or not, "auto" if the model decides it."""
        if self.settings.apply_chat_template is None:
            return AUTO
        return self.settings.apply_chat_template

    def _batch_tokens(self, lm: LanguageModel) -> int:
        return self.settings.batch_tokens or TOKENS_PER_BATCH_ROW * self.batch_rows(lm)

    @property
    def is_divisible(self) -> bool:
        """False if examples are weighted by their number of instructions, which depends on the other examples."""
        return self.metric.averages_examples

    def count_examples(self) -> int:
        """Return the number of documents that the settings request."""
        return self.settings.limit or len(self.lm_eval_task.eval_docs)

    def count_available(self) -> int | None:
        """Return the number of documents of the task."""
        return len(self.lm_eval_task.eval_docs)

    def select_examples(self, block: ExampleBlock) -> LmEvalTask:
        """Return the task with these documents only.

        Args:
            block: Range of documents.
        """
        selected = replace(self, block=block)
        for name in SHARED_BY_BLOCKS:
            vars(selected)[name] = getattr(self, name)
        return selected

    @property
    def _example_block(self) -> ExampleBlock:
        """Range of documents to score."""
        return self.block or ExampleBlock(0, self.count_examples())

    def is_same_evaluation(self, other: LmEvalTask) -> bool:
        """Return True if another task of the same name and settings has the same score.

        Args:
            other: Task that may differ in its configuration, its few-shot examples or its metric.
        """
        return (
            self.num_fewshot == other.num_fewshot
            and self.metric == other.metric
            and self._config_digest == other._config_digest
        )

    def identity(self) -> dict[str, Any]:
        """Return everything about the task that changes the score.

        The configuration, the code, all data, and the prompts and targets of up to `MAX_RENDERED_DOCUMENTS` documents
        are included as hashes. They do not depend on the number of examples that are scored.

        Raises:
            TaskError: lm-eval cannot create the requests.
        """
        identity = {
            "task": self.name,
            "version": VERSION,
            "lm_eval": version("lm_eval"),
            "task_version": str(self.lm_eval_task.VERSION),
            "config": self._config_digest,
            "code": self._code_digest,
            "data": self._data_digest,
            "requests": self._requests_digest,
            "metric": self.metric.label,
            "higher_is_better": self.metric.higher_is_better,
            "num_fewshot": self.num_fewshot,
            IDENTITY_ENTRY: self._chat_template_choice,
            "seed": self.settings.seed,
            EXAMPLES: self._example_block.to_json(),
        }
        if self.unread_code:
            identity["unread_code"] = list(self.unread_code)
        generation = self.settings.generation.to_json()
        if generation:
            identity["generation"] = generation
        if self.settings.diffusion != DiffusionOptions():
            identity["diffusion"] = self.settings.diffusion.to_json()
        if self.settings.thinking_markers is not None:  # they change the statistics of the texts
            identity["thinking_markers"] = list(map(asdict, self.settings.thinking_markers))
        return identity

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Return every request in the tokens of a model.

        Args:
            lm: Model with a tokenizer.
            progress: Called with the requests done and in total.

        Returns:
            `PreparedRequests` as plain JSON.

        Raises:
            TaskError: The model has no tokenizer or chat template, cannot answer this kind of request, or lacks a token
                of the tokenizer, or lm-eval cannot create the requests, or made fewer than requested.
            ModelError: The model is a masked diffusion model without a mask token.
            SpecError: The denoising schedule does not fit the length of the texts, or the tokenizer cannot encode a
                thinking marker.
        """
        backend = make_backend(lm, self.settings.diffusion)
        encoder = make_weightless_hflm(lm)
        instances = self._build_instances(lm, encoder)
        prepared = encode_requests(
            self.name,
            instances,
            encoder,
            progress,
            needs_context=backend.kind != MASKED_DIFFUSION,
            generation=self.settings.generation,
        )
        self._check_count(len(prepared.documents()), "made requests for")
        check_token_ids(lm, prepared.token_rows())
        self._make_divider(lm)  # raises an error if the tokenizer cannot encode a marker
        backend.check_requests(
            self.name,
            needs_loglikelihoods=bool(prepared.loglikelihood_requests()),
            generation_lengths=[request.limit for request in prepared.generation_requests().values()],
        )
        max_shared_length = backend.max_shared_length(
            LoglikelihoodPlan.from_requests(prepared).groups,
            max_length=prepared.max_length,
            batch_tokens=MAX_TREE_TOKENS,  # any batch size has the same prepared requests
        )
        return replace(prepared, max_shared_length=max_shared_length).to_json()

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
            TaskError: The answers cannot be scored, see `judge`.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        answers = self.answer(lm, examples, sparsifier, progress)
        scores = self.judge(examples, answers.responses)
        columns = average_documents(answers.texts, list(self._documents)) if answers.texts else {}
        return replace(scores, details={**answers.details, **scores.details}, columns={**scores.columns, **columns})

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
            TaskError: The model refuses the options of a generation.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        return answer_requests(
            make_backend(lm, self.settings.diffusion),
            PreparedRequests.from_json(examples),
            self.name,
            need_greedy=self._need_greedy,
            run=RunContext(
                sparsifier,
                progress,
                self._batch_tokens(lm),
                self.settings.seed,
                report_speed=find_speed_callback(progress),
                divider=self._make_divider(lm),
            ),
        )

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, estimated from the first `SAMPLED_DOCUMENTS` documents. See `EstimatedTask`.

        Args:
            lm: The model, whose weights may be on the device "meta", and its tokenizer.

        Raises:
            TaskError: The model has no tokenizer or chat template, or a request does not fit into it.
        """
        count = len(self._example_block)
        first = self._example_block.first
        sample = self.select_examples(ExampleBlock(first, first + min(count, SAMPLED_DOCUMENTS)))
        encoder = make_weightless_hflm(lm)
        instances = sample._build_instances(lm, encoder)
        prepared = encode_requests(
            self.name,
            instances,
            encoder,
            needs_context=lm.kind != MASKED_DIFFUSION,
            generation=self.settings.generation,
        )
        targets = {}
        for index, document in sample._documents.items():
            target = self.lm_eval_task.doc_to_target(document)
            targets[index] = len(encoder.tok_encode(target)) if isinstance(target, str) else 1
        work = count_work(prepared, lm.kind, self.settings.diffusion, targets, self._need_greedy)
        return work.scaled(count)

    @property
    def _need_greedy(self) -> bool:
        """True if a metric needs to know whether continuations are greedy, which costs diffusion models more."""
        return "acc" in self.metric.name and self.lm_eval_task.OUTPUT_TYPE == "loglikelihood"

    def judge(self, examples: dict[str, Any], responses: Sequence[Sequence[Any]]) -> Scores:
        """Score answers with lm-eval's filters and metrics.

        Args:
            examples: Requests from `prepare`.
            responses: Answers to each request in lm-eval's format, from any model.

        Returns:
            One number per document. The details hold lm-eval's aggregate of every metric.

        Raises:
            TaskError: There are fewer scores than examples, a score is not a finite number, or their mean is not
                lm-eval's number.
        """
        requests = PreparedRequests.from_json(examples).requests
        results = apply_metrics(self.lm_eval_task, self._documents, requests, responses)
        judged = results[self.metric.filter]
        self._check_count(len(judged.metrics), "scored")
        aggregates = aggregate_metrics(self.lm_eval_task, results)
        metric = find_result_metric(self.metric, judged.metrics, self._metric_names)
        values = per_example_values(metric, judged.metrics, self.name)
        check_mean(metric, float(values.mean()), aggregates, self.name)
        return Scores(
            metric=self.metric.label,
            values=values,
            details=aggregates,
            higher_is_better=self.metric.higher_is_better,
            chance=self._chance,
            predictions=tuple(judged.predictions),
            ids=tuple(document_id(index, document) for index, document in self._documents.items()),
            columns=likelihood_columns(self._perplexity_metric, judged.metrics),
        )

    def _make_divider(self, lm: LanguageModel) -> SegmentDivider | None:
        """Return the divider of generated texts, or None if the task generates none or the model has no markers."""
        if self.lm_eval_task.OUTPUT_TYPE != GENERATION:
            return None
        markers = find_markers(lm.tokenizer, self.settings.thinking_markers)
        return None if markers is None else SegmentDivider(lm.tokenizer, markers)

    def _build_instances(self, lm: LanguageModel, encoder: Any) -> list[Any]:
        """Return lm-eval's requests of the task."""
        arguments: dict[str, Any] = {}
        has_template = has_chat_template(encoder.tokenizer)
        applies_template = self.with_chat_template(has_template).settings.apply_chat_template
        if applies_template:
            if not has_template:
                raise TaskError(
                    f"task {self.name!r}: the tokenizer of {lm.source.name!r} has no chat template, and "
                    "--apply-chat-template is on. Set it to auto or off, or use an instruction-tuned model."
                )
            arguments = {"chat_template": encoder.apply_chat_template, "tokenizer_name": encoder.tokenizer_name}
        block = self._example_block
        # Requests of earlier documents are built as well, because few-shot examples are drawn for one after the other.
        try:
            instances = self._build_requests(
                limit=block.end,
                apply_chat_template=applies_template,
                fewshot_as_multiturn=applies_template,  # as lm-eval's command line does
                **arguments,
            )
        except Exception as error:  # a chat template is code of the model and can raise any exception
            advice = "check the task's YAML, its code and its data"
            if applies_template:
                advice = f"the chat template of {lm.source.name!r} may not suit the task: set --apply-chat-template off"
            raise TaskError(
                f"task {self.name!r}: lm-eval cannot create its requests: {advice} ({type(error).__name__}: {error})"
            ) from error
        return [instance for instance in instances if instance.doc_id >= block.first]

    def _build_requests(self, **arguments: Any) -> list[Any]:
        with silence_lm_eval(), seed_random_generators():
            self.lm_eval_task.set_fewshot_seed(seed=self.settings.seed)
            self.lm_eval_task.build_all_requests(cache_requests=False, **arguments)
        instances: list[Any] = self.lm_eval_task.instances
        self.lm_eval_task._instances = None
        return instances

    def _check_count(self, count: int, action: str) -> None:
        """Raise an error if lm-eval processed another number of examples than expected."""
        expected = len(self._example_block)
        if count != expected:
            raise TaskError(f"task {self.name!r} {action} {count} examples, expected {expected}")

    @property
    def _metric_names(self) -> list[str]:
        """Names of the metrics in the task's configuration."""
        names = []
        for entry in self.lm_eval_task.config.metric_list or ():
            names.append(getattr(entry["metric"], "__name__", str(entry["metric"])))
        return names

    @cached_property
    def _chance(self) -> float | None:
        return chance_score(self.metric, self.lm_eval_task, self._documents.values())

    @property
    def _all_documents(self) -> dict[int, Any]:
        return dict(self.lm_eval_task.doc_iterator())

    @cached_property
    def _documents(self) -> dict[int, Any]:
        block = self._example_block
        documents = self.lm_eval_task.doc_iterator(limit=block.end)
        return {index: document for index, document in documents if index >= block.first}

    @cached_property
    def _data_digest(self) -> str:
        shots: list[Any] = []
        if self.num_fewshot:
            with silence_lm_eval():
                shots = list(self.lm_eval_task.fewshot_docs() or [])
        return digest([list(self._all_documents.values()), shots])

    @cached_property
    def _config_digest(self) -> str:
        return config_digest(self.lm_eval_task.config)

    @cached_property
    def _code_digest(self) -> str:
        return code_digest(self.lm_eval_task)

    @cached_property
    def _requests_digest(self) -> str:
        """Digest of the prompts, options, generation arguments and targets of documents that are evenly distributed."""
        documents = self._all_documents
        indices = list(documents)[:: math.ceil(len(documents) / MAX_RENDERED_DOCUMENTS)]
        task = self.lm_eval_task
        try:
            instances = self._build_requests(samples=indices)
            with silence_lm_eval(), seed_random_generators():
                targets = [task.doc_to_target(documents[index]) for index in indices]
        except Exception as error:  # the code of a task can raise any exception
            raise TaskError(
                f"task {self.name!r}: lm-eval cannot create its requests: check its YAML, its code and its data "
                f"({type(error).__name__}: {error})"
            ) from error
        requests = [[instance.doc_id, instance.request_type, list(instance.arguments)] for instance in instances]
        return digest([requests, targets])
