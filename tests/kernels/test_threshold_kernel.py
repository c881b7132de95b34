"""The kernel of a fixed threshold."""

from sparsedial.kernels.dispatch import apply_rule
from sparsedial.kernels.kernel_registry import find_kernel
from sparsedial.rules.threshold import AboveThreshold
from sparsedial.testing import check_kernel


def test_the_kernel_keeps_the_entries_of_the_definition():
    assert apply_rule  # importing it registers the kernel
    kernel = find_kernel(AboveThreshold, "cpu")
    check_kernel(kernel, lambda width: [AboveThreshold(t) for t in (0.0, 0.1, 0.7001, 1e5)])
