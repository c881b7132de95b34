"""docs/output-tables.md describes every column that is written."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sparsedial.analysis.changed_answers import ChangedAnswers
from sparsedial.analysis.perplexity_columns import CRITICAL_PERPLEXITY_COLUMNS, POINT_PERPLEXITY_COLUMNS
from sparsedial.analysis.references.comparison import COLUMNS
from sparsedial.analysis.results import compute_results
from sparsedial.study.records import StepOverlapCount
from tests.support import made_up_studies
from tests.support.made_up_studies import LARGE, MIXTURE, SMALL, Model, study

PAGE = (Path(__file__).parents[2] / "docs" / "output-tables.md").read_text()
TABLES = (
    "critical",
    "points",
    "layers",
    "experts",
    "steps",
    "step_overlap",
    "generated",
    "trends",
    "differences",
    "segments",
    "cost",
    "changes",
    "changed_examples",
)
LISTS = ("layers_by_p", "experts_by_p")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results in which no table is empty."""
    make_record = made_up_studies._record

    def with_overlap(model, *args):
        record = make_record(model, *args)
        if not model.steps or record.identity.is_dense:
            return record
        overlap = StepOverlapCount(0, "layers.0", record.identity.site, 1, "masked", 10, 40, 100, 10, 0.5, 0.4)
        return replace(record, step_overlap=(overlap,))

    diffusion = Model("dlm-100m", 100_000_000, steps=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made_up_studies, "_record", with_overlap)
        models = [SMALL, LARGE, MIXTURE, diffusion]
        store = study(tmp_path_factory.mktemp("study"), models, ("gsm8k",), ("input", "gate"), generates=("gsm8k",))
    return compute_results(store)


def described_columns(table):
    """Return the names in the section about a table."""
    section = re.search(rf"## `{table}\.csv`.*?(?=\n## |\Z)", PAGE, re.DOTALL)
    assert section, f"no section about {table}.csv"
    return set(re.findall(r"`(\w+)`", section[0]))


@pytest.mark.parametrize("table", TABLES)
def test_every_column_is_described(results, table):
    frame = getattr(results, table)
    assert not frame.empty
    assert set(frame.columns) <= described_columns(table)


def test_the_columns_of_the_perplexity_criterion_are_described():
    assert set(CRITICAL_PERPLEXITY_COLUMNS) <= described_columns("critical")
    assert set(POINT_PERPLEXITY_COLUMNS) <= described_columns("points")


@pytest.mark.parametrize("table", LISTS)
def test_every_column_with_lists_is_described(results, table):
    section = re.search(r"## `layers_by_p` and `experts_by_p`.*?(?=\n## )", PAGE, re.DOTALL)
    frame = getattr(results, table)
    assert not frame.empty
    assert set(frame.columns) <= set(re.findall(r"`(\w+)`", section[0]))


def test_every_column_of_changed_tokens_is_described():
    fields = re.findall(r'^ {20}"(\w+)":', inspect.getsource(ChangedAnswers._add_tokens), re.MULTILINE)
    assert "replacement_id" in fields
    assert set(fields) <= described_columns("changed_tokens")


def test_every_column_of_the_comparison_with_references_is_described():
    assert set(COLUMNS) <= described_columns("reference")
