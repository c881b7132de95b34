"""The result of `sparsedial.measure`."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from sparsedial.analysis.displayed_curves import DisplayedCurve
from sparsedial.analysis.evidence import describe_results
from sparsedial.analysis.results import Results
from sparsedial.curves.curve import Curve
from sparsedial.errors import SpecError
from sparsedial.measurement.argument_types import check_path
from sparsedial.optional_packages import find_missing_modules, require_extra
from sparsedial.rules import Rule
from sparsedial.suggestions import describe_unknown

REPR_WIDTH = 100
"""Number of columns of the text form."""


@dataclass(frozen=True, repr=False)
class Measurement:
    """The result of `sparsedial.measure`: tables, curves and a report. Its text form is the table of the command line.

    Attributes:
        results: All tables, with the provenance of the numbers. docs/output-tables.md describes their columns.
        curves: The measured curves and their averages, with their labels.
        folder: Directory of the study, from which a later call resumes. None if it was a temporary one.
    """

    results: Results
    curves: tuple[DisplayedCurve, ...]
    folder: Path | None = None

    @property
    def critical(self) -> pd.DataFrame:
        """Critical sparsity of each site, rule and task, with its interval, p and skippable MACs."""
        return self.results.critical

    @property
    def points(self) -> pd.DataFrame:
        """Sparsity, score and retention of each measured point."""
        return self.results.points

    @property
    def layers(self) -> pd.DataFrame:
        """Sparsity of each layer, at the measured point nearest to the critical sparsity."""
        return self.results.layers

    @property
    def experts(self) -> pd.DataFrame:
        """Sparsity of each expert, at the measured point nearest to the critical sparsity. Empty without experts."""
        return self.results.experts

    @property
    def differences(self) -> pd.DataFrame:
        """Differences in critical sparsity between sites, rules and models, with paired intervals."""
        return self.results.differences

    @property
    def problems(self) -> list[str]:
        """List of what is missing, failed or invalid, one sentence each."""
        return self.results.problems

    def curve(
        self, site: str | None = None, task: str | None = None, *, rule: str | None = None, model: str | None = None
    ) -> Curve:
        """Return one of the measured curves. An argument can be left out if all curves have the same.

        Args:
            site: Where the rule was applied.
            task: Name of a task, as in the column "task" of `critical`.
            rule: Name of the rule.
            model: Name of the model.

        Returns:
            The curve.

        Raises:
            SpecError: There is no such curve, or several.
        """
        matches: Sequence[DisplayedCurve] = self.curves
        for argument, value in (("site", site), ("task", task), ("rule", rule), ("model", model)):
            known = list(dict.fromkeys(str(getattr(curve, argument)) for curve in matches))
            if value is None and len(known) > 1:
                raise SpecError(f"curve: several values of {argument}: choose one of {', '.join(known)}")
            if value is not None and value not in known:
                raise SpecError(f"curve: {describe_unknown(argument, value, known)}")
            matches = [curve for curve in matches if value in (None, getattr(curve, argument))]
        if len(matches) != 1:
            raise SpecError(
                f"curve: {len(matches)} curves match: expected one. All of them are in the attribute curves."
            )
        return matches[0].curve

    def make_evidence(self, site: str, rule: Rule | None = None, *, model: str | None = None) -> dict[str, Any]:
        """Return what was measured at a site, to be saved with an accelerated model. See `sparsedial.make_evidence`.

        Args:
            site: Name of the site.
            rule: The rule of the accelerated model. Defaults to None: all rules.
            model: Name of the model, if there are several. Defaults to None.

        Returns:
            Plain JSON. A `SpecError` is raised if nothing was measured at this site with this rule.
        """
        study = None
        if self.folder is not None:
            study = str(self.folder)
        return {"study": study, **describe_results(self.results, site, rule, model)}

    def report(self, path: Path | str) -> Path:
        """Write the report.

        Args:
            path: A file whose name ends in ``.html``, which gets the page alone, with its figures inside. Else a
                directory, which gets the page, the figures and the tables as files.

        Returns:
            Path of the page.

        Raises:
            SparsedialError: The extra ``report`` is not installed.
            SpecError: The path is empty, or is no path.
            StorageError: A file cannot be written, or would replace a file that is not of a report.
        """
        require_extra("report", "the report")
        from sparsedial.report.csv_and_json import write_file
        from sparsedial.report.html_page import render_page, write_report
        from sparsedial.report.output_folder import check_report_page

        target = check_path(path, "path", "a directory, or a file whose name ends in .html")
        if target.suffix.lower() != ".html":
            return write_report(self.results, target)
        check_report_page(target)
        write_file(target, render_page(self.results).encode())
        return target

    def __repr__(self) -> str:
        """Return the table of critical sparsities as text."""
        from sparsedial.report.terminal_table import render_terminal_table

        console = Console(file=StringIO(), width=REPR_WIDTH, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(render_terminal_table(self.results))
        lines = [line.rstrip() for line in capture.get().strip().splitlines()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the table of critical sparsities and a figure, for a notebook.

        The figures compare the sites and the tasks. If no critical sparsity is known, it shows retention instead.
        Without the extra ``report`` it is the table as text.
        """
        if find_missing_modules("report"):
            return f"<pre>{html.escape(repr(self))}</pre>"
        from sparsedial.analysis.critical_findings import read_critical_findings
        from sparsedial.report.critical_table import make_critical_table
        from sparsedial.report.page.html_elements import escape, render_critical_table
        from sparsedial.report.summary_text import describe_missing

        findings = read_critical_findings(self.results.critical)
        if not findings.headline:
            return f"<p>{escape(describe_missing(self.results))}</p>"
        parts = [render_critical_table(make_critical_table(findings.headline, self.results.retain))]
        parts += _render_images(self.results)
        return f"<div>{''.join(parts)}</div>"


def _render_images(results: Results) -> list[str]:
    """Return figures as HTML. An image keeps their styles and IDs apart from those of the notebook."""
    from sparsedial.report.figures.catalog import make_comparison_figures, make_model_figures
    from sparsedial.report.figures.profile_data import read_profiles
    from sparsedial.report.page.html_elements import escape
    from sparsedial.report.plots.standalone_svg import make_standalone_svg

    figures = list(make_comparison_figures(results))
    if not figures:
        figures = [model.figures[0] for model in make_model_figures(results, read_profiles(results))[:1]]
    images = []
    for figure in figures:
        image = base64.b64encode(make_standalone_svg(figure).encode()).decode()
        images.append(f'<img alt="{escape(figure.description)}" src="data:image/svg+xml;base64,{image}"/>')
    return images
