"""The measured limits of the products."""

import json

import pytest
import torch

from sparsedial.acceleration import call_timing, product_timing, timing_table
from sparsedial.acceleration.backend import ProductLimits, load_backend
from sparsedial.acceleration.cpu_backend import make_backend
from sparsedial.acceleration.timing_table import LimitTable, expect_kept_share
from sparsedial.errors import ModelError
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import MaxP, TopK, TopP


@pytest.fixture
def small_measurement(monkeypatch, tmp_path):
    """Measure small matrices, and keep the limits in a temporary cache."""
    monkeypatch.setattr(timing_table, "MIN_BYTES", 0)
    monkeypatch.setattr(product_timing, "COLD_BYTES", 1)
    monkeypatch.setattr(call_timing, "REPEATS", 1)
    monkeypatch.setenv("SPARSEDIAL_CACHE", str(tmp_path))
    return tmp_path / "acceleration" / "limits.json"


def test_limits_are_measured_once_and_read_from_the_cache(small_measurement):
    weight = torch.randn(24, 40)
    limits = LimitTable(make_backend()).find_limits(weight)
    assert len(limits.largest_share) == 8
    assert all(0 <= share <= 1 for share in limits.largest_share)
    assert limits.kernel_vectors in (8, 16, 32)
    [(key, entry)] = json.loads(small_measurement.read_text()).items()
    assert key.endswith("threads, float32, 24 x 40")
    entry |= {"dense": [3.0] * 4, "half": [2.0] * 4, "full": [6.0] * 4, "kernel_vectors": 13}
    small_measurement.write_text(json.dumps({key: entry}))
    expected = ProductLimits((0.625,) * 8, 13, kept_share=1.0)
    assert LimitTable(make_backend()).find_limits(weight) == expected
    other = LimitTable(make_backend()).find_limits(weight.bfloat16())  # another dtype is measured
    assert other.kernel_vectors != 13


def test_the_time_of_the_rule_is_part_of_the_limits(small_measurement):
    weight = torch.randn(24, 40)
    rule = BoundRule(TopK(0.4))
    LimitTable(make_backend()).find_limits(weight, rule, times_rule=True)
    product, rule_times = json.loads(small_measurement.read_text())
    assert rule_times.endswith("threads, float32, TopK of 24")
    entry = {"dense": [3.0] * 4, "half": [2.5] * 4, "full": [4.5] * 4, "kernel_vectors": 8}
    for seconds, expected in ((0.7, [False] + [True] * 7), (0.8, [True] * 8)):  # 95% of a dense product take 2.85
        small_measurement.write_text(json.dumps({product: entry, rule_times: [seconds] * 4}))
        # The kernel takes 2.1 for 40% of the rows, and 3.06 for 64%.
        limits = LimitTable(make_backend()).find_limits(weight, rule, times_rule=True)
        assert list(limits.rule_is_slower) == expected
        assert limits.kept_share == 0.4


@pytest.mark.parametrize(("rule", "share"), [(TopP(1.0), 1.0), (TopP(0.5), 0.5), (TopK(0.3), 0.3), (MaxP(0.0), 1.0)])
def test_a_rule_is_expected_to_keep_half_unless_its_value_says_more(rule, share):
    assert expect_kept_share(BoundRule(rule)) == share


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


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_a_table_of_another_kind_is_measured_again(small_measurement, content):
    small_measurement.parent.mkdir(parents=True)
    small_measurement.write_text(content)
    table = LimitTable(make_backend())
    limits = table.find_limits(torch.randn(24, 40))
    assert table.find_limits(torch.randn(24, 40)) == limits
    assert len(json.loads(small_measurement.read_text())) == 1


def test_a_table_that_cannot_be_written_is_measured_again(small_measurement, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(timing_table, "_table_path", lambda: tmp_path / "file" / "limits.json")
    assert LimitTable(make_backend()).find_limits(torch.randn(24, 40)).kernel_vectors >= 8


@pytest.mark.parametrize("change", [
    lambda entry: entry.clear(),
    lambda entry: entry.update(dense=[1.0]),
    lambda entry: entry.update(half=None),
    lambda entry: entry.update(kernel_vectors="many"),
])  # fmt: skip
def test_a_damaged_entry_is_measured_again(small_measurement, change):
    LimitTable(make_backend()).find_limits(torch.randn(24, 40))
    [(key, entry)] = json.loads(small_measurement.read_text()).items()
    change(entry)
    small_measurement.write_text(json.dumps({key: entry}))
    assert LimitTable(make_backend()).find_limits(torch.randn(24, 40)).kernel_vectors >= 8
    assert json.loads(small_measurement.read_text())[key] != entry


def test_entries_of_other_processes_are_kept(small_measurement):
    table = LimitTable(make_backend())
    LimitTable(make_backend()).find_limits(torch.randn(24, 40))
    table.find_limits(torch.randn(16, 40))
    assert len(json.loads(small_measurement.read_text())) == 2
