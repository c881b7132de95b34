"""The zoo package: complete, small enough, trained, and found by name."""

import json
import re
import shutil
import sys

import pytest
import torch
from safetensors import safe_open

from sparsedial.errors import ModelError
from sparsedial.models import zoo_package
from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import check_model_exists, resolve_source
from sparsedial.tasks import NextToken
from tools.zoo.recipes import RECIPES, Recipe

NAMES = zoo_package.model_names()


def test_the_package_has_a_model_for_every_shipped_recipe_and_no_other():
    assert sorted(name for name, recipe in RECIPES.items() if recipe.shipped) == NAMES


def test_the_weights_are_small():
    sizes = [file.stat().st_size for file in zoo_package.zoo_folder().rglob("*.safetensors")]
    assert sum(sizes) < 40e6
    assert max(sizes) < 16e6


@pytest.mark.parametrize("name", NAMES)
def test_each_model_matches_its_recipe(name):
    folder = zoo_package.find_model_folder(f"zoo:{name}")
    assert Recipe.from_json(json.loads((folder / "recipe.json").read_text())) == RECIPES[name]
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert {file.get_tensor(key).dtype for key in list(file.keys())} == {torch.bfloat16}
    lm = load_language_model(resolve_source(f"zoo:{name}"), device="cpu", dtype="float32")
    number = float(re.search(r"-([\d.]+)m", name)[1])
    assert lm.parameters / 1e6 == pytest.approx(number, rel=0.06)
    log = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == RECIPES[name].steps
    # The final held-out loss is the lowest, or within noise of it: not over-fitted.
    heldout = [line["heldout"] for line in log if "heldout" in line]
    assert heldout[-1] < min(heldout) + 0.02


def test_the_smallest_model_predicts_tokens(trained):
    task = NextToken(limit=16)
    assert task.score(trained, task.prepare(trained)).mean > 0.35  # chance level: 1 in 4096


def test_an_unknown_name_lists_the_names():
    with pytest.raises(ModelError, match=r"zoo:dense-7b.*zoo:dense-0\.4m.*zoo:moe-5m"):
        resolve_source("zoo:dense-7b")


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparsedial_zoo", None)
    with pytest.raises(ModelError, match=r"sparsedial-zoo is not installed.*pip install sparsedial-zoo"):
        resolve_source("zoo:dense-5m")
    with pytest.raises(ModelError, match=r"sparsedial-zoo is not installed.*pip install sparsedial-zoo"):
        check_model_exists("zoo:dense-5m")
    assert zoo_package.model_names() == []


def delete(path):
    path.unlink()


def flip_one_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [delete, flip_one_bit])
def test_a_missing_or_damaged_file_names_itself_and_its_sha256(tmp_path, monkeypatch, damage):
    shutil.copytree(zoo_package.find_model_folder("dense-0.4m"), tmp_path / "models" / "dense-0.4m")
    shutil.copy(zoo_package.zoo_folder() / "manifest.json", tmp_path)
    monkeypatch.setattr("sparsedial_zoo.FOLDER", tmp_path)
    path = tmp_path / "models" / "dense-0.4m" / "model.safetensors"
    assert zoo_package.find_model_folder("dense-0.4m")
    damage(path)
    expected = zoo_package.read_manifest().models["dense-0.4m"]["model.safetensors"]
    with pytest.raises(ModelError, match=rf"dense-0\.4m/model\.safetensors.*expected sha256 {expected}"):
        resolve_source("zoo:dense-0.4m")
