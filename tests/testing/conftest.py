"""The zoo's smallest diffusion model."""

import pytest

from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source


@pytest.fixture(scope="session")
def diffusion_lm():
    return load_language_model(resolve_source("zoo:diffusion-1.3m"), device="cpu", dtype="float32")
