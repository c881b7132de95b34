"""`sparsedial.make_evidence`: why an accelerated model has its rule, from a measurement or a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sparsedial.analysis.evidence import describe_results
from sparsedial.analysis.results import compute_results
from sparsedial.measurement.result import Measurement
from sparsedial.rules import Rule
from sparsedial.study.store import Store


def make_evidence(
    source: Measurement | str | os.PathLike[str], site: str, rule: Rule | None = None, *, model: str | None = None
) -> dict[str, Any]:
    """Return what a measurement says about a site and a rule, to be saved with an accelerated model.

    Args:
        source: What `measure` returned, or the directory of a study.
        site: Name of the site.
        rule: The rule of the accelerated model. Defaults to None: all rules, without the points nearest to a rule.
        model: Name of the model, if the study has several. Defaults to None.

    Returns:
        Plain JSON: the study, the model, the critical sparsity of each task with its interval, the measured points
        nearest to the rule, the machine, the versions and the command.

    Raises:
        SpecError: Nothing was measured at this site with this rule, or there are several models.

    Example:
        >>> import sparsedial as sd
        >>> result = sd.measure("zoo:dense-0.4m", sites="input", p=[0.7, 0.9], sequences=8, length=12,
        ...                     device="cpu", dtype="float32", progress=False)
        >>> evidence = sd.make_evidence(result, "input", sd.TopP(0.85))
        >>> evidence["model"], [point["p"] for point in evidence["nearest_points"]]
        ('zoo:dense-0.4m', [0.9])
    """
    if isinstance(source, Measurement):
        return source.make_evidence(site, rule, model=model)
    folder = Path(source)
    return {"study": str(folder), **describe_results(compute_results(Store(folder)), site, rule, model)}
