"""Records that workers and drivers exchange."""

import pytest

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import MaxP, TopP
from sparsedial.study.job import FailureRecord, Job, OutcomeKind, ResolvedModel
from sparsedial.study.worker import Outcome

MODEL = ResolvedModel("m", ModelIdentity("0" * 64, "float32"), "f", ("input", "gate"), 1000, "a model")


@pytest.mark.parametrize("job", [Job("m"), Job("m", "piqa"), Job("m", "piqa", "input", MaxP(0.1))])
def test_jobs_survive_json(job):
    assert Job.from_json(job.to_json()) == job


def test_failures_and_outcomes_survive_json():
    failure = FailureRecord("ab", OutcomeKind.KILLED, "died\nat line 1", Job("m", "piqa", "input", TopP(0.9)))
    assert FailureRecord.from_json(failure.to_json()) == failure
    assert failure.summary == "died"
    outcome = Outcome(OutcomeKind.FINISHED, resolved_model=MODEL)
    assert Outcome.from_json(outcome.to_json()) == outcome


def test_a_failure_without_a_message_is_described_by_its_kind():
    assert FailureRecord("ab", OutcomeKind.TIMEOUT, "").summary == "it took longer than --timeout"
