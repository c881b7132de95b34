"""Tests of the rules, with the suites of sparsedial."""

from sparsedial_example_rule.above_mean import AboveMean, select_on_cpu
from sparsedial_example_rule.layer_threshold import LayerThreshold, Threshold

from sparsedial.testing import check_kernel, check_rule


def test_above_mean():
    check_rule(AboveMean)
    check_kernel(select_on_cpu, AboveMean, max_differing_entries=1)


def test_layer_threshold():
    check_rule(LayerThreshold, bind=lambda rule, width: Threshold(rule.share))
