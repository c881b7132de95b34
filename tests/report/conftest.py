"""Results that most tests of the report use."""

import pytest

from tests.support.report_sample import sample


@pytest.fixture
def results():
    """Results of one model on one task at five sites."""
    return sample()
