"""Tables of generated texts on the page and in the terminal."""

import pytest
from rich.console import Console

from sparsedial.analysis.results import compute_results
from sparsedial.report.generation_tables import make_generation_tables, render_terminal_costs
from sparsedial.report.html_page import write_report
from tests.support.generation_studies import thinking_study
from tests.support.made_up_studies import SMALL, study


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    return compute_results(thinking_study(tmp_path_factory.mktemp("study"), lambda p: 1.05 if p > 0.9 else 1.9))


def test_the_page_and_the_files_have_both_tables(generated, tmp_path):
    page = write_report(generated, tmp_path).read_text()
    for text in ("Cost of generated texts", "Thinking and answer", "costs more than it saves", "attention is not"):
        assert text in page
    for name in ("cost.csv", "segments.csv"):
        assert (tmp_path / name).read_text().count("\n") == len(getattr(generated, name.split(".")[0])) + 1
        assert name in page


def test_the_cost_table_compares_the_finished_texts_on_the_same_examples(generated):
    cost, segments = make_generation_tables(generated)
    dense, *_, sparse = sorted(cost.rows, key=lambda row: row[0] != "dense")
    assert dense[0] == "dense" and dense[3] == "–" and dense[-1] == "1.00"
    assert " of 200" in sparse[3] and sparse[-1].endswith(")")
    assert [row[1] for row in segments.rows[:4]] == ["prefill", "generation", "thinking", "answer"]


@pytest.mark.parametrize("width", [60, 80])
def test_the_terminal_table_fits(generated, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(render_terminal_costs(generated))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert "Net work" in text and "dense" in text and "gsm8k" in text


def test_without_generated_texts_there_is_no_table(tmp_path):
    results = compute_results(study(tmp_path, [SMALL], ("arc_easy",), ("input",)))
    assert render_terminal_costs(results) is None
    assert not list(make_generation_tables(results))
