"""A small, valid trial record for tests of the store."""

from sparsedial.models.identity import ModelIdentity
from sparsedial.rules import TopP
from sparsedial.study.provenance import Provenance
from sparsedial.study.records import ModelLabel, SparsityCount, TaskLabel, TrialIdentity, TrialRecord, TrialResult

PROVENANCE = Provenance({"torch": "2.13.0"}, "3.11.7", "a processor", 2)


def make_record(number=0, score=0.5):
    """Return a sparse trial. A different ``number`` gives a different key, a different ``score`` another result."""
    identity = TrialIdentity(
        model=ModelIdentity("0" * 64, "float32"),
        task={"task": "made_up", "number": number},
        site="input",
        rule=TopP(0.9),
        ffns="f",
    )
    count = SparsityCount(
        layer=0, module="layers.0", vector="input", expert=None, phase="prefill", step=None,
        dropped=3, total=10, tokens=1, weight=None,
    )  # fmt: skip
    return TrialRecord(
        identity=identity,
        model=ModelLabel("tiny", "directory", 1000, 1000, "cpu"),
        task=TaskLabel("made_up"),
        result=TrialResult("acc", score, 3, 3, 10, {"tiny": 1e-12, "precise": 0.30000000000000004}),
        counts=(count,),
        skippable_macs={"input": 2 / 3},
        seconds=0.1,
        provenance=PROVENANCE,
    )
