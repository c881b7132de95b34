"""Training: learns, and killed at any moment goes on to the very same weights."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from sparsedial.zoo import corpus, train
from sparsedial.zoo.recipes import END, RECIPES, WINDOW

STEPS = 12


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    texts = [f"{a} and {b} are {a + b} together" for a in range(40) for b in range(40)]
    tokenizer = corpus.learn_tokenizer(texts)
    tokenizer.save_pretrained(folder / "tokenizer")
    stream = [t for ids in tokenizer(texts)["input_ids"] for t in (END, *ids)]
    for name, part in (("train", stream), ("heldout", stream[: 2 * WINDOW])):
        np.save(folder / f"{name}.npy", np.array(part, dtype=np.uint16), allow_pickle=False)
    return folder


SCRIPT = f"""
import sys, torch
from dataclasses import replace
from pathlib import Path
from sparsedial.zoo import train
from sparsedial.zoo.recipes import RECIPES, WINDOW
name, corpus, out = sys.argv[1:]
torch.set_num_threads(1)
train.REPORT, train.KEEP = 2, 3
recipe = replace(RECIPES[name], batch=4, tokens=4 * WINDOW * {STEPS})
train.train(recipe, Path(corpus), Path(out), torch.device("cpu"))
"""


def run(name, folder, out, kill_at=None):
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", SCRIPT, name, str(folder), str(out)])
    if kill_at is not None:
        log = out / "training.jsonl"
        while child.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= kill_at):
            time.sleep(0.002)
        child.kill()
        child.wait()
        assert not (out / "model.safetensors").exists()
        return
    assert child.wait() == 0


def logged(folder):
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_killed_and_started_again_gives_the_same_model(small_corpus, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run("dense-0.4m", small_corpus, whole)
    run("dense-0.4m", small_corpus, killed, kill_at=2)  # after step 4, a checkpoint at step 3 behind it
    run("dense-0.4m", small_corpus, killed)
    assert (whole / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert logged(whole) == logged(killed)
    assert logged(whole)[-1]["loss"] < logged(whole)[0]["loss"] - 0.3
    assert not (killed / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("name", ["moe-5m", "diffusion-1.3m"])
def test_stopped_and_started_again_gives_the_same_model(name, small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "REPORT", 2)
    recipe = replace(RECIPES[name], batch=2, tokens=2 * WINDOW * 6)
    for folder, stops in (("whole", [None]), ("stopped", [1, 5, None])):
        for steps in stops:
            train.train(recipe, small_corpus, tmp_path / folder, torch.device("cpu"), steps)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert (whole / "model.safetensors").read_bytes() == (stopped / "model.safetensors").read_bytes()
    assert logged(whole) == logged(stopped)


def test_a_checkpoint_of_another_recipe_is_refused(small_corpus, tmp_path):
    recipe = replace(RECIPES["dense-0.4m"], batch=2, tokens=2 * WINDOW * 4)
    train.train(recipe, small_corpus, tmp_path, torch.device("cpu"), steps=1)
    with pytest.raises(SystemExit, match="another recipe"):
        train.train(replace(recipe, seed=7), small_corpus, tmp_path, torch.device("cpu"))


def test_every_window_comes_once_an_epoch_and_from_any_step():
    data = torch.arange(10)[:, None].expand(10, WINDOW)
    recipe = replace(RECIPES["dense-0.4m"], batch=2)
    from_start = train.batches(data, recipe, 0)
    first = [next(from_start)[:, 0].tolist() for _ in range(10)]
    assert sorted(chain(*first[:5])) == sorted(chain(*first[5:])) == list(range(10))
    assert first[:5] != first[5:]
    from_seven = train.batches(data, recipe, 7)
    assert [next(from_seven)[:, 0].tolist() for _ in range(3)] == first[7:]
