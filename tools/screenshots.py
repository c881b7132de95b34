"""Remake the screenshots of the report in docs/figures: `make screenshots`.

A study of a small zoo model is run, which takes about a minute. Its page is shown by a chromium at two sizes, in light
and dark colours.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sparsedial.analysis.results import compute_results
from sparsedial.report.html_page import write_report
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
MODEL = "zoo:dense-1.3m"


@dataclass(frozen=True)
class Screenshot:
    """A picture of a part of the page.

    Attributes:
        name: Name of its file, without a suffix.
        width: Width of the screen in pixels.
        height: Height of the screen in pixels.
        scheme: Preferred colours: ``light`` or ``dark``.
        anchor: Selector of the element at the top. Defaults to the start of the page.
        hovered: Selector of the element under the pointer. Defaults to none.
    """

    name: str
    width: int
    height: int
    scheme: str
    anchor: str = "h1"
    hovered: str = ""


SCREENSHOTS = (
    Screenshot("report-desktop-light", 1280, 1100, "light"),
    Screenshot("report-curves-dark", 1280, 900, "dark", "#retention", "#retention .s[data-s='3'] .m >> nth=2"),
    Screenshot("report-phone-light", 390, 844, "light", "#critical"),
)


def main() -> None:
    """Run the study and write the screenshots."""
    executable = os.environ.get("SPARSEDIAL_BROWSER") or shutil.which("chromium")
    if executable is None:
        raise SystemExit("no chromium was found: run `make setup-browser`, or set SPARSEDIAL_BROWSER to its path")
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study"
        run_study(StudySpec(models=(MODEL,)), study, device="cpu")
        page = write_report(compute_results(Store(study)), study)
        take_screenshots(page, executable)


def take_screenshots(page: Path, executable: str) -> None:
    """Write one PNG file per screenshot.

    Args:
        page: Path of the report's page.
        executable: Path of the browser.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for shot in SCREENSHOTS:
            size = {"width": shot.width, "height": shot.height}
            tab = browser.new_page(viewport=size, color_scheme=shot.scheme)
            tab.goto(page.as_uri())
            tab.evaluate("element => element.scrollIntoView()", tab.locator(shot.anchor).first.element_handle())
            if shot.hovered:
                tab.locator(shot.hovered).hover()
            tab.screenshot(path=FIGURES / f"{shot.name}.png")
            print(FIGURES / f"{shot.name}.png")
        browser.close()


if __name__ == "__main__":
    main()
