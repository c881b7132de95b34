"""Test of the task, with the suite of sparsedial and the smallest model of the zoo."""

from sparsedial_example_task import TokenProbability

from sparsedial.models.loading import load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.testing import check_task


def test_token_probability():
    lm = load_language_model(resolve_source("zoo:dense-0.4m"), device="cpu", dtype="float32")
    check_task(TokenProbability(limit=3), lm, examples=3)
