"""The terminal's table."""

import io
from dataclasses import replace

from report_sample import sample
from rich.console import Console

from sparsedial.report.table import critical_cells, critical_table


def shown(results, width=200):
    """The table as a terminal would get it."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(critical_table(results))
    return console.file.getvalue()


def test_it_shows_every_site_in_order_with_its_numbers(results):
    text = shown(results)
    assert [text.index(site) for site in ("input ", "up ", "gate ", "intermediate ", "all_inputs ")] == sorted(
        text.index(site) for site in ("input ", "up ", "gate ", "intermediate ", "all_inputs ")
    )
    assert "39.0% (37.8–40.4%)" in text and "13.0% (12.6–13.5%)" in text
    assert "model SmolLM2-135M-Instruct (134.5M), rule top_p" in text


def test_what_all_rows_share_is_said_once(results):
    cells = critical_cells(results)
    assert cells.common["Task"] == "self_prediction"
    assert cells.columns[0] == "Site"
    assert critical_cells(sample(models=("a", "b"))).columns[0] == "Model"


def test_the_average_comes_before_the_tasks():
    rows = critical_cells(sample(tasks=("piqa", "average", "arc_easy"), sites=("up", "input"))).rows
    assert [row["Task"] for row in rows] == ["average"] * 2 + ["piqa"] * 2 + ["arc_easy"] * 2
    assert [row["Site"] for row in rows[:2]] == ["input", "up"]


def test_markup_and_control_characters_are_text():
    text = shown(sample(models=("[bold red]m[/]\x1b[31m", "[/nonsense]"), tasks=("\x07t\r\n",), sites=("input",)))
    assert "[bold red]m[/]\\x1b[31m" in text
    assert "[/nonsense]" in text
    assert "\x1b[31m" not in text and "\x07" not in text
    assert "\\x07t" in text


def test_several_models_are_shown_by_their_averages():
    given = sample(models=("a", "b"), tasks=("piqa", "average"), sites=("input",))
    text = shown(given)
    assert "average" in text and "piqa" not in text and "the report has the tasks one by one" in text
    assert "piqa" in shown(sample(tasks=("piqa", "average"), sites=("input",)))


def test_that_there_are_problems_is_said_with_the_table(results):
    assert "problems (2): not everything that was asked for is here" in shown(replace(results, problems=["a", "b"]))
    assert "problems" not in shown(results)
