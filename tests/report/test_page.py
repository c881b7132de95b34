"""The page and its files: the numbers as given, every name inert, nothing fetched, nothing left out."""

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from made_up_studies import Model, study
from report_sample import sample

from sparsedial.errors import StoreError
from sparsedial.report.page import write_report
from sparsedial.study.results import results

HOSTILE = [
    '<script>alert(1)</script>"onload="x',
    "../../x' onerror='y",
    "\x1b[31mred\x1b]0;t\x07",
    "=cmd|' /C calc'!A0",
]


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of one model, one task, five sites."""
    folder = tmp_path_factory.mktemp("report")
    return folder, Page(write_report(sample(), folder))


def test_the_page_says_the_answer_and_the_numbers(written):
    _, page = written
    assert "39.0% (37.8–40.4%) of the intermediate activations can be dropped" in page.text
    assert "all_inputs: it can skip 23.0% (21.8–24.4%) of the FFN's multiplications" in page.text
    for number in ("18.0% (16.8–19.4%)", "16.0% (14.8–17.4%)", "0.4127", "134.5M", "384", "0.97"):
        assert number in page.text
    assert "sparsedial run SmolLM2-135M-Instruct" in page.text
    assert "5af5" * 16 in page.text
    assert "2.13.0" in page.text
    assert "Problems" not in page.text


def test_the_page_is_self_contained_and_small(written):
    folder, page = written
    assert not [tag for tag, _ in page.tags if tag in {"script", "link", "iframe", "img", "object", "base"}]
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}:
                assert (folder / value).is_file()
            assert not re.search(r"url\((?!#)", value or "")
    text = (folder / "report.html").read_text()
    assert not re.search(r"url\(\s*['\"]?\s*(https?:)?//|@import", text)
    assert len(text) < 2_000_000


def test_the_page_is_accessible(written):
    _, page = written
    figures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(figures) == 3
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in figures)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", " ".join(str(a) for _, a in page.tags))
    assert used and set(used) <= set(ids)
    assert dict(page.tags)["html"]["lang"] == "en"


def test_the_files_hold_the_numbers_as_given(written):
    folder, _ = written
    given = sample()
    for name in ("critical", "points", "layers"):
        pd.testing.assert_frame_equal(pd.read_csv(folder / f"{name}.csv"), getattr(given, name))
    content = json.loads((folder / "results.json").read_text())
    assert content["critical"] == given.critical.to_dict("records")
    assert content["provenance"] == given.provenance
    assert (content["retain"], content["problems"], content["title"]) == (0.99, [], given.title)
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == [f"{name}.{kind}" for name in ("critical", "layers", "retention") for kind in ("png", "svg")]
    assert not list(folder.rglob("*.tmp"))


def test_hostile_names_are_inert(tmp_path):
    hostile = sample(models=HOSTILE[:2], tasks=HOSTILE[2:], sites=("input",), points=2, layers=2)
    hostile = replace(hostile, problems=[*HOSTILE], provenance={HOSTILE[0]: {HOSTILE[2]: [{HOSTILE[1]: HOSTILE[3]}]}})
    path = write_report(hostile, tmp_path / "out")
    page = Page(path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert HOSTILE[0] in page.text
    raw = path.read_text() + "".join((tmp_path / "out" / f"{name}.csv").read_text() for name in ("critical", "points"))
    raw += (tmp_path / "out" / "results.json").read_text()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", raw)
    with (tmp_path / "out" / "critical.csv").open() as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert f"'{HOSTILE[3]}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|png)", p.name) for p in (tmp_path / "out" / "figures").iterdir())
    assert json.loads((tmp_path / "out" / "results.json").read_text())["problems"] == HOSTILE


def test_what_is_missing_is_null_in_json_and_a_dash_on_the_page(tmp_path):
    given = sample(sites=("input", "gate"), points=1, layers=1)
    empty = given.critical.astype({"low": "Float64", "high": "Float64", "examples_needed": "Int64"})
    empty[["low", "high", "examples_needed"]] = pd.NA
    empty.loc[1, ["value", "p", "dense_score"]] = [float("nan"), float("inf"), np.float64("nan")]
    given = replace(given, critical=empty, provenance={"gpu": float("nan"), "none": [], "n": np.int64(3)})
    path = write_report(given, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content["critical"][1]["value"] is None and content["critical"][1]["p"] is None
    assert content["critical"][0]["low"] is None
    assert content["provenance"] == {"gpu": None, "none": [], "n": 3}
    text = Page(path).text
    assert "not known" in text and "–" in text
    assert "nan" not in text.lower().replace("provenance", "") and "<NA>" not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "beyond"}, "beyond the last point, which still keeps 99%: a lower bound"),
        ({"status": "not reached"}, "not reached: no measured point keeps 99%"),
        ({"first_crossing": 0.1}, "first falls below 99% at 10.0%"),
        (
            {"wide": True, "examples_needed": 12000},
            "⚠ the interval spans more than 10 points; ±2 points would take 12,000",
        ),
    ],
)
def test_what_a_row_says_in_words(tmp_path, change, said):
    given = sample(sites=("input",), points=1, layers=0)
    given = replace(given, critical=given.critical.assign(**change), points=pd.DataFrame())
    assert said in Page(write_report(given, tmp_path)).text


def test_problems_are_shown_also_where_nothing_was_measured(tmp_path):
    nothing = replace(sample(), critical=pd.DataFrame(), points=pd.DataFrame(), layers=pd.DataFrame())
    page = Page(write_report(replace(nothing, problems=["trial 3f9a: out of memory"]), tmp_path))
    assert "trial 3f9a: out of memory" in page.text
    assert "No critical sparsity could be read off" in page.text
    assert "problems" in [attributes.get("class") for _, attributes in page.tags]


def test_problems_and_notes_come_before_the_numbers(tmp_path):
    given = replace(
        sample(models=("a-1b", "b-2b")), problems=["trial 3f9a: <b>failed</b>"], notes=["on <i>two</i> devices"]
    )
    page = Page(write_report(given, tmp_path))
    order = [page.text.index(word) for word in ("Problems", "trial 3f9a: <b>failed</b>", "What can be dropped")]
    assert order == sorted(order)
    assert order[-1] < page.text.index("on <i>two</i> devices") < page.text.index("At a glance")


def test_hostile_names_are_inert_in_every_table_and_figure(tmp_path):
    """A whole study of such names: trends, experts, steps, generated texts."""
    models = [Model(f"{HOSTILE[0]}-100m", 10**8, experts=6), Model(f"{HOSTILE[0]}-1b", 10**9, experts=6),
              Model(HOSTILE[3], 10**7, steps=3)]  # fmt: skip
    store = study(tmp_path / "in", models, tuple(HOSTILE[1:3]), ("input",), generates=(HOSTILE[2],))
    found = results(store)
    assert not found.trends.empty and not found.experts.empty and not found.steps.empty and not found.generated.empty
    path = write_report(found, tmp_path / "out")
    page = Page(path)
    assert {"Model size", "Outlier experts", "Generated texts"} <= set(re.findall(r"[A-Z][a-z]+ [a-z]+", page.text))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for file in (path, *(tmp_path / "out").glob("*.csv"), tmp_path / "out" / "results.json"):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", file.read_text())
    for file in (tmp_path / "out").glob("*.csv"):
        with file.open() as lines:
            assert not [cell for row in csv.reader(lines) for cell in row if cell.startswith(("=", "+", "@"))]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(svg|png)", p.name) for p in (tmp_path / "out" / "figures").iterdir())


def test_several_models_show_the_averages_first_and_the_tasks_folded_away(tmp_path):
    given = sample(models=("a-1b", "b-2b"), tasks=("piqa", "average"), sites=("input",), points=1, layers=1)
    page = Page(write_report(given, tmp_path))
    folded = page.text.index("Task by task")
    assert page.text.index("task average") < folded
    assert "Task: average" in page.text[:folded] and "Task: piqa" not in page.text[:folded]
    assert "piqa" in page.text[folded:]


def test_overlapping_intervals_are_said(tmp_path):
    given = sample(sites=("input", "up", "gate"), points=1, layers=0)
    text = Page(write_report(replace(given, points=pd.DataFrame()), tmp_path)).text
    assert "19.0% (17.8–20.4%) of the up activations" in text
    assert "within the intervals input could be as high" in text


def test_a_report_that_cannot_be_written_names_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*critical\.csv: cannot be written"):
        write_report(sample(points=1, layers=1), tmp_path / "file")


def test_a_failed_write_leaves_the_older_file_whole(tmp_path):
    path = write_report(replace(sample(layers=0), layers=pd.DataFrame(), points=pd.DataFrame()), tmp_path)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        from sparsedial.report.files import write_atomically

        (tmp_path / "blocked").mkdir()
        write_atomically(tmp_path / "blocked", b"x")
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))
