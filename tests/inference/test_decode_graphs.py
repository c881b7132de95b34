"""Decoding steps in CUDA graphs. Where there is no GPU, a graph is replaced by a function that repeats the step."""

import pytest
import torch

import sparsedial as sd
from benchmarks.countdown_model import NumberTokenizer, make_countdown_model
from sparsedial.hooks.foreign_hooks import has_foreign_hooks
from sparsedial.inference import decode_graphs
from sparsedial.inference.decode_graphs import DecodeGraphs, StepSize, can_capture
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import generate
from sparsedial.inference.run_context import RunContext
from sparsedial.inference.slot_decoder import SlotDecoder
from tests.conftest import DECODER, SIZES

SHAPE = {name: value for name, value in DECODER.items() if name not in SIZES}
LENGTHS = (5, 30, 1, 12, 7, 2, 11, 30, 9, 3)
LIMIT = 20


@pytest.fixture(scope="module")
def countdown():
    return make_countdown_model("cpu", torch.float32, vocab_size=700, **SHAPE)


class RepeatedStep:
    """Stand-in for a CUDA graph, which reads and writes the same memory in each step."""

    def __init__(self, step, output):
        self._step = step
        self._output = output

    def replay(self):
        self._output.copy_(self._step())


@pytest.fixture
def captured(monkeypatch):
    """Replace graphs, and return the sizes that were captured."""
    sizes = []

    def capture(self, size):
        active = self._decoder.is_active.clone()
        self._decoder.is_active.zero_()
        logits = self._forward_and_count(size).clone()
        self._decoder.is_active.copy_(active)
        sizes.append(size)
        return RepeatedStep(lambda: self._forward_and_count(size), logits), logits

    monkeypatch.setattr(DecodeGraphs, "_capture", capture)
    monkeypatch.setattr(decode_graphs, "can_capture", lambda *_: True)
    return sizes


def run(model, batch_tokens=4096):
    requests = [Prompt([600 + row] * (row + 1) + [length], (), LIMIT) for row, length in enumerate(LENGTHS)]
    with sd.sparsify(model, "all_inputs", sd.TopP(0.8)) as sparsifier:
        texts = generate(model, NumberTokenizer(), requests, RunContext(sparsifier, batch_tokens=batch_tokens))
    return texts, sparsifier.stats()


@pytest.mark.parametrize("batch_tokens", [90, 4096])
def test_graphs_change_neither_texts_nor_counts(countdown, captured, monkeypatch, batch_tokens):
    texts, table = run(countdown, batch_tokens)
    assert len(captured) > 1
    assert len({size.slots for size in captured}) > 1
    monkeypatch.setattr(decode_graphs, "can_capture", lambda *_: False)
    expected_texts, expected = run(countdown, batch_tokens)
    assert texts == expected_texts
    assert [len(text.tokens) for text in texts] == [min(length, LIMIT) for length in LENGTHS]
    assert table["total"].equals(expected["total"])
    assert (table["dropped"] - expected["dropped"]).abs().max() <= 2  # rounding moves a boundary


def test_a_capture_that_fails_is_reported_and_the_steps_are_run_as_usual(countdown, captured, monkeypatch):
    expected, _ = run(countdown)

    def fail(self, size):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(DecodeGraphs, "_capture", fail)
    with pytest.warns(UserWarning, match="without CUDA graphs, which is slower, because the capture failed: operation"):
        texts, _ = run(countdown)
    assert texts == expected


def test_memory_errors_of_a_capture_are_not_hidden(countdown, captured, monkeypatch):
    def fail(self, size):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(DecodeGraphs, "_capture", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(countdown)


def test_sizes_are_rounded_up(countdown, captured):
    graphs = DecodeGraphs(SlotDecoder(countdown, 40, 700), RunContext(), 40, 700)
    assert graphs.choose_size(1, 10) == StepSize(1, 128)
    assert graphs.choose_size(5, 257) == StepSize(8, 512)
    assert graphs.choose_size(33, 600) == StepSize(40, 700)


def test_what_runs_python_code_is_not_captured(own_llama):
    assert not can_capture(own_llama, RunContext())  # no GPU
    with sd.sparsify(own_llama, "input", sd.TopP(0.8)) as sparsifier:
        assert sparsifier.can_be_captured
        sparsifier.wrap(lambda counter, x, context, inner: inner(counter, x, context))
        assert not sparsifier.can_be_captured
    with sd.sparsify(own_llama, "input", sd.TopP(0.8), track_usage=True) as sparsifier:
        assert not sparsifier.can_be_captured
    hook = own_llama.model.layers[0].register_forward_hook(lambda *_: None)
    with sd.sparsify(own_llama, "input", sd.TopP(0.8)) as sparsifier:
        assert not sparsifier.can_be_captured
    hook.remove()


def test_inert_hooks_of_transformers_are_no_obstacle(own_llama):
    own_llama(torch.arange(3)[None], output_hidden_states=True)  # registers hooks that stay
    assert any(module._forward_hooks for module in own_llama.modules())
    assert not any(map(has_foreign_hooks, own_llama.modules()))
