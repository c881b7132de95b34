"""Options that hold several values."""

import pytest

from sparsedial.cli.parsing import parse_layers, parse_numbers, parse_pairs, split_names


def test_values_without_problems():
    problems = []
    assert split_names("piqa, arc_easy,") == ("piqa", "arc_easy")
    assert parse_numbers(["0.5, 0.6", "1"], "--p", problems) == (0.5, 0.6, 1.0)
    assert parse_layers(["0,3", "5-7"], "--layers", problems) == (0, 3, 5, 6, 7)
    assert parse_pairs(["piqa=acc", "arc=f1=macro"], "--metric", problems) == {"piqa": "acc", "arc": "f1=macro"}
    assert problems == []


def test_options_that_were_not_given():
    assert parse_layers(None, "--layers", []) is None
    assert parse_pairs(None, "--ffn", []) is None


@pytest.mark.parametrize(
    ("parse", "value", "words"),
    [
        (parse_numbers, ["0.9,x"], ["--option 'x'", "not a number"]),
        (parse_layers, ["a-b"], ["--option 'a-b'", "such as 0,3,5-9"]),
        (parse_layers, ["0,7-3"], ["'7-3' ends before it starts, expected 3-7"]),
        (parse_pairs, ["up"], ["--option 'up'", "NAME=VALUE"]),
        (parse_pairs, ["up=w1", "up=w2"], ["--option 'up=w2'", "up is 'w1' already"]),
    ],
)
def test_malformed_values_become_problems(parse, value, words):
    problems = []
    parse(value, "--option", problems)
    assert len(problems) == 1
    for word in words:
        assert word in problems[0]
