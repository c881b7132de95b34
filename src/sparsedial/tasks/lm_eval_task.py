"""Any task of the released lm-eval as a `Task`: its prompts, filters and metrics, our forwards."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sparsedial.diffusion.kinds import BLOCK_DIFFUSION, CAUSAL, MASKED_DIFFUSION
from sparsedial.errors import TaskError
from sparsedial.models import LanguageModel
from sparsedial.sparsify import Dial
from sparsedial.tasks import metrics as metrics_
from sparsedial.tasks.base import Group, Progress, Scores, no_progress
from sparsedial.tasks.denoised import DiffusionAnswers
from sparsedial.tasks.generation import Prompt, generate
from sparsedial.tasks.loglikelihood import loglikelihoods, sharing
from sparsedial.tasks.metrics import Metric
from sparsedial.tasks.packing import Window
from sparsedial.tasks.requests import encode, encoder, filters, quietly

VERSION = 1  # raised when the same examples would get other numbers
SEED = 1234  # lm-eval's own for few-shot examples


@dataclass(frozen=True)
class LmEvalTask:
    """One task of lm-eval, its data at hand. Made by `lm_eval_tasks`.

    Attributes:
        name: lm-eval's. group: the one it is averaged in, else the one it was asked for by, or None.
        metric: which of its metrics counts.
        limit: only so many examples. shots: few-shot examples in a prompt, after lm-eval's rules.
        chat: whether prompts go through the tokenizer's chat template.
        seed: of few-shot examples and of sampling. batch_tokens: per forward, padding included.
        diffusion: how a masked diffusion model answers; others need it not.
    """

    name: str
    group: Group | None
    metric: Metric
    limit: int | None
    shots: int
    chat: bool
    seed: int
    batch_tokens: int
    task: Any = field(repr=False, compare=False)
    diffusion: DiffusionAnswers = field(default_factory=DiffusionAnswers)

    def identity(self) -> dict[str, Any]:
        """Everything but the model that moves the number: the task's own configuration and data as hashes."""
        return {
            "task": self.name,
            "version": VERSION,
            "lm_eval": version("lm_eval"),
            "task_version": str(self.task.VERSION),
            "config": self._config_digest,
            "data": self._data_digest,
            "metric": self.metric.shown,
            "limit": self.limit,
            "num_fewshot": self.shots,
            "apply_chat_template": self.chat,
            "seed": self.seed,
            "batch_tokens": self.batch_tokens,
            **({} if self.diffusion == DiffusionAnswers() else {"diffusion": asdict(self.diffusion)}),
        }

    def prepare(self, lm: LanguageModel, progress: Progress = no_progress) -> dict[str, Any]:
        """Every request in the model's tokens, and how far contexts can be shared; see `requests.encode`.

        Raises:
            TaskError: no tokenizer or chat template, or the task returned fewer examples than asked.
        """
        if lm.kind == MASKED_DIFFUSION:
            lm.fills_in()
        coder = encoder(lm)
        if self.chat and not coder.tokenizer.chat_template:
            raise TaskError(
                f"task {self.name!r}: the tokenizer of {lm.source.name!r} has no chat template: "
                "leave --apply-chat-template out, or use an instruction-tuned model"
            )
        with quietly():
            self.task.set_fewshot_seed(seed=self.seed)
            self.task.build_all_requests(
                limit=self.limit,
                cache_requests=False,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=self.chat,  # as lm-eval's command line does
                chat_template=coder.apply_chat_template if self.chat else None,
                tokenizer_name=coder.tokenizer_name if self.chat else "",
            )
        instances, self.task._instances = self.task.instances, None
        examples = encode(self.name, instances, coder, progress)
        self._check_count(len({r["doc"] for r in examples["requests"]}), "made requests for")
        if lm.kind == BLOCK_DIFFUSION and any("windows" in r for r in examples["requests"]):
            raise TaskError(
                f"task {self.name!r} asks for log-likelihoods, which {lm.source.name!r} cannot give, being {lm.kind}: "
                "expected a task that generates"
            )
        if lm.kind == MASKED_DIFFUSION:
            self.diffusion.check(r["limit"] for r in examples["requests"] if "limit" in r)
        return {**examples, "share_up_to": sharing(lm.model) if lm.kind == CAUSAL else 0}

    def score(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> Scores:
        """Answer the requests, and let lm-eval filter and judge the answers.

        Raises:
            TaskError: a log-likelihood is NaN, or there are fewer scores than examples.
        """
        steps = self.diffusion.watch(dial) if lm.kind != CAUSAL else None
        answers, details = self.answers(lm, examples, dial, progress)
        scores = self.judge(examples, answers)
        along = {} if steps is None else steps.usage()
        return replace(
            scores, details={**details, **scores.details, **along}, steps=steps.table() if steps and along else None
        )

    def judge(self, examples: dict[str, Any], answers: list[list[Any]]) -> Scores:
        """What lm-eval makes of answers, whoever gave them; ``details`` holds its aggregate of every metric."""
        results = self._judge(examples["requests"], answers)
        mine = results[self.metric.filter]
        self._check_count(len(mine), "scored")
        details: dict[str, float] = {}
        for (metric, filtered), items in _by_metric(results).items():
            try:
                number = self.task.aggregation()[metric](items)
            except (KeyError, TypeError, ValueError):  # one that cannot be aggregated, or does not fit the data
                continue
            if isinstance(number, (int, float, np.number)):
                details[metric if filtered == "none" else f"{metric},{filtered}"] = float(number)
        return Scores(self.metric.shown, metrics_.values(self.metric, mine, self.name), details)

    # ------------------------------------------------------------------ answering

    def answers(
        self, lm: LanguageModel, examples: dict[str, Any], dial: Dial | None = None, progress: Progress = no_progress
    ) -> tuple[list[list[Any]], dict[str, float]]:
        """Per request, its answers as lm-eval has them (one per repeat), and figures about generated texts.

        Raises:
            TaskError: a log-likelihood is NaN.
        """
        requests, contexts = examples["requests"], examples["contexts"]
        answers: list[list[Any]] = [[] for _ in requests]
        likely = [i for i, r in enumerate(requests) if "windows" in r]
        told = [i for i, r in enumerate(requests) if "windows" not in r for _ in range(r["repeats"])]
        of = len(likely) + len(told)

        groups: dict[int, list[tuple[int, Window]]] = defaultdict(list)
        for i in likely:
            groups[requests[i]["doc"]] += [(i, Window(contexts[c], w)) for c, w in requests[i]["windows"]]
        windows = [[window for _, window in group] for group in groups.values()]
        found = self._loglikelihoods(lm, examples, windows, dial, lambda n, all_: progress(n * len(likely) // all_, of))
        sums: dict[int, list[tuple[float, bool]]] = defaultdict(list)
        for group, scores in zip(groups.values(), found, strict=True):
            for (i, _), score in zip(group, scores, strict=True):
                sums[i].append(score)
        for i in likely:
            total = sum(s for s, _ in sums[i])
            if total != total:
                raise TaskError(
                    f"task {self.name!r}, document {requests[i]['doc']}: the log-likelihood is NaN. The model's output "
                    "is broken at this setting: use a wider dtype, or check the weights."
                )
            rolling = requests[i]["kind"] == "loglikelihood_rolling"
            answers[i] = [total if rolling else (total, all(g for _, g in sums[i]))] * requests[i]["repeats"]
        if not told:
            return answers, {}
        return answers, self._generate(lm, examples, told, answers, dial, lambda n, _: progress(len(likely) + n, of))

    def _loglikelihoods(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        groups: list[list[Window]],
        dial: Dial | None,
        progress: Progress,
    ) -> list[list[tuple[float, bool]]]:
        if lm.kind == MASKED_DIFFUSION:
            return self.diffusion.loglikelihoods(
                lm,
                groups,
                max_length=examples["max_length"],
                greedy="acc" in self.metric.name and self.task.OUTPUT_TYPE == "loglikelihood",
                seed=self.seed,
                batch_tokens=self.batch_tokens,
                dial=dial,
                progress=progress,
            )
        return loglikelihoods(
            lm.model,
            groups,
            max_length=examples["max_length"],
            share_up_to=examples["share_up_to"],
            batch_tokens=self.batch_tokens,
            dial=dial,
            progress=progress,
        )

    def _generate(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        told: Sequence[int],
        answers: list[list[Any]],
        dial: Dial | None,
        progress: Progress,
    ) -> dict[str, float]:
        from lm_eval.models.utils import postprocess_generated_text

        asked = [examples["requests"][i] for i in told]
        prompts = [
            Prompt(examples["contexts"][r["context"]], tuple(r["until"]), r["limit"], r["options"]) for r in asked
        ]
        same: dict[str, Any] = {
            "seed": self.seed,
            "batch_tokens": self.batch_tokens,
            "dial": dial,
            "progress": progress,
        }
        if lm.kind != CAUSAL:
            made = self.diffusion.generate(lm, prompts, **same)
        else:
            made = generate(lm.model, lm.tokenizer, prompts, **same)
        for i, request, answer in zip(told, asked, made, strict=True):
            text = lm.tokenizer.decode(answer.tokens, skip_special_tokens=True)
            answers[i].append(postprocess_generated_text(text, stop=request["until"], think_end_token=None))
        return {
            "generated_tokens": float(np.mean([len(a.tokens) for a in made])),
            "limit_hit": float(np.mean([not a.stopped for a in made])),
        }

    def _judge(self, requests: Sequence[dict[str, Any]], answers: list[list[Any]]) -> dict[str, list[dict[str, Any]]]:
        """Per filter, lm-eval's metrics of every document."""
        from lm_eval.api.instance import Instance

        instances = [
            Instance(
                request_type=r["kind"],
                doc=self._docs[r["doc"]],
                arguments=(),
                idx=r["idx"],
                metadata=(self.name, r["doc"], r["repeats"]),
                resps=answer,
            )
            for r, answer in zip(requests, answers, strict=True)
        ]
        self.task._instances = instances
        with quietly():
            self.task.apply_filters()
            self.task._instances = None
            by_doc: dict[int, list[Any]] = defaultdict(list)
            for instance in sorted(instances, key=lambda i: (i.doc_id, i.idx)):
                by_doc[instance.doc_id].append(instance)
            return {
                name: [
                    self.task.process_results(self._docs[doc], [i.filtered_resps[name] for i in mine])
                    for doc, mine in by_doc.items()
                ]
                for name in filters(self.task)
            }

    # ------------------------------------------------------------------ data

    @cached_property
    def _docs(self) -> dict[int, Any]:
        return dict(self.task.doc_iterator(limit=self.limit))

    @cached_property
    def _data_digest(self) -> str:
        with quietly():
            shots = list(self.task.fewshot_docs() or []) if self.shots else []
        return _digest([list(self._docs.values()), shots])

    @cached_property
    def _config_digest(self) -> str:
        config = {k: v for k, v in vars(self.task.config).items() if k not in ("num_fewshot", "tag", "task_alias")}
        metadata = config.get("metadata") or {}  # the file's place is not part of what it says
        config["metadata"] = {k: v for k, v in metadata.items() if k != "config_source"}
        return _digest(config)

    def _check_count(self, seen: int, did: str) -> None:
        expected = self.limit or len(self.task.eval_docs)
        if seen != expected:
            raise TaskError(f"task {self.name!r} {did} {seen} examples of {expected} asked for")


def _by_metric(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str], list[Any]]:
    """Per metric and filter, what lm-eval aggregates."""
    items: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for name, documents in results.items():
        for document in documents:
            for metric, value in document.items():
                items[metric, name].append(value)
    return items


def _digest(value: Any) -> str:
    """sha256 of anything JSON can hold, and of the source of the functions among it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if callable(value):
        try:  # the whole file: a function may call others beside it
            return [value.__qualname__, Path(inspect.getsourcefile(value) or "").read_text()]
        except (AttributeError, TypeError, OSError):
            return getattr(value, "__qualname__", type(value).__qualname__)
    if is_dataclass(value):
        return vars(value)
    return str(value)
