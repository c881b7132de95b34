"""The manifest of the zoo package lists every file that determines a model."""

import shutil

import pytest

from sparsedial.models import zoo_package
from tools.zoo.manifest import write_manifest


@pytest.fixture
def package(tmp_path):
    shutil.copytree(zoo_package.zoo_folder(), tmp_path / "zoo")
    return tmp_path / "zoo"


def test_the_shipped_manifest_is_up_to_date(package):
    shipped = (package / "manifest.json").read_bytes()
    (package / "manifest.json").unlink()
    assert write_manifest(package) == zoo_package.read_manifest()
    assert (package / "manifest.json").read_bytes() == shipped


def test_a_new_model_and_a_changed_file_are_recorded(package):
    (package / "models" / "tiny").mkdir()
    (package / "models" / "tiny" / "config.json").write_text("{}")
    (package / "models" / "tiny" / "training.jsonl").write_text("")
    (package / "tokenizer" / "tokenizer_config.json").write_text("{}")
    manifest = write_manifest(package)
    assert list(manifest.models["tiny"]) == ["config.json"]
    assert manifest.tokenizer["tokenizer_config.json"] == manifest.models["tiny"]["config.json"]
    assert manifest.models["moe-5m"] == zoo_package.read_manifest().models["moe-5m"]
