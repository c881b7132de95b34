"""The curves of studies, by both criteria, with short names of their models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd

from sparsedial.analysis.retention_curves import DisplayNames, LabelledCurve, read_curves
from sparsedial.analysis.trial_set import read_studies
from sparsedial.curves.critical import RETAIN, CriticalSparsity, critical_sparsity
from sparsedial.curves.curve import Curve
from sparsedial.curves.perplexity import compare_likelihoods
from sparsedial.study.criterion import BOTH, PERPLEXITY, RETAIN_BY_PERPLEXITY, SCORE
from sparsedial.study.store import Store

SITES = (
    "input",
    "up",
    "gate",
    "intermediate",
    "all_inputs",
    "attention_input",
    "attention_output",
    "lm_head_input",
)
"""The sites in the order of tables and figures."""

SEPARATED = "**"
"""Mark around a difference whose interval does not contain 0."""


@dataclass(frozen=True)
class StudyTable:
    """What a command prints and writes.

    Attributes:
        markdown: Tables in Markdown.
        rows: All numbers.
        figure: The figure.
    """

    markdown: str
    rows: pd.DataFrame
    figure: alt.TopLevelMixin


@dataclass(frozen=True)
class StudyCurve:
    """The curve of one model, site, rule and task.

    Attributes:
        model: Name of the model, without directory and suffix.
        family: Family of the model.
        parameters: Number of parameters.
        site: Where the rule was applied.
        rule: Family of the rule.
        task: Name of the task.
        by_score: The curve of the score.
        by_perplexity: The curve of the perplexity criterion. None if no likelihoods are known.
    """

    model: str
    family: str
    parameters: int
    site: str
    rule: str
    task: str
    by_score: Curve
    by_perplexity: Curve | None

    def find_curve(self, criterion: str) -> Curve | None:
        """Return the curve of a criterion.

        Args:
            criterion: "score" or "perplexity".
        """
        return self.by_score if criterion == SCORE else self.by_perplexity

    def find_critical(self, criterion: str) -> CriticalSparsity | None:
        """Return the critical sparsity by a criterion. None if it is not known.

        Args:
            criterion: "score" or "perplexity".
        """
        curve = self.find_curve(criterion)
        return None if curve is None else critical_sparsity(curve, required_share(criterion))


def required_share(criterion: str) -> float:
    """Return what a curve has to keep of its dense value.

    Args:
        criterion: "score" or "perplexity".
    """
    return RETAIN_BY_PERPLEXITY if criterion == PERPLEXITY else RETAIN


def read_study_curves(folders: Iterable[Path]) -> list[StudyCurve]:
    """Read the curves of all studies. Those at chance are left out.

    Args:
        folders: Directories of studies.
    """
    trial_set = read_studies([Store(folder) for folder in folders])
    curves, _ = read_curves(trial_set, DisplayNames.from_trials(trial_set.trials), BOTH)
    return [_shorten(curve) for curve in curves if not curve.is_at_chance]


def _shorten(curve: LabelledCurve) -> StudyCurve:
    group = curve.group
    likelihoods = curve.likelihoods
    return StudyCurve(
        model=Path(group.model).name.removesuffix(".gguf"),
        family=group.family,
        parameters=group.parameters,
        site=group.site,
        rule=group.rule,
        task=curve.label.task,
        by_score=curve.curve,
        by_perplexity=None if likelihoods is None else compare_likelihoods(likelihoods),
    )


def list_models(curves: Iterable[StudyCurve]) -> list[str]:
    """Return the names of the models, from the smallest to the largest.

    Args:
        curves: The curves.
    """
    return list({curve.model: None for curve in sorted(curves, key=lambda curve: curve.parameters)})


def format_points(value: float | None, low: float | None, high: float | None) -> str:
    """Return a difference in percentage points with its interval. It is bold if the interval does not contain 0.

    Args:
        value: The difference as a fraction, or None.
        low: Lower end of the interval, or None.
        high: Upper end of the interval, or None.

    Example:
        >>> format_points(0.031, 0.012, 0.05), format_points(None, -0.1, 0.2)
        ('**+3.1** (+1.2 to +5.0)', '(-10.0 to +20.0)')
    """
    text = "" if value is None else f"{100 * value:+.1f}"
    if low is None or high is None:
        return text
    is_separated = low > 0 or high < 0
    if is_separated and text:
        text = f"{SEPARATED}{text}{SEPARATED}"
    return f"{text} ({100 * low:+.1f} to {100 * high:+.1f})".strip()


def format_critical(critical: CriticalSparsity | None) -> str:
    """Return a critical sparsity in percent with its interval.

    Args:
        critical: The critical sparsity, or None.

    Example:
        >>> from sparsedial.curves import make_curve
        >>> format_critical(critical_sparsity(make_curve([(0.2, 1.0), (0.3, 0.98)], dense=1.0)))
        '25.0%'
    """
    if critical is None:
        return ""
    text = "" if critical.estimate is None else f"{100 * critical.estimate:.1f}%"
    if critical.right_censored:
        text = f"≥ {text}"
    if critical.low is None or critical.high is None:
        return text
    return f"{text} ({100 * critical.low:.1f}–{100 * critical.high:.1f})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Args:
        header: Titles of the columns.
        rows: The cells of each row.
    """
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)
