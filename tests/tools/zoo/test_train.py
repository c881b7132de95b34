"""Training learns, and an interrupted training ends with exactly the same weights."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain, product

import numpy as np
import pytest
import torch

from tools.zoo.recipes import RECIPES, WINDOW
from tools.zoo.tokenizer import encode_documents, train_tokenizer
from tools.zoo.train import Intervals, iterate_batches, train_model

STEPS = 12


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"{a} and {b} are {a + b} together" for a, b in product(range(40), repeat=2)]
    tokenizer = train_tokenizer(texts)
    tokenizer.save_pretrained(folder / "tokenizer")
    stream = encode_documents(texts, tokenizer)
    for name, part in (("train", stream), ("heldout", stream[: 2 * WINDOW])):
        np.save(folder / f"{name}.npy", part, allow_pickle=False)
    return folder


SCRIPT = f"""
import sys, torch
from dataclasses import replace
from pathlib import Path
from tools.zoo.recipes import RECIPES, WINDOW
from tools.zoo.train import Intervals, train_model
name, corpus, out = sys.argv[1:]
torch.set_num_threads(1)
recipe = replace(RECIPES[name], batch=4, tokens=4 * WINDOW * {STEPS})
intervals = Intervals(log=2, held_out=8, checkpoint=3)
train_model(recipe, Path(corpus), Path(out), torch.device("cpu"), intervals=intervals)
"""


def start_training(name, folder, out):
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", SCRIPT, name, str(folder), str(out)])


def train_to_the_end(name, folder, out):
    assert start_training(name, folder, out).wait() == 0


def kill_training(name, folder, out, after_lines):
    process = start_training(name, folder, out)
    while process.poll() is None and count_lines(out / "training.jsonl") < after_lines:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (out / "model.safetensors").exists()


def count_lines(file):
    return len(file.read_text().splitlines()) if file.exists() else 0


def read_log(folder):
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


@pytest.mark.slow  # four trainings, each in a process of its own
def test_a_killed_training_that_continues_gives_the_same_model(small_corpus, tmp_path):
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    train_to_the_end("dense-0.4m", small_corpus, whole)
    kill_training("dense-0.4m", small_corpus, killed, after_lines=2)  # after step 4, with a checkpoint of step 3
    train_to_the_end("dense-0.4m", small_corpus, killed)
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert read_log(whole) == read_log(killed)
    assert read_log(whole)[-1]["loss"] < read_log(whole)[0]["loss"] - 0.3
    assert not (killed / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["moe-5m", "diffusion-1.3m"])
def test_a_stopped_training_that_continues_gives_the_same_model(name, small_corpus, tmp_path):
    intervals = Intervals(log=2, held_out=8)
    recipe = replace(RECIPES[name], batch=2, tokens=2 * WINDOW * 6)
    for folder, stops in (("whole", [None]), ("stopped", [1, 5, None])):
        for steps in stops:
            train_model(recipe, small_corpus, tmp_path / folder, torch.device("cpu"), steps, intervals)
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert read_log(whole) == read_log(stopped)


def test_a_checkpoint_with_another_recipe_is_refused(small_corpus, tmp_path):
    recipe = replace(RECIPES["dense-0.4m"], batch=2, tokens=2 * WINDOW * 4)
    train_model(recipe, small_corpus, tmp_path, torch.device("cpu"), max_steps=1)
    with pytest.raises(SystemExit, match="another recipe"):
        train_model(replace(recipe, seed=7), small_corpus, tmp_path, torch.device("cpu"))


def test_every_window_comes_once_per_epoch_from_any_step():
    data = torch.arange(10)[:, None].expand(10, WINDOW)
    recipe = replace(RECIPES["dense-0.4m"], batch=2)
    from_start = iterate_batches(data, recipe, 0)
    first = [next(from_start)[:, 0].tolist() for _ in range(10)]
    assert sorted(chain(*first[:5])) == sorted(chain(*first[5:])) == list(range(10))
    assert first[:5] != first[5:]
    from_seven = iterate_batches(data, recipe, 7)
    assert [next(from_seven)[:, 0].tolist() for _ in range(3)] == first[7:]


def test_a_folder_with_other_files_is_not_trained_into(tmp_path):
    (tmp_path / "model.safetensors").write_text("the user's")
    with pytest.raises(SystemExit, match="new or empty folder"):
        train_model(RECIPES["dense-0.4m"], tmp_path / "corpus", tmp_path, torch.device("cpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
