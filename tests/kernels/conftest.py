"""Fixtures for the tests of the kernels."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _fill_fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill fresh memory with 77, so that entries that a backend does not write are noticed."""
    for name in ("empty", "empty_like"):
        allocate = getattr(torch, name)

        def allocate_filled(*args, allocate=allocate, **options):
            return allocate(*args, **options).fill_(77)

        monkeypatch.setattr(torch, name, allocate_filled)
