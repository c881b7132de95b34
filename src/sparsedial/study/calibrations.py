"""Calibrations of the rules of a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sparsedial.calibration import PreparedTexts, SiteSelection, calibrate_site, make_data_task
from sparsedial.errors import SpecError
from sparsedial.ffn.feed_forward import FFNs
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.loading import LanguageModel
from sparsedial.rules import Calibration, Rule, calibrates_vectors, find_rule_class, make_rule
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store

EntryT = TypeVar("EntryT")


def find_calibration(calibrations: Mapping[str, EntryT], rule: Rule | None, site: str | None) -> EntryT | None:
    """Return the entry of a rule at a site from what belongs to the calibrations of a model.

    Args:
        calibrations: Entries with the keys of `prepare_calibrations`.
        rule: The rule, or None for the dense run.
        site: The site, or None for the dense run.

    Returns:
        The entry. None if the rule needs no calibration.
    """
    if rule is None or site is None:
        return None
    return calibrations.get(_site_key(rule.family, site), calibrations.get(rule.family))


@dataclass(frozen=True)
class CalibrationSource:
    """Study and model that calibrations are computed for, and the store that keeps them.

    Attributes:
        spec: The study.
        lm: The model, without a sparsifier.
        ffns: The FFNs of the model.
        store: Store that keeps the calibrations among the prepared examples.
        progress: Called while calibration texts are sampled.
        texts: Texts of the calibrations so far, so that several rules and sites use them.
    """

    spec: StudySpec
    lm: LanguageModel
    ffns: FFNs
    store: Store
    progress: Progress = ignore_progress
    texts: PreparedTexts = field(default_factory=dict)


def prepare_calibrations(source: CalibrationSource, sites: Mapping[str, Sequence[str]]) -> dict[str, Calibration]:
    """Return the calibrations of a model, which are computed once and kept for later runs and other workers.

    Args:
        source: The study and the model.
        sites: The sites at which each rule is applied, by its family.

    Returns:
        One calibration for each rule that needs one, by the family of the rule. For a rule that is calibrated on
        vectors, one for each site.

    Raises:
        SpecError: A rule returned something that is not plain JSON, or a calibration has too few tokens.
    """
    calibrations = {}
    for family in source.spec.rules:
        rule_class = find_rule_class(family)
        if not rule_class.needs_calibration:
            continue
        rule = make_rule(family, rule_class.dense_value)
        if not calibrates_vectors(rule_class):
            calibrations[family] = _prepare_for_model(rule, source)
            continue
        for site in sites[family]:
            calibrations[_site_key(family, site)] = _prepare_for_site(rule, site, source)
    return calibrations


def _site_key(family: str, site: str) -> str:
    return f"{family} at {site}"


def _prepare_for_model(rule: Rule, source: CalibrationSource) -> Calibration:
    """Return what `Rule.calibrate` computes for all sites."""
    model = source.lm.identity().to_json()
    key = json_digest({"calibration": rule.name, "version": rule.version, "model": model})
    return _compute_once(rule, key, source.store, lambda: rule.calibrate(source.lm, source.ffns))


def _prepare_for_site(rule: Rule, site: str, source: CalibrationSource) -> Calibration:
    """Return what `Rule.calibrate_vector` computes for the vectors of a site."""
    options = source.spec.calibration_options(rule)
    selection = SiteSelection(source.ffns, site, source.spec.layers)
    key = json_digest(
        {
            "calibration": rule.family,
            "version": rule.version,
            "model": source.lm.identity().to_json(),
            "site": site,
            "layers": selection.layers,
            "task": make_data_task(rule, source.lm, options).identity(),
        }
    )
    return _compute_once(
        rule,
        key,
        source.store,
        lambda: calibrate_site(rule, source.lm, selection, options, source.progress, source.texts),
    )


def _compute_once(rule: Rule, key: str, store: Store, compute: Callable[[], Mapping[str, Any]]) -> Calibration:
    """Return a calibration from the store. If it has none, compute and store it."""
    values = store.prepared(key)
    if values is None:
        try:
            values = store.write_prepared(key, dict(Calibration(compute()).values))
        except (TypeError, ValueError) as error:
            raise SpecError(f"rule {rule.name!r}: calibrate must return finite plain JSON: {error}") from error
    return Calibration(values)
