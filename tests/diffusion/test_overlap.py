"""Kept sets along the steps, against Python's sets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import sparsedial as sd
from sparsedial.diffusion.overlap import Reuse, Steps, jaccard, pack, popcount, unpack
from sparsedial.diffusion.sampler import Denoising, fill_in
from sparsedial.errors import SpecError

PROMPTS = torch.tensor([[5, 6, 7], [7, 8, 9]])


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 200), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_packed_sets_are_python_sets(seed, rows, width, share):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(rows, width, generator=generator) < share for _ in range(2))
    words = pack(a)
    assert words.shape == (rows, -(-width // 64))
    assert torch.equal(unpack(words, width), a)
    assert popcount(words).tolist() == a.sum(1).tolist()
    sets = [[set(row.nonzero()[:, 0].tolist()) for row in kept] for kept in (a, b)]
    expected = [len(x & y) / len(x | y) if x | y else 1.0 for x, y in zip(*sets, strict=True)]
    assert jaccard(words, pack(b)).tolist() == pytest.approx(expected)


class Recorder:
    """Keeps everything, as the watcher must not."""

    def __init__(self, dial):
        self.calls = []
        dial.wrap(self.around)

    def around(self, counter, x, seen, inner):
        y, kept = inner(counter, x, seen)
        self.calls.append((counter, seen.step, seen.masked.reshape(-1), (y != 0).reshape(-1, y.shape[-1])))
        return y, kept


def denoise(model, dial, length=8, steps=4, **how):
    return fill_in(model, PROMPTS, length, 95, Denoising(steps=steps, **how), [0, 1], dial=dial)


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_the_table_is_what_python_sets_say(masked_llama, guidance):
    with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as dial:
        steps, seen = Steps(dial), Recorder(dial)
        denoise(masked_llama, dial, guidance=guidance)
    expected = {}
    history = {}
    for counter, step, masked, kept in seen.calls:
        sets = [frozenset(row.nonzero()[:, 0].tolist()) for row in kept]
        history.setdefault(counter, []).append(sets)
        for token, mine in enumerate(sets):
            state = "masked" if masked[token] else "revealed"
            entry = expected.setdefault((counter, step, state), ([], [], []))
            entry[0].append(len(mine))
            if step:
                last, first = history[counter][-2][token], history[counter][0][token]
                entry[1].append(len(mine & last) / len(mine | last))
                entry[2].append(len(mine & first) / len(mine | first))
    table = steps.table()
    names = {(c.module, c.site): i for i, c in enumerate(steps.counters)}
    assert len(table) == len(expected)
    for row in table.itertuples():
        counts, consecutive, drift = expected[names[row.module, row.site], row.step, row.state]
        assert row.tokens == len(counts)
        assert row.total - row.dropped == sum(counts)
        assert row.compared == len(consecutive)
        for mean, values in ((row.consecutive, consecutive), (row.drift, drift)):
            assert np.isnan(mean) if not values else mean == pytest.approx(np.mean(values))
    whole, mine = dial.stats(), table.groupby("step")[["dropped", "total"]].sum()
    assert whole.groupby("step")[["dropped", "total"]].sum().astype(int).values.tolist() == mine.values.tolist()
    shares = steps.kept_share()
    for counter, share in shares.items():
        kept = torch.cat([k for c, _, _, k in seen.calls if c == counter]).double().mean(0)
        np.testing.assert_allclose(share, kept)


def test_usage_is_how_often_entries_are_kept(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopK(0.5)) as dial:
        steps = Steps(dial)
        assert steps.usage() == {}
        denoise(masked_llama, dial)
    every = torch.cat(list(steps.kept_share().values()))
    assert float(every.mean()) == pytest.approx(0.5)
    usage = steps.usage()
    assert usage["kept_median"] == pytest.approx(float(every.median()))
    assert usage["never_kept"] == float((every == 0).double().mean())


def test_a_new_batch_begins_anew(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopP(0.7)) as dial:
        steps = Steps(dial)
        denoise(masked_llama, dial)
        once = steps.table()
        denoise(masked_llama, dial)
    twice = steps.table()
    assert (twice["tokens"] == 2 * once["tokens"]).all()
    np.testing.assert_allclose(twice[["consecutive", "drift"]], once[["consecutive", "drift"]])


def test_padding_is_no_token(masked_llama):
    real = torch.tensor([[True, True, True, False]])
    with sd.sparsify(masked_llama, "input", sd.TopP(0.7)) as dial:
        steps = Steps(dial)
        for step in range(2):
            with dial.observe(step=step, real=real):
                masked_llama(torch.tensor([[5, 6, 7, 8]]))
    assert set(steps.table()["tokens"]) == {3}


def test_what_is_kept_of_the_past_does_not_grow_with_the_steps(masked_llama):
    held = {}
    for length, count in ((4, 4), (8, 8)):
        with sd.sparsify(masked_llama, "intermediate", sd.TopP(0.7)) as dial:
            steps = Steps(dial)
            denoise(masked_llama, dial, length=length, steps=count)
        words = [*steps._first.values(), *steps._last.values()]
        held[count] = sum(t.numel() for t in words) / (3 + length)
    assert held[4] == held[8]


WAITING = ("_local_scalar_dense", "nonzero")


class Ops(TorchDispatchMode):
    """Which operations ran."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(masked_llama):
    waits = {}
    for watched in (False, True):
        with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as dial:
            if watched:
                Reuse(dial, 2)
                Steps(dial)
            with Ops() as ops:
                denoise(masked_llama, dial if watched else None)
        waits[watched] = [name for name in ops.seen if any(w in name for w in WAITING)]
        assert not watched or any("__and__" in name for name in ops.seen)
    assert waits[True] == waits[False]  # the model's own attention asks whether its mask hides anything


def test_a_reused_mask_is_the_one_of_the_step_before(masked_llama):
    with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.7)) as dial:
        Reuse(dial, 3)
        seen = Recorder(dial)
        denoise(masked_llama, dial, steps=8)
    last, chosen_anew = {}, 0
    for counter, step, _, kept in seen.calls:
        if step % 3:
            assert torch.equal(kept, last[counter])
        elif step:
            chosen_anew += not torch.equal(kept, last[counter])
        last[counter] = kept
    assert chosen_anew > 0
    table = dial.stats()
    assert table["sparsity"].between(0.1, 0.9).all()


def test_reusing_for_one_step_is_not_reusing(masked_llama):
    made = []
    for k in (None, 1, 4):
        with sd.sparsify(masked_llama, "all_inputs", sd.TopP(0.5)) as dial:
            if k:
                Reuse(dial, k)
            denoise(masked_llama, dial, steps=8)
        made.append(dial.stats()["dropped"].tolist())
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_outside_of_denoising_nothing_is_reused(masked_llama, tokens):
    dropped = []
    for k in (1, 5):
        with sd.sparsify(masked_llama, "input", sd.TopP(0.5)) as dial, torch.no_grad():
            Reuse(dial, k)
            masked_llama(tokens[:2])
            masked_llama(tokens[2:])
        dropped.append(dial.stats()["dropped"].tolist())
    assert dropped[0] == dropped[1]


def test_a_reused_mask_leaves_what_is_not_finite(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopP(0.5)) as dial:
        Reuse(dial, 2)
        x = torch.randn(1, 3, 32)
        y = [dial._selecting._around(0, x, type("Seen", (), {"step": 0}))]
        x[0, 1, 4] = torch.nan
        y.append(dial._selecting._around(0, x, type("Seen", (), {"step": 1})))
    assert y[1][1].tolist()[0][1] == -1
    assert torch.equal(y[1][0][0, 1].isnan(), x[0, 1].isnan())
    assert (y[1][0][0, 0] != 0).sum() == y[0][1][0, 0]


def test_a_mask_must_be_used_at_least_once(masked_llama):
    with sd.sparsify(masked_llama, "input", sd.TopP(0.5)) as dial, pytest.raises(SpecError, match="at least 1"):
        Reuse(dial, 0)
