"""Calibrations of the rules of a study."""

from __future__ import annotations

from collections.abc import Sequence

from sparsedial.errors import SpecError
from sparsedial.ffn.feed_forward import FFNs
from sparsedial.models.loading import LanguageModel
from sparsedial.rules import RULES, Calibration
from sparsedial.study.canonical_json import json_digest
from sparsedial.study.store import Store


def prepare_calibrations(rules: Sequence[str], lm: LanguageModel, ffns: FFNs, store: Store) -> dict[str, Calibration]:
    """Return the calibrations of a model, which are computed once and kept for later runs and other workers.

    Args:
        rules: Names of the rules of the study.
        lm: The model, without a sparsifier.
        ffns: The FFNs of the model.
        store: Store that keeps the calibrations among the prepared examples.

    Returns:
        One calibration for each rule that needs one, by the name of the rule.

    Raises:
        SpecError: A rule returned something that is not plain JSON.
    """
    calibrations = {}
    for name in rules:
        rule_class = RULES[name]
        if not rule_class.needs_calibration:
            continue
        key = json_digest({"calibration": name, "version": rule_class.version, "model": lm.identity().to_json()})
        values = store.prepared(key)
        if values is None:
            try:
                computed = Calibration(rule_class.calibrate(lm, ffns))
                values = store.write_prepared(key, dict(computed.values))
            except (TypeError, ValueError) as error:
                raise SpecError(f"rule {name!r}: calibrate must return finite plain JSON: {error}") from error
        calibrations[name] = Calibration(values)
    return calibrations
