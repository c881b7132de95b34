"""Suites that check a rule, a kernel or a task, for the tests of packages that define their own.

Each function raises an `AssertionError` that says what was seen and what was expected. They can be called from any test
framework. The built-in rules, kernels and tasks pass the same suites.
"""

from sparsedial.testing.kernel_checks import check_kernel
from sparsedial.testing.rule_checks import check_rule
from sparsedial.testing.task_checks import check_task

__all__ = ["check_kernel", "check_rule", "check_task"]
