"""Fixtures for the tests of models."""

import pytest

from sparsedial.models.sources import resolve_source


@pytest.fixture
def saved_llama(tmp_path, llama):
    """The folder of a small Llama, saved without a tokenizer."""
    llama.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def llama_source(saved_llama):
    """The small Llama as a source."""
    return resolve_source(str(saved_llama))
