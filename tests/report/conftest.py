"""One model, one task, five sites."""

import pytest
from report_sample import sample


@pytest.fixture
def results():
    """The usual results."""
    return sample()
