"""docs/paper.md describes every figure, the format of reference files and the built-in values."""

import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

from sparsedial.analysis.references.loading import BUILT_IN, load_reference
from sparsedial.analysis.references.records import OVERLAP_PREVIOUS, ReferenceModel, ReferenceValue
from sparsedial.analysis.references.reference_file import ReferenceFile, parse_reference_file
from sparsedial.report.publication.catalog import KINDS

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text()
WORDS = set(re.findall(r"`([\w-]+)`", PAGE))


def test_every_figure_is_described():
    assert set(KINDS) <= WORDS
    assert set(BUILT_IN) <= WORDS


@pytest.mark.parametrize("record", [ReferenceFile, ReferenceModel, ReferenceValue])
def test_every_key_of_a_reference_file_is_described(record):
    assert {field.name for field in fields(record)} <= WORDS


def test_the_example_of_a_reference_file_is_valid():
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert parse_reference_file(json.loads(example), "example").values[0].value == 0.35


def test_the_built_in_values_are_counted_correctly():
    kinds = Counter((value.quantity == OVERLAP_PREVIOUS, value.is_exact) for value in load_reference("paper").values)
    assert kinds == {(False, True): 10, (False, False): 8, (True, False): 1}
    assert "`all_inputs` | 10 | exact" in PAGE and "`intermediate` | 8 | approximate" in PAGE


def test_the_study_files_exist():
    named = set(re.findall(r"`(\w+\.yaml)`", PAGE)) | set(re.findall(r"examples/paper/(\w+\.yaml)", PAGE))
    assert named
    for name in named:
        assert (ROOT / "examples" / "paper" / name).is_file(), name
