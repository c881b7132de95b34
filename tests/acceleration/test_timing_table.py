"""The measured limits of the products."""

import json

import pytest
import torch

from sparsedial.acceleration import timing_table
from sparsedial.acceleration.backend import ProductLimits, load_backend
from sparsedial.acceleration.cpu_products import make_backend
from sparsedial.acceleration.timing_table import LimitTable
from sparsedial.errors import ModelError


@pytest.fixture
def small_measurement(monkeypatch, tmp_path):
    """Measure small matrices, and keep the limits in a temporary cache."""
    monkeypatch.setattr(timing_table, "MIN_BYTES", 0)
    monkeypatch.setattr(timing_table, "COLD_BYTES", 1)
    monkeypatch.setattr(timing_table, "REPEATS", 1)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    return tmp_path / "acceleration" / "limits.json"


def test_limits_are_measured_once_and_read_from_the_cache(small_measurement):
    weight = torch.randn(24, 40)
    limits = LimitTable(make_backend()).find_limits(weight)
    assert len(limits.largest_share) == 8
    assert all(0 <= share <= 1 for share in limits.largest_share)
    assert limits.kernel_vectors in (8, 16, 32)
    [entry] = json.loads(small_measurement.read_text()).values()
    entry["kernel_vectors"] = 13
    entry["largest_share"] = [0.25] * 8
    key = next(iter(json.loads(small_measurement.read_text())))
    assert key.endswith("threads, float32, 24 x 40")
    small_measurement.write_text(json.dumps({key: entry}))
    assert LimitTable(make_backend()).find_limits(weight) == ProductLimits((0.25,) * 8, 13)
    other = LimitTable(make_backend()).find_limits(weight.bfloat16())  # another dtype is measured
    assert other.kernel_vectors != 13


def test_a_damaged_table_is_measured_again(small_measurement):
    small_measurement.parent.mkdir(parents=True)
    small_measurement.write_text("{")
    LimitTable(make_backend()).find_limits(torch.randn(24, 40))
    assert len(json.loads(small_measurement.read_text())) == 1


def test_small_matrices_are_not_measured(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    assert LimitTable(make_backend()).find_limits(torch.randn(24, 40)) == ProductLimits()
    assert not list(tmp_path.rglob("*.json"))


def test_a_device_without_kernels_raises_an_error():
    with pytest.raises(ModelError, match="on the device 'xla': expected cpu"):
        load_backend(torch.device("xla"))
