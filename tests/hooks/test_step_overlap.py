"""Kept sets along the denoising steps, against Python's sets."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sparsedial as sd
from sparsedial.hooks import KeptSetOverlap, MaskReuse
from tests.support.denoising import CallRecorder, run_denoising

OVERLAPS = ["overlap_previous", "overlap_first"]


@dataclass
class Expected:
    """Values of each token of one counter, step and state."""

    kept: list[int] = field(default_factory=list)
    previous: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


def compare_sets(calls):
    """Return what the table should contain, by counter, step and state."""
    expected = defaultdict(Expected)
    history = defaultdict(list)
    for call in calls:
        sets = [frozenset(row.nonzero()[:, 0].tolist()) for row in call.kept]
        history[call.counter].append(sets)
        for token, entries in enumerate(sets):
            state = "masked" if call.masked[token] else "revealed"
            values = expected[call.counter, call.step, state]
            values.kept.append(len(entries))
            if call.step:
                previous = history[call.counter][-2][token]
                first = history[call.counter][0][token]
                values.previous.append(len(entries & previous) / len(entries | previous))
                values.first.append(len(entries & first) / len(entries | first))
    return expected


def check_mean(mean, values):
    if values:
        assert mean == pytest.approx(np.mean(values))
    else:
        assert np.isnan(mean)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_the_table_agrees_with_python_sets(masked_llama, guidance):
    with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        recorder = CallRecorder(sparsifier)
        run_denoising(masked_llama, sparsifier, guidance=guidance)
    expected = compare_sets(recorder.calls)
    table = overlap.table()
    counters = {(key.module, key.vector): i for i, key in enumerate(overlap.counters)}
    assert len(table) == len(expected)
    for row in table.itertuples():
        values = expected[counters[row.module, row.vector], row.step, row.state]
        assert row.tokens == len(values.kept)
        assert row.total - row.dropped == sum(values.kept)
        assert row.compared == len(values.previous)
        check_mean(row.overlap_previous, values.previous)
        check_mean(row.overlap_first, values.first)
    counted = sparsifier.stats().groupby("step")[["dropped", "total"]].sum().astype(int)
    assert counted.values.tolist() == table.groupby("step")[["dropped", "total"]].sum().values.tolist()
    for counter, share in overlap.kept_share().items():
        kept = torch.cat([call.kept for call in recorder.calls if call.counter == counter]).double().mean(0)
        np.testing.assert_allclose(share, kept)


def test_usage_summarises_how_often_entries_are_kept(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopK(0.5)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        assert overlap.usage() == {}
        run_denoising(masked_llama, sparsifier)
    shares = torch.cat(list(overlap.kept_share().values()))
    assert float(shares.mean()) == pytest.approx(0.5)
    usage = overlap.usage()
    assert usage["kept_median"] == pytest.approx(float(shares.median()))
    assert usage["never_kept"] == float((shares == 0).double().mean())


def test_a_new_batch_is_not_compared_with_the_one_before(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopP(0.7)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        run_denoising(masked_llama, sparsifier)
        once = overlap.table()
        run_denoising(masked_llama, sparsifier)
    twice = overlap.table()
    assert (twice["tokens"] == 2 * once["tokens"]).all()
    np.testing.assert_allclose(twice[OVERLAPS], once[OVERLAPS])


def test_padding_is_not_counted(masked_llama):
    real = torch.tensor([[True, True, True, False]])
    with sd.sparsify(masked_llama, "input", sd.TopP(0.7)) as sparsifier:
        overlap = KeptSetOverlap(sparsifier)
        for step in range(2):
            with sparsifier.observe(step=step, real=real):
                masked_llama(torch.tensor([[5, 6, 7, 8]]))
    assert set(overlap.table()["tokens"]) == {3}


def test_memory_does_not_grow_with_the_steps(masked_llama):
    words_per_token = {}
    for length, steps in ((4, 4), (8, 8)):
        with sd.sparsify(masked_llama, "intermediate", sd.TopP(0.7)) as sparsifier:
            overlap = KeptSetOverlap(sparsifier)
            run_denoising(masked_llama, sparsifier, length=length, steps=steps)
        words_per_token[steps] = overlap.stored_words() / (3 + length)
    assert words_per_token[4] == words_per_token[8]


class OperatorLog(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(masked_llama):
    waiting_operators = {}
    for observed in (False, True):
        with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as sparsifier:
            if observed:
                MaskReuse(2).attach(sparsifier)
                KeptSetOverlap(sparsifier)
            with OperatorLog() as log:
                run_denoising(masked_llama, sparsifier if observed else None)
        waiting_operators[observed] = [name for name in log.names if "_local_scalar_dense" in name or "nonzero" in name]
        assert not observed or any("__and__" in name for name in log.names)
    # The model's own attention reads whether its mask hides anything.
    assert waiting_operators[True] == waiting_operators[False]
