"""The page and its files hold the numbers as given. Every name is inert, and nothing is fetched."""

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.errors import StorageError
from sparsedial.report.csv_and_json import write_file
from sparsedial.report.html_page import write_report
from tests.support.made_up_studies import Model, study
from tests.support.report_sample import sample

HOSTILE = [
    '<script>alert(1)</script>"onload="x',
    "../../x' onerror='y",
    "\x1b[31mred\x1b]0;t\x07",
    "=cmd|' /C calc'!A0",
]


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags = []
        self.text = ""  # without the style sheet, the script and its data
        self.blocks = []
        self.open_block = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.open_block = dict(attrs)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self.open_block = None

    def handle_data(self, data):
        if self.open_block is None:
            self.text += data
        else:
            self.blocks.append((self.open_block, data))

    @property
    def tag_names(self):
        return {tag for tag, _ in self.tags}

    @property
    def attributes(self):
        """The names and values of all attributes."""
        pairs = []
        for _, attributes in self.tags:
            pairs.extend(attributes.items())
        return pairs

    @property
    def has_event_handlers(self):
        return any(name.startswith("on") for name, _ in self.attributes)

    @property
    def scripts(self):
        """The attributes of all scripts."""
        return [attributes for tag, attributes in self.tags if tag == "script"]


def find_dead_links(page, folder):
    """Return the relative links of a page for which a directory has no file."""
    links = [value for name, value in page.attributes if name == "href" and not re.match(r"[a-z]+:|#", value)]
    return [link for link in links if not (folder / link).is_file()]


def read_cells(path):
    """Return all cells of a CSV file."""
    cells = []
    with path.open() as file:
        for row in csv.reader(file):
            cells.extend(row)
    return cells


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of one model on one task at five sites: its directory and its page."""
    folder = tmp_path_factory.mktemp("report")
    return folder, Page(write_report(sample(), folder))


def test_the_page_has_the_answer_and_the_numbers(report):
    _, page = report
    assert "39.0% (37.8–40.4%) of the intermediate activations can be dropped" in page.text
    assert "at all_inputs: a runtime can skip 23.0% (21.8–24.4%) of the FFN's multiply-accumulates (MACs)" in page.text
    for number in ("18.0% (16.8–19.4%)", "16.0% (14.8–17.4%)", "0.4127", "135 M", "384", "0.97"):
        assert number in page.text
    assert "sparsedial run SmolLM2-135M-Instruct" in page.text
    assert "5af5" * 16 in page.text
    assert "2.13.0" in page.text
    assert "Model: SmolLM2-135M-Instruct (hub org/model)" in page.text
    assert "Problems" not in page.text


def test_the_page_has_its_sections_in_order(report):
    _, page = report
    headings = (
        "At a glance",
        "Skippable MACs",
        "Curves and layers",
        "All measured points",
        "Provenance",
        "Command",
    )
    positions = [page.text.index(heading) for heading in headings]
    assert positions == sorted(positions)


def test_every_term_is_defined_before_the_section_that_uses_it(report):
    _, page = report
    places = {
        "The vector whose entries are dropped": "At a glance",
        "A task without data": "At a glance",
        "The metric of self-prediction": "At a glance",
        "The highest sparsity at which at least 99%": "At a glance",
        "The parameter of the rule": "39.0% (37.8–40.4%)13",
        "that a runtime can skip": "Curves and layers",
        "The score of the sparse model divided by": "Retention over sparsity",
    }
    for definition, use in places.items():
        assert page.text.count(definition) == 1 or definition == "that a runtime can skip"
        assert 0 <= page.text.find(definition) < (page.text.find(use) if use in page.text else len(page.text))


def test_the_page_is_self_contained_and_small(report):
    folder, page = report
    assert page.tag_names.isdisjoint({"link", "iframe", "img", "object", "base"})
    assert page.scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not page.has_event_handlers
    for name, value in page.attributes:
        assert name not in {"src", "style", "xlink:href", "action", "data", "poster", "srcset"}
        assert name != "href" or value.startswith("#")
        assert not re.search(r"url\((?!#)", value or "")
    text = (folder / "report.html").read_text()
    assert not re.search(r"url\(\s*['\"]?\s*(https?:)?//|@import", text)
    assert len(text) < 1_000_000


def test_the_policy_allows_one_style_sheet_and_one_script_by_their_hashes(report):
    _, page = report
    (policy,) = [attributes["content"] for tag, attributes in page.tags if tag == "meta" and "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    executed = [text for attributes, text in page.blocks if not attributes]
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    assert hashes == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in executed]


def test_the_page_has_no_dead_link_wherever_it_is_copied(report, tmp_path):
    folder, page = report
    copied = Page(Path(shutil.copy(folder / "report.html", tmp_path)))
    assert find_dead_links(copied, tmp_path) == []
    for name in ("critical.csv", "points.csv", "layers.csv", "results.json"):
        assert name in page.text
        assert (folder / name).is_file()


def test_the_page_is_accessible(report):
    _, page = report
    plots = [attributes for tag, attributes in page.tags if tag == "svg" and "plot" in attributes.get("class", "")]
    assert len(plots) == 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)
    assert dict(page.tags)["html"]["lang"] == "en"


def test_the_files_hold_the_numbers_as_given(report):
    folder, _ = report
    results = sample()
    for name in ("critical", "points", "layers"):
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{name}.csv"), getattr(results, name))
    content = json.loads((folder / "results.json").read_text())
    assert content["schema"] == 2
    assert content["critical"] == results.critical.to_dict("records")
    assert content["provenance"] == results.provenance
    assert (content["retain"], content["problems"], content["title"]) == (0.99, [], results.title)
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == ["critical.png", "critical.svg", "layers.png", "layers.svg", "retention.png", "retention.svg"]
    assert not list(folder.rglob("*.tmp"))


def test_hostile_names_are_inert(tmp_path):
    hostile = sample(models=HOSTILE[:2], tasks=HOSTILE[2:], sites=("input",), points=2, layers=2)
    hostile = replace(hostile, problems=[*HOSTILE], provenance={HOSTILE[0]: {HOSTILE[2]: [{HOSTILE[1]: HOSTILE[3]}]}})
    path = write_report(hostile, tmp_path / "out")
    page = Page(path)
    assert page.scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not page.has_event_handlers
    assert HOSTILE[0] in page.text
    raw = path.read_text() + "".join((tmp_path / "out" / f"{name}.csv").read_text() for name in ("critical", "points"))
    raw += (tmp_path / "out" / "results.json").read_text()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", raw)
    cells = read_cells(tmp_path / "out" / "critical.csv")
    assert f"'{HOSTILE[3]}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|png)", p.name) for p in (tmp_path / "out" / "figures").iterdir())
    assert json.loads((tmp_path / "out" / "results.json").read_text())["problems"] == HOSTILE


def test_missing_numbers_are_null_in_json_and_a_dash_on_the_page(tmp_path):
    results = sample(sites=("input", "gate"), points=1, layers=1)
    critical = results.critical.astype({"low": "Float64", "high": "Float64", "examples_needed": "Int64"})
    critical[["low", "high", "examples_needed"]] = pd.NA
    critical.loc[1, ["sparsity", "p", "dense_score"]] = [float("nan"), float("inf"), np.float64("nan")]
    provenance = {"gpu": float("nan"), "none": [], "n": np.int64(3)}
    path = write_report(replace(results, critical=critical, provenance=provenance), tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["critical"][1]["sparsity"] is None and content["critical"][1]["p"] is None
    assert content["critical"][0]["low"] is None
    assert content["provenance"] == {"gpu": None, "none": [], "n": 3}
    text = Page(path).text
    assert "is not known" in text and "–" in text
    assert "nan" not in text.lower().replace("provenance", "") and "<NA>" not in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"status": "right-censored"}, "A lower bound: retention at the last measured point is still at least 99%"),
        ({"status": "left-censored"}, "Retention is below 99% at every measured point"),
        ({"first_crossing": 0.1}, "Retention is first below 99% at 10.0%"),
        (
            {"is_wide": True, "examples_needed": 12000},
            "The 95% interval is wider than ±2 percentage points: about 11,616 more examples are needed.",
        ),
    ],
)
def test_every_row_has_its_interpretation(tmp_path, changes, text):
    results = sample(sites=("input",), points=1, layers=0)
    results = replace(results, critical=results.critical.assign(**changes), points=pd.DataFrame())
    assert text in Page(write_report(results, tmp_path)).text


def test_problems_are_shown_also_where_nothing_was_measured(tmp_path):
    nothing = replace(sample(), critical=pd.DataFrame(), points=pd.DataFrame(), layers=pd.DataFrame())
    page = Page(write_report(replace(nothing, problems=["trial 3f9a: out of memory"]), tmp_path))
    assert "trial 3f9a: out of memory" in page.text
    assert "No critical sparsity could be computed" in page.text
    assert ("class", "problems") in page.attributes


def test_problems_and_notes_come_before_the_numbers(tmp_path):
    results = replace(
        sample(models=("a-1b", "b-2b")), problems=["trial 3f9a: <b>failed</b>"], notes=["on <i>two</i> devices"]
    )
    page = Page(write_report(results, tmp_path))
    texts = ("Problems", "trial 3f9a: <b>failed</b>", "of the intermediate activations can be dropped")
    order = [page.text.index(text) for text in texts]
    assert order == sorted(order)
    assert order[-1] < page.text.index("on <i>two</i> devices") < page.text.index("At a glance")


def test_hostile_names_are_inert_in_every_table_and_figure(tmp_path):
    """The study has trends, experts, steps and generated texts."""
    models = [
        Model(f"{HOSTILE[0]}-100m", 10**8, experts=6),
        Model(f"{HOSTILE[0]}-1b", 10**9, experts=6),
        Model(HOSTILE[3], 10**7, steps=3),
    ]
    store = study(tmp_path / "in", models, tuple(HOSTILE[1:3]), ("input",), generates=(HOSTILE[2],))
    results = compute_results(store)
    for table in (results.trends, results.experts, results.steps, results.generated):
        assert not table.empty
    path = write_report(results, tmp_path / "out")
    page = Page(path)
    assert {"Model size", "Outlier experts", "Generated texts"} <= set(re.findall(r"[A-Z][a-z]+ [a-z]+", page.text))
    assert page.scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not page.has_event_handlers
    for file in (path, *(tmp_path / "out").glob("*.csv"), tmp_path / "out" / "results.json"):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", file.read_text())
    for file in (tmp_path / "out").glob("*.csv"):
        assert not [cell for cell in read_cells(file) if cell.startswith(("=", "+", "@"))]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|png)", p.name) for p in (tmp_path / "out" / "figures").iterdir())


def test_several_models_show_the_averages_first_and_the_tasks_folded_away(tmp_path):
    results = sample(models=("a-1b", "b-2b"), tasks=("piqa", "average"), sites=("input",), points=1, layers=1)
    page = Page(write_report(results, tmp_path))
    folded = page.text.index("Task by task")
    assert page.text.index("task average") < folded
    assert "Task: average" in page.text[:folded] and "Task: piqa" not in page.text[:folded]
    assert "piqa" in page.text[folded:]


def test_overlapping_intervals_are_named(tmp_path):
    results = sample(sites=("input", "up", "gate"), points=1, layers=0)
    text = Page(write_report(replace(results, points=pd.DataFrame()), tmp_path)).text
    assert "19.0% (17.8–20.4%) of the up activations" in text
    assert "Within the 95% intervals of the differences, the critical sparsity of input could be as high" in text


def test_a_report_that_cannot_be_written_names_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*results\.json: cannot be written"):
        write_report(sample(points=1, layers=1), tmp_path / "file")


def test_a_failed_write_leaves_the_older_file_whole(tmp_path):
    path = write_report(replace(sample(layers=0), layers=pd.DataFrame(), points=pd.DataFrame()), tmp_path)
    before = path.read_bytes()
    (tmp_path / "blocked").mkdir()
    with pytest.raises(StorageError):
        write_file(tmp_path / "blocked", b"x")
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_many_statements_are_folded(tmp_path):
    page = write_report(sample(models=tuple(f"m{number}" for number in range(14)), sites=("input",)), tmp_path)
    text = page.read_text()
    assert text.index("m9 on self_prediction: ") < text.index("Further answers")
    assert text.index("Further answers") < text.index("m13 on self_prediction: ")
    assert "Further answers" not in write_report(sample(), tmp_path).read_text()
