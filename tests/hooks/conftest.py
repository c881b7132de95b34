"""Fixtures of the hooks' tests."""

import pytest

from sparsedial.hooks.decode_fast_path import VARIABLE


@pytest.fixture(params=[pytest.param("1", id="fast"), pytest.param("0", id="generic", marks=pytest.mark.slow)])
def fast_decode(request, monkeypatch):
    """Run the test twice: with the fast path for decoding one token on the CPU, and (`make test-long`) without it."""
    monkeypatch.setenv(VARIABLE, request.param)
    return request.param == "1"
