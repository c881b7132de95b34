"""Packed conversations: what is learned, what a conversation sees, and a training that is interrupted."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tools.zoo.recipes import END_OF_TURN, RECIPES, START, THINKING_VOCABULARY, WINDOW
from tools.zoo.thinking_corpus import (
    encode_parts,
    make_tokenizer,
    pack_problems,
    write_conversation,
    write_corpus,
)
from tools.zoo.thinking_problems import Operation, Problem, draw_training_problems
from tools.zoo.train import Intervals, train_model
from tools.zoo.trainer import Trainer, compute_loss

RECIPE = replace(RECIPES["thinking-0.8m"], hidden=32, layers=1, batch=2, tokens=2 * WINDOW * 6)
PROBLEM = Problem(7, (Operation("+", 5), Operation("*", 3)))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


def test_the_tokenizer_has_the_special_tokens_of_the_recipe(tokenizer):
    assert len(tokenizer) == THINKING_VOCABULARY
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (START, END_OF_TURN)


def test_the_chat_template_gives_the_text_of_the_training(tokenizer):
    question = [{"role": "user", "content": PROBLEM.question()}]
    for is_direct in (False, True):
        text = "".join(part.text for part in write_conversation(PROBLEM, None, is_direct=is_direct))
        prompt = tokenizer.apply_chat_template(
            question, tokenize=False, add_generation_prompt=True, enable_thinking=not is_direct
        )
        assert text.startswith(prompt)
        answer = text.removeprefix(prompt)
        assert answer == ("36<|end|>" if is_direct else "<think>b=07+5=12,c=12*3=36,</think>36<|end|>")
        turns = [*question, {"role": "assistant", "content": text[text.index("<think>") : -len("<|end|>")]}]
        assert tokenizer.apply_chat_template(turns, tokenize=False) == text


@pytest.mark.parametrize("is_direct", [False, True])
def test_only_the_turn_of_the_model_is_learned(tokenizer, is_direct):
    token_ids = encode_parts(write_conversation(PROBLEM, None, is_direct=is_direct), tokenizer)
    learned = tokenizer.decode([token_id for token_id in token_ids if token_id >= 0])
    assert learned == ("36<|end|>" if is_direct else "<think>b=07+5=12,c=12*3=36,</think>36<|end|>")


def test_windows_hold_whole_conversations_and_little_else(tokenizer):
    packed = pack_problems(draw_training_problems(random.Random(5)), 40, tokenizer, seed=5)
    assert packed.shape == (40 * WINDOW,)
    windows = packed.reshape(40, WINDOW).astype(int)
    assert (windows[:, 0] == ~START).all()
    assert (windows == ~END_OF_TURN).mean() < 0.2  # padding, and the ends of the users' turns
    starts = (windows == ~START).sum(1)
    ends = (windows == END_OF_TURN).sum(1)  # learned
    assert (starts == ends).all()


def test_conversations_in_a_window_do_not_see_each_other(tokenizer):
    windows = torch.from_numpy(pack_problems(draw_training_problems(random.Random(5)), 8, tokenizer, seed=5))
    [row] = [row for row in windows.view(8, WINDOW).long() if (row == ~START).sum() == 3][:1]
    model = Trainer(RECIPE, torch.device("cpu")).model.eval()
    second, third = (row == ~START).nonzero().flatten()[1:].tolist()
    generator = torch.Generator()
    whole = compute_loss(model, RECIPE, row[None], generator)
    losses = []
    for part in (row[:second], row[second:third], row[third:]):
        losses.append(compute_loss(model, RECIPE, part[None], generator) * (part >= 0).sum())
    torch.testing.assert_close(whole, sum(losses) / (row >= 0).sum())


def test_a_stopped_training_that_continues_gives_the_same_model(tmp_path):
    write_corpus(tmp_path / "corpus", windows=8)
    for folder, stops in (("whole", [None]), ("stopped", [1, 4, None])):
        for steps in stops:
            intervals = Intervals(log=2, held_out=4)
            train_model(RECIPE, tmp_path / "corpus", tmp_path / folder, torch.device("cpu"), steps, intervals)
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert (whole / "tokenizer.json").is_file()


def test_the_same_seed_gives_the_same_corpus(tmp_path):
    for name in ("first", "second"):
        write_corpus(tmp_path / name, windows=8)
    first, second = (np.load(tmp_path / name / "train.npy", allow_pickle=False) for name in ("first", "second"))
    np.testing.assert_array_equal(first, second)
