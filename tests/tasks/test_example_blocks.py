"""Blocks of examples: the same division for every number of examples, and the same examples in every division."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsedial as sd
from sparsedial.tasks.denoising_replay import DenoisingReplay
from sparsedial.tasks.example_blocks import (
    FIRST_BLOCK,
    ExampleBlock,
    block_ends,
    count_requested_blocks,
    divide_examples,
    find_block,
    task_blocks,
    without_examples,
)
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from tests.support.tasks import make_task


@given(count=st.integers(1, 5000), added=st.integers(0, 5000))
def test_blocks_are_consecutive_and_more_examples_only_append_blocks(count, added):
    blocks = divide_examples(count, count + added)
    assert blocks[0].first == 0
    assert [block.first for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert blocks[-1].end == count + added
    assert blocks[: len(block_ends(count))] == divide_examples(count)
    assert sum(map(len, divide_examples(count))) == count


@given(count=st.integers(1, 5000), more=st.integers(1, 5000))
def test_complete_blocks_are_the_same_for_every_number_of_examples(count, more):
    few = divide_examples(count)
    many = divide_examples(count + more)
    assert few[:-1] == many[: len(few) - 1]
    assert len(few) < 2 or len(few[0]) == FIRST_BLOCK


def test_the_range_of_examples_is_no_setting():
    identity = {"task": "a", "examples": [64, 128]}
    assert without_examples(identity) == {"task": "a"}
    assert find_block(identity) == ExampleBlock(64, 128)
    assert find_block({"task": "a"}) is None


CAUSAL_TASKS = (SelfPrediction(sequences=7, length=5), NextToken(limit=7, length=5))
DIFFUSION_TASKS = (
    SelfPrediction(sequences=7, length=6),
    Restoration(sequences=7, length=6),
    DenoisingReplay(sequences=7, length=6),
    MaskedToken(limit=7, length=6),
)


def check_blocks(task, lm, monkeypatch):
    """Score a task in blocks of 2, 2 and 3 examples, and all at once."""
    monkeypatch.setattr("sparsedial.tasks.example_blocks.FIRST_BLOCK", 2)
    whole_examples = json.loads(json.dumps(task.prepare(lm)))
    whole = task.score(lm, whole_examples)
    blocks = task_blocks(task)
    assert [block.identity()["examples"] for block in blocks] == [[0, 2], [2, 4], [4, 7]]
    assert len({json.dumps(without_examples(block.identity())) for block in (task, *blocks)}) == 1
    scores = []
    predictions = []
    for block in blocks:
        examples = json.loads(json.dumps(block.prepare(lm)))
        for name, rows in examples.items():
            first, end = block.identity()["examples"]
            assert rows == whole_examples[name][first:end]
        with sd.sparsify(lm.model, site="input", rule=sd.TopP(1.0)) as sparsifier:
            result = block.score(lm, examples, sparsifier)
        scores += result.values.tolist()
        predictions += result.predictions
    np.testing.assert_allclose(scores, whole.values, atol=1e-6)
    assert predictions == list(whole.predictions)
    assert all(isinstance(json.loads(text), list) for text in predictions)


@pytest.mark.parametrize("task", CAUSAL_TASKS, ids=lambda task: task.name)
def test_blocks_of_causal_tasks_have_the_examples_of_the_whole(task, causal_lm, monkeypatch):
    check_blocks(task, causal_lm, monkeypatch)


@pytest.mark.parametrize("task", DIFFUSION_TASKS, ids=lambda task: task.name)
def test_blocks_of_diffusion_tasks_have_the_examples_of_the_whole(task, diffusion_lm, monkeypatch):
    check_blocks(task, diffusion_lm, monkeypatch)


def test_a_task_with_data_grows_to_its_last_example_and_others_without_limit():
    documents = NextToken(limit=3)
    available = documents.count_available()
    assert task_blocks(documents, 10**6)[-1].identity()["examples"][1] == available
    assert task_blocks(SelfPrediction(sequences=3), 1000)[-1].identity()["examples"] == [512, 1000]
    assert count_requested_blocks(documents) == 1
    assert count_requested_blocks(SelfPrediction(sequences=200)) == 3


def test_a_task_that_cannot_be_divided_has_one_block():
    @dataclasses.dataclass(frozen=True)
    class Undivided:
        name: str = "undivided"

    task = Undivided()
    assert task_blocks(task, 1000) == [task]
    assert count_requested_blocks(task) == 1


def test_the_block_is_no_option():
    with pytest.raises(sd.SparsedialError, match="unknown option 'block'"):
        make_task("self_prediction", block=[0, 4])
