"""The zoo's diffusion model and one of its causal models."""

import pytest

from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source


@pytest.fixture(scope="session")
def diffusion_lm():
    return load_language_model(resolve_source("zoo:diffusion-1.3m"), device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def causal_lm():
    return load_language_model(resolve_source("zoo:dense-1.3m"), device="cpu", dtype="float32")
