"""A page shows the numbers that the pages of earlier versions showed for the same study."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.html_page import write_report
from tests.support.made_up_studies import LARGE, SMALL, study

BEFORE = json.loads((Path(__file__).parent / "page_of_version_0.json").read_text())
"""Cells of the table of critical sparsities, and numbers of the answer, on pages of an earlier version."""

STUDIES = {"one model": [SMALL], "two models": [SMALL, LARGE]}


class Cells(HTMLParser):
    """The cells of every row of every table, and the text of the page."""

    def __init__(self, text):
        super().__init__()
        self.rows = []
        self.text = ""
        self.is_open = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self.is_open = tag in ("td", "th") or (self.is_open and tag not in ("tr", "table"))
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.is_open = False

    def handle_data(self, data):
        self.text += data
        if self.is_open:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", STUDIES)
def test_the_numbers_are_those_of_an_earlier_page(tmp_path, name):
    store = study(
        tmp_path / "study", STUDIES[name], sites=("input", "gate", "intermediate"), examples=4000,
        values=(0.99, 0.98, 0.96, 0.93, 0.9, 0.8),
    )  # fmt: skip
    page = Cells(write_report(compute_results(store), tmp_path / "report").read_text())
    assert [row for row in BEFORE[name]["critical"] if row not in page.rows] == []
    assert [number for number in BEFORE[name]["answer"] if number not in page.text] == []
    points = (tmp_path / "report" / "points.csv").read_text().splitlines()
    assert points[:4] == BEFORE[name]["points"]
    assert len(BEFORE[name]["critical"]) >= 9 and len(re.findall(r"%", str(BEFORE))) > 60
