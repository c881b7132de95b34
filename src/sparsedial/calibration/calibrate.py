"""Calibration of a rule for one site of a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from sparsedial.calibration.vector_collector import VectorCollector
from sparsedial.errors import SpecError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFNs, VectorOwner
from sparsedial.ffn.sites import check_site
from sparsedial.hooks.ffn_selection import read_layers, select_owners
from sparsedial.hooks.rule_binding import undefined_reason
from sparsedial.hooks.site_attachment import list_vectors
from sparsedial.hooks.sparsifier import sparsify
from sparsedial.inference.model_limits import max_positions
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.in_memory import ModelInMemory, check_model, default_name
from sparsedial.models.loading import LanguageModel
from sparsedial.rules import Calibration, Rule, TopP, calibrates_vectors, check_rule, find_rule_class, make_rule
from sparsedial.rules.calibration import DEFAULT_TOKENS, MIN_TOKENS, SAMPLES
from sparsedial.tasks.base import Task
from sparsedial.tasks.batch_option import BatchedTask
from sparsedial.tasks.chat_template import resolve_task
from sparsedial.tasks.example_blocks import DivisibleTask, ExampleBlock
from sparsedial.tasks.registry import NO_OPTIONS, make_tasks
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.spec import TaskSpec

SAMPLE_LENGTH = 96
"""Number of tokens of each text that is sampled from the model."""

SAMPLE_SEED = 1
"""Random seed of the sampled texts. It is not the default seed of self-prediction, which scores other texts."""

PreparedTexts = dict[str, dict[str, Any]]
"""Examples that tasks have prepared for one model, by the identity of the task as text."""

EXAMPLES_AT_ONCE = 16
"""Number of examples of a task that are prepared and scored before the tokens are counted."""


@dataclass(frozen=True)
class SiteSelection:
    """A site in some layers of a model.

    Attributes:
        ffns: The FFNs of the model.
        site: Name of the site.
        layers: Indices of the layers. Defaults to None: all layers.
    """

    ffns: FFNs
    site: str
    layers: tuple[int, ...] | None = None

    def select(self) -> list[VectorOwner]:
        """Return the FFNs or projections of the site, after checking that they have it."""
        selected = select_owners(self.ffns, self.site, self.layers)
        check_site(selected, self.site)
        return selected


def check_data(rule: Rule, task_options: Mapping[str, Any]) -> None:
    """Check the calibration data of a rule. It needs no model.

    Args:
        rule: A rule that defines `Rule.calibrate_vector`.
        task_options: Options of the task whose examples are the data.

    Raises:
        SpecError: The task or its options are unknown.
    """
    data = data_name(rule)
    if data != SAMPLES:
        make_tasks([TaskSpec(data, task_options)])


def data_name(rule: Rule) -> str:
    """Return the field ``data`` of a rule: the name of a task, or "samples". It is "samples" without such a field.

    Args:
        rule: The rule.
    """
    return str(getattr(rule, "data", SAMPLES))


def make_data_task(rule: Rule, lm: LanguageModel, task_options: Mapping[str, Any]) -> Task:
    """Return the task whose examples are the calibration data of a rule.

    Args:
        rule: A rule that defines `Rule.calibrate_vector`.
        lm: The model.
        task_options: Options of the task. They do not apply to samples of the model.
    """
    data = data_name(rule)
    if data != SAMPLES:
        [task] = make_tasks([TaskSpec(data, task_options)])
        return resolve_task(task, lm)
    length = min(SAMPLE_LENGTH, max_positions(lm.model) or SAMPLE_LENGTH)
    return SelfPrediction(sequences=ceil(_count_tokens(rule) / length), length=length, seed=SAMPLE_SEED)


def _count_tokens(rule: Rule) -> int:
    return int(getattr(rule, "tokens", DEFAULT_TOKENS))


def calibrate(
    model: Any,
    tokenizer: Any = None,
    *,
    rule: str | type[Rule] | Rule,
    site: str,
    layers: Iterable[int] | None = None,
    ffns: FFNs | None = None,
    **task_options: Any,
) -> Calibration:
    """Calibrate a rule for a site of a model.

    `sparsedial.measure` and studies do this by themselves.

    Args:
        model: The model, which no sparsifier is attached to.
        tokenizer: Its tokenizer. Defaults to None, for models and data that need none.
        rule: Name, class or object of a rule that needs a calibration, such as "threshold(tokens=512)". Its fields name
            the calibration data. Its value does not matter: a calibration holds for all values.
        site: Site at which the rule will be applied.
        layers: Indices of the layers. Defaults to None: all layers.
        ffns: The FFNs of the model. Defaults to None: they are found by `find_ffns`.
        **task_options: Options of the task whose examples are the calibration data.

    Returns:
        The calibration, for the argument of `sparsify` with this name.

    Raises:
        SpecError: The rule needs no calibration or is not defined at the site, there are too few tokens, or a layer is
            unknown.

    Example:
        >>> import sparsedial as sd
        >>> model, tokenizer = sd.load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
        >>> rule = sd.Threshold(0.5, tokens=96)
        >>> calibration = calibrate(model, tokenizer, rule=rule, site="input")
        >>> with sd.sparsify(model, "input", rule, calibration=calibration) as sparsifier:
        ...     _ = model(tokenizer("A sentence", return_tensors="pt")["input_ids"])
        >>> 0.2 < sparsifier.sparsity() < 0.8
        True
    """
    rule = _make_rule(rule)
    check_data(rule, task_options)
    check_model(model)
    lm = ModelInMemory(model, tokenizer, default_name(model)).make_language_model()
    if ffns is None:
        ffns = find_ffns(model)
    selection = SiteSelection(ffns, site, None if layers is None else read_layers(layers))
    return Calibration(calibrate_site(rule, lm, selection, task_options))


def calibrate_site(
    rule: Rule,
    lm: LanguageModel,
    selection: SiteSelection,
    task_options: Mapping[str, Any] = NO_OPTIONS,
    progress: Progress = ignore_progress,
    prepared: PreparedTexts | None = None,
) -> dict[str, Any]:
    """Return the values of the calibration of a rule for a site of a model.

    Args:
        rule: A rule that defines `Rule.calibrate_vector`, with any value.
        lm: The model, without a sparsifier.
        selection: The site.
        task_options: Options of the task whose examples are the calibration data. Defaults to none.
        progress: Called while texts are sampled.
        prepared: Texts of earlier calibrations of this model, which are used again. New ones are added. Defaults to
            None.

    Returns:
        Plain JSON: the rule, the site, the data, and for each FFN its fingerprint and the result for each vector.

    Raises:
        SpecError: The rule is not defined at the site, or a vector has seen too few tokens.
    """
    selected = selection.select()
    for vector in list_vectors(selected, selection.site):
        reason = undefined_reason(rule, vector)
        if reason is not None:
            raise SpecError(f"{reason}.")
    task = make_data_task(rule, lm, task_options)
    source = _TextSource(lm, {} if prepared is None else prepared, progress)
    collector = _collect(source, selection, task, _count_tokens(rule))
    by_name = {ffn.name: ffn for ffn in selected}
    entries: dict[str, dict[str, Any]] = {}
    for counter, key in enumerate(collector.keys):
        ffn = by_name[key.module]
        vectors = collector.vectors(counter)
        if len(vectors) < MIN_TOKENS:
            raise SpecError(
                f"{key.module}: too few calibration tokens for the vector {key.vector!r} of layer {key.layer}: "
                f"{len(vectors)}, expected at least {MIN_TOKENS}. {_advise(rule, ffn)}"
            )
        entry = entries.setdefault(key.module, {"fingerprint": ffn.fingerprint, "vectors": {}})
        entry["vectors"][key.vector] = dict(rule.calibrate_vector(vectors, ffn, key.vector))
    return {
        "rule": rule.name,
        "site": selection.site,
        "data": data_name(rule),
        "tokens": _count_tokens(rule),
        "task": task.identity(),
        "ffns": entries,
    }


def _make_rule(rule: str | type[Rule] | Rule) -> Rule:
    """Return a rule that is calibrated on vectors."""
    if isinstance(rule, type):
        rule = rule.name
    if isinstance(rule, str):
        rule = make_rule(rule, find_rule_class(rule).dense_value)
    if not (check_rule(rule).needs_calibration and calibrates_vectors(type(rule))):
        raise SpecError(f"rule {rule!r}: it needs no calibration by sparsedial.calibrate, expected threshold or cett")
    return rule


@dataclass(frozen=True)
class _TextSource:
    """The texts of calibrations of one model, each of which is prepared once.

    Attributes:
        lm: The model.
        prepared: The texts so far.
        progress: Called while texts are sampled.
    """

    lm: LanguageModel
    prepared: PreparedTexts
    progress: Progress

    def find_texts(self, task: Task) -> dict[str, Any]:
        """Return the examples of a task. The model has to be dense while they are prepared."""
        key = json.dumps(task.identity(), sort_keys=True)
        if key not in self.prepared:
            self.prepared[key] = task.prepare(self.lm, self.progress)
        return self.prepared[key]


def _collect(source: _TextSource, selection: SiteSelection, task: Task, tokens: int) -> VectorCollector:
    """Return the vectors of a site. The model computes the examples of a task until there are enough tokens."""
    attached = sparsify(source.lm.model, selection.site, TopP(1.0), layers=selection.layers, ffns=selection.ffns)
    with attached as sparsifier:
        collector = VectorCollector(sparsifier, tokens)
        for part in _divide(task):
            sparsifier.enabled = False  # sampled texts are not observed while they are sampled
            examples = source.find_texts(part)
            sparsifier.enabled = True
            part.score(source.lm, examples, sparsifier)
            if collector.most_tokens >= tokens:
                break
    return collector


def _divide(task: Task) -> Iterator[Task]:
    """Yield parts of a task, with one text per forward pass where that can be chosen."""
    if isinstance(task, BatchedTask):
        task = task.with_batch(1)
    if not isinstance(task, DivisibleTask) or not task.is_divisible:
        yield task
        return
    count = task.count_examples()
    for first in range(0, count, EXAMPLES_AT_ONCE):
        yield task.select_examples(ExampleBlock(first, min(first + EXAMPLES_AT_ONCE, count)))


def _advise(rule: Rule, ffn: VectorOwner) -> str:
    if ffn.expert is not None:
        return "Few tokens are routed to this expert. Use more calibration tokens, or leave out its layer."
    if data_name(rule) == SAMPLES:
        return "Use more calibration tokens."
    return f"The examples of {data_name(rule)} are too few. Use another task, or samples of the model."
