"""The table of the terminal."""

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from sparsedial.analysis.results import compute_results
from sparsedial.report.terminal_table import render_terminal_table
from tests.support.made_up_studies import SMALL, study
from tests.support.report_sample import sample


def printed(results, width=200, terminal=True):
    """Return the table as a terminal would get it, or a file."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    console.print(render_terminal_table(results))
    return console.file.getvalue()


def test_it_shows_every_site_in_order_with_its_numbers(results):
    text = printed(results)
    positions = [text.index(f"\n{site}") for site in ("input ", "up ", "gate ", "intermediate ", "all_inputs ")]
    assert positions == sorted(positions)
    assert "39.0% (37.8–40.4%)" in text and "13.0% (12.6–13.5%)" in text
    assert "model SmolLM2-135M-Instruct (135 M), rule top_p" in text


def test_markup_and_control_characters_are_text():
    text = printed(sample(models=("[bold red]m[/]\x1b[31m", "[/nonsense]"), tasks=("\x07t\r\n",), sites=("input",)))
    assert "[bold red]m[/]\\x1b[31m" in text
    assert "[/nonsense]" in text
    assert "\x1b[31m" not in text and "\x07" not in text
    assert "\\x07t" in text


def test_several_models_are_shown_by_their_averages():
    text = printed(sample(models=("a", "b"), tasks=("piqa", "average"), sites=("input",)))
    assert "average" in text and "piqa" not in text
    assert "The report also lists single tasks" in text
    assert "piqa" in printed(sample(tasks=("piqa", "average"), sites=("input",)))


def test_problems_are_named_below_the_table(results):
    text = printed(replace(results, problems=["a", "b"]))
    assert "problems (2): some requested results are missing or invalid" in text
    assert "problems" not in printed(results)


def test_the_heading_of_a_group_takes_a_whole_line():
    text = printed(sample(models=("a-model-with-a-long-name", "b"), tasks=("piqa", "average")), width=80)
    assert "a-model-with-a-long-name (135 M)" in [line.strip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 40])
def test_it_fits_into_the_terminal_and_its_columns_are_aligned(width):
    results = sample(models=("a", "b"), sites=("input", "intermediate"))
    critical = results.critical.assign(is_wide=True, high_censored=True, status="right-censored")
    lines = printed(replace(results, critical=critical), width).splitlines()
    assert max(map(len, lines)) <= width
    starts = [line.index("at least") for line in lines if line.startswith(("input", "interm"))]
    assert len(starts) >= 2 and len(set(starts)) == 1


def test_it_starts_with_the_answer(results):
    assert printed(results).startswith("SmolLM2-135M-Instruct on self_prediction: 39.0% (37.8–40.4%) of the intermed")
    wide = replace(results, critical=results.critical.assign(is_wide=True))
    assert printed(wide).startswith("SmolLM2-135M-Instruct on self_prediction: at least 37.8% of the intermediate act")
    undecided = replace(results, critical=results.critical.assign(low=0.0))
    assert printed(undecided).startswith("SmolLM2-135M-Instruct on self_prediction: the data do not decide")


def test_wide_intervals_are_explained_with_the_examples_they_need(results):
    critical = results.critical.assign(is_wide=[True, *[False] * 4], examples_needed=1284, precision=0.01)
    text = " ".join(printed(replace(results, critical=critical)).split())
    assert "at least 16.8%, estimate 18.0% (16.8–19.4%)" in text and "19.0% (17.8–20.4%)" in text
    assert "wider than ±1 percentage points" in text
    assert "About 900 more examples are needed to narrow the interval to ±1 percentage points." in text
    assert "⚠" not in text
    undecided = printed(replace(results, critical=critical.assign(low=0.0)))
    assert "between 0 and 19.4%, estimate 18.0% ⚠" in undecided
    assert "⚠ not decided: no measured point is shown to keep 99%." in undecided


def test_a_single_value_of_p_gives_a_bracket_and_no_estimate(tmp_path):
    results = compute_results(study(tmp_path, [SMALL], ("piqa",), ("input",), values=(0.5,)))
    text = " ".join(printed(results).split())
    assert text.startswith("fam-100m on piqa: the data do not decide how many of the input activations can be dropped")
    assert "it is between 0 and 56.6%, with 200 examples; at least 422 more examples" in text
    assert "examples and measurements at more values of p are needed" in text
    assert "between 0 and 56.6% ⚠" in text and "estimate" not in text


def test_lower_bounds_are_explained(results):
    assert "≥" not in printed(results)
    text = printed(replace(results, critical=results.critical.assign(status="right-censored")))
    assert "≥ marks a lower bound: retention at the last point is still at least 99%" in text


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("rows", ["none", "one", "many"])
def test_no_text_is_broken_within_a_word(rows, width, terminal):
    results = sample(sites=("input",)) if rows == "one" else sample(models=("a", "b"))
    if rows == "none":
        nothing = pd.DataFrame()
        results = replace(results, critical=nothing, points=nothing, layers=nothing, problems=["out of memory"])
    text = printed(results, width, terminal)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert min(len(line) for line in lines if line) >= 3
    one_row = ["Site", "18.0% (16.8–19.4%)", "0.97", "12.0% (11.2–12.9%)"]
    expected = {
        "none": ["No critical sparsity could be computed, because no curve has valid trials."],
        "one": one_row,
        "many": [*one_row, "all_inputs", "intermediate"],
    }
    words = " ".join(text.split())
    assert all(word in words for word in expected[rows])
    assert ("Site" in text) == (rows != "none")


def test_the_site_is_shown_in_a_narrow_terminal():
    assert "intermediate" in printed(sample(), width=40) and "0.97" in printed(sample(), width=40)


def test_rows_at_chance_are_marked(results):
    changed = results.critical.assign(status="at chance", sparsity=None, low=None, high=None, is_wide=False)
    assert printed(replace(results, critical=changed)).count("nothing to retain") == 5
