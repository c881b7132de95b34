"""Downloads from the model hub: what is asked for, and how a failure is reported."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sparsedial.errors import ModelError
from sparsedial.models.hub import download_config, download_model


@pytest.fixture
def downloaded_patterns(monkeypatch):
    calls = []

    def download(hub_id, allow_patterns, local_files_only):
        calls.append(allow_patterns)
        return f"/cache/{hub_id}"

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return calls


def test_code_is_downloaded_only_on_request_and_pickled_weights_never(downloaded_patterns):
    assert download_model("org/model", trust_remote_code=False) == Path("/cache/org/model")
    download_model("org/model", trust_remote_code=True)
    without_code, with_code = downloaded_patterns
    assert "*.safetensors" in without_code
    assert not {"*.py", "*.bin", "*"} & set(without_code)
    assert with_code == [*without_code, "*.py"]


def test_a_failure_names_the_model_and_the_reason(monkeypatch):
    def fail(hub_id, file, local_files_only):
        raise OSError("no route to host\nmore details")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"'org/model'.*could not be downloaded.*\(OSError: no route to host\)\. Exp"):
        download_config("org/model")


def test_a_gated_model_says_how_to_get_access(monkeypatch):
    from huggingface_hub.errors import GatedRepoError

    def refuse(hub_id, file, local_files_only):
        raise GatedRepoError("403 Client Error.", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(
        ModelError, match=r"'org/model': gated.*Request access on https://huggingface.co/org/model.*hf auth"
    ):
        download_config("org/model")
