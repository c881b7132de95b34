"""The folder of the model cache."""

import pytest

from sparsedial.cache_location import cache_folder
from sparsedial.errors import StorageError


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "cache"))
    assert cache_folder("wheels") == tmp_path / "cache" / "wheels"
    assert cache_folder("wheels").is_dir()


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="SPARSEDIAL_CACHE"):
        cache_folder("wheels")
