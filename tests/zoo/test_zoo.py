"""What ships: whole, within its size, trained, and found by name."""

import json
import re
import shutil

import pytest
import torch
from safetensors import safe_open

from sparsedial import zoo
from sparsedial.errors import ModelError
from sparsedial.models import load_model
from sparsedial.sources import find_model
from sparsedial.tasks import NextToken
from sparsedial.zoo.recipes import RECIPES, Recipe

NAMES = zoo.names()


def test_every_shipped_recipe_is_there_and_nothing_else():
    assert sorted(name for name, recipe in RECIPES.items() if recipe.shipped) == NAMES


def test_the_weights_are_small():
    files = [f for name in NAMES for f in zoo.find(name).glob("*.safetensors")]
    assert sum(f.stat().st_size for f in files) <= 60e6
    assert max(f.stat().st_size for f in files) < 16e6


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_zoo(name):
    folder = zoo.find(f"zoo:{name}")
    assert Recipe.from_json(json.loads((folder / "recipe.json").read_text())) == RECIPES[name]
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    lm = load_model(find_model(f"zoo:{name}"), device="cpu", dtype="float32")
    number = float(re.search(r"-([\d.]+)m", name)[1])
    assert lm.parameters / 1e6 == pytest.approx(number, rel=0.06)
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == RECIPES[name].steps
    # The final held-out loss is the lowest, or within noise of it: not over-fitted.
    heldout = [line["heldout"] for line in log if "heldout" in line]
    assert heldout[-1] < min(heldout) + 0.02


def test_it_was_trained(trained):
    task = NextToken(limit=16)
    assert task.score(trained, task.prepare(trained)).mean > 0.35  # random: 1 in 4096


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ModelError, match=r"zoo:dense-7b.*zoo:dense-0\.4m.*zoo:moe-5m"):
        find_model("zoo:dense-7b")


def _without(path):
    path.unlink()


def _with_one_bit_flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_without, _with_one_bit_flipped])
def test_a_missing_or_damaged_file_names_itself_and_its_sha256(tmp_path, monkeypatch, damage):
    shutil.copytree(zoo.find("dense-0.4m"), tmp_path / "dense-0.4m")
    monkeypatch.setattr(zoo, "_MODELS", tmp_path)
    path = tmp_path / "dense-0.4m" / "model.safetensors"
    assert zoo.find("dense-0.4m")
    damage(path)
    expected = json.loads(zoo._MANIFEST.read_text())["dense-0.4m"]["model.safetensors"]
    with pytest.raises(ModelError, match=rf"dense-0\.4m/model\.safetensors.*expected sha256 {expected}"):
        find_model("zoo:dense-0.4m")
