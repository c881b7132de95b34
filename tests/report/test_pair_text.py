"""Differences between models and rules in English."""

import pytest

from sparsedial.analysis.differences import CurveDifference
from sparsedial.analysis.finding_records import Conditions, PairComparison, PairGroup, SiteDifference
from sparsedial.report.pair_text import describe_pairs

MORE = CurveDifference("b", 0.08, 0.05, 0.11)
LESS = CurveDifference("b", -0.08, -0.11, -0.05)
UNCLEAR = CurveDifference("b", None, -0.02, 0.3)
INDEPENDENT = CurveDifference("b", 0.08, -0.05, 0.11, is_paired=False)


def make_group(*differences, kind="model", model=None, pairs=1):
    """Return a group of equal pairs that have these differences at the sites a, b, ..."""
    sites = tuple(SiteDifference(name, difference) for name, difference in zip("abc", differences, strict=False))
    return PairGroup(kind, Conditions("average"), model, (PairComparison("small", "large", sites),) * pairs)


def test_each_site_is_listed_with_what_its_interval_says():
    assert describe_pairs(make_group(MORE, LESS, UNCLEAR)) == (
        "Models compared on average over the tasks: small against large: more sparsity at a (+8.0, +5.0 "
        "to +11.0); less sparsity at b (−8.0, −11.0 to −5.0); no clear difference at c (−2.0 to "
        "+30.0). Differences are in percentage points, with 95% intervals on the same examples."
    )


def test_rules_are_compared_for_one_model():
    assert describe_pairs(make_group(MORE, kind="rule", model="m")).startswith("Rules compared for m on average")


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ((INDEPENDENT,), "of independent examples."),
        ((MORE, INDEPENDENT), "partly on the same examples."),
    ],
)
def test_it_is_said_if_the_examples_differ(differences, text):
    assert describe_pairs(make_group(*differences)).endswith(text)


def test_many_pairs_are_counted():
    assert describe_pairs(make_group(MORE, UNCLEAR, pairs=4)) == (
        "Pairs of models on average over the tasks: of 4 pairs, the 95% interval of the difference excludes 0 for 4 at "
        "a and 0 at b."
    )
