"""Fixtures of the hooks' tests."""

import pytest

from sparsedial.hooks.decode_fast_path import VARIABLE


@pytest.fixture(params=["1", "0"], ids=["fast", "generic"])
def fast_decode(request, monkeypatch):
    """Run the test twice: with the fast path for decoding one token on the CPU, and without it."""
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param == "1"
