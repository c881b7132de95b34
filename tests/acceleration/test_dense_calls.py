"""Counts of calls in CUDA graphs, with a stand-in for the graphs that needs no GPU."""

from contextlib import contextmanager
from itertools import count

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsedial.acceleration import dense_calls
from sparsedial.acceleration.dense_calls import DenseCalls
from sparsedial.acceleration.graph_replays import ReplayCounter, find_capture, is_capturing

_numbers = count()
CPU = torch.device("cpu")


class RecordedGraph(TorchDispatchMode):
    """Additions that are recorded instead of run, as a CUDA graph does it, until they are replayed."""

    def __init__(self, monkeypatch):
        super().__init__()
        self._monkeypatch = monkeypatch
        self.number = None
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.add_:
            self.kernels.append(args)
            return args[0]
        return func(*args, **(kwargs or {}))

    @contextmanager
    def capture(self, is_known=True):
        """Record what the `with` block runs, as a capture that CUDA has a number for, or not."""
        self.number = next(_numbers)
        self.kernels.clear()
        with self._monkeypatch.context() as patch, self:
            patch.setattr(dense_calls, "is_capturing", lambda _: True)
            patch.setattr(dense_calls, "find_capture", lambda _: self.number if is_known else None)
            yield

    def replay(self, times=1):
        for tensor, number in self.kernels * times:
            tensor.add_(number)


@pytest.fixture
def make_graph(monkeypatch):
    return lambda: RecordedGraph(monkeypatch)


@pytest.fixture
def first():
    return DenseCalls(torch.zeros(10, 3))


@pytest.fixture
def second():
    return DenseCalls(torch.zeros(3, 10))


def count_calls(*matrices):
    return tuple(matrix.counts().calls for matrix in matrices)


def test_all_calls_of_a_graph_share_one_kernel(make_graph, first, second):
    graph = make_graph()
    with graph.capture():
        for vectors in (2, 2, 8):
            first.add(vectors)
        second.add(1)
    assert len(graph.kernels) == 1
    assert count_calls(first, second) == (0, 0)  # a capture runs nothing
    graph.replay(5)
    assert count_calls(first, second) == (15, 5)
    assert (first.counts().entries, second.counts().entries) == (5 * 10 * (2 + 2 + 8), 5 * 3)
    assert first.counts().rows_read == first.counts().rows == 15 * 10


def test_graphs_are_counted_apart(make_graph, first, second):
    both, only_first, only_second = make_graph(), make_graph(), make_graph()
    with both.capture():
        first.add(1)
        second.add(1)
    with only_first.capture():
        first.add(4)
    first.add(3)  # between the captures, outside of a graph
    with only_second.capture():
        second.add(2)
        second.add(2)
    both.replay()
    only_first.replay(3)
    only_second.replay(10)
    assert count_calls(first, second) == (1 + 1 + 3, 1 + 20)
    assert first.counts().entries == 10 * (1 + 3 + 3 * 4)


def test_a_graph_that_is_captured_again_is_another_graph(make_graph, first, second):
    graph = make_graph()
    with graph.capture():
        first.add(2)
    graph.replay(3)
    with graph.capture():
        second.add(2)
    graph.replay(2)
    assert count_calls(first, second) == (3, 2)


def test_a_capture_that_fails_counts_nothing(make_graph, first):
    graph = make_graph()
    with pytest.raises(RuntimeError, match="stopped"), graph.capture():
        first.add(2)
        raise RuntimeError("stopped")
    with graph.capture():
        first.add(2)
    graph.replay(2)
    assert count_calls(first) == (2,)


def test_a_reset_between_replays_concerns_its_matrix_only(make_graph, first, second):
    graph, later = make_graph(), make_graph()
    with graph.capture():
        first.add(2)
        second.add(2)
    graph.replay(3)
    first.add(1)
    first.reset()
    assert count_calls(first, second) == (0, 3)
    graph.replay(2)
    with later.capture():
        first.add(2)
        second.add(2)
    later.replay(10)
    assert count_calls(first, second) == (12, 15)
    for matrix in (first, second, second):
        matrix.reset()
    graph.replay()
    assert count_calls(first, second) == (1, 1)


def test_a_reset_before_the_first_replay_keeps_the_graph(make_graph, first):
    graph = make_graph()
    with graph.capture():
        first.add(2)
    first.reset()
    graph.replay(3)
    assert count_calls(first) == (3,)


def test_the_calls_of_an_unknown_capture_count_themselves(make_graph, first):
    unknown, known = make_graph(), make_graph()
    with unknown.capture(is_known=False):
        first.add(2)
        first.add(3)
    with known.capture():
        first.add(1)
    assert len(unknown.kernels) == 2
    unknown.replay(4)
    known.replay(5)
    first.add(1)
    assert count_calls(first) == (4 * 2 + 5 + 1,)
    assert first.counts().entries == 10 * (4 * (2 + 3) + 5 + 1)
    first.reset()
    unknown.replay()
    assert count_calls(first) == (2,)


def test_the_calls_of_a_capture_without_room_count_themselves(make_graph, monkeypatch):
    monkeypatch.setattr(dense_calls, "get_replay_counter", lambda _: ReplayCounter(CPU, max_captures=1))
    matrix = DenseCalls(torch.zeros(10, 3))
    graphs = [make_graph() for _ in range(3)]
    for graph in graphs:
        with graph.capture():
            matrix.add(2)
            matrix.add(2)
    assert [len(graph.kernels) for graph in graphs] == [1, 2, 2]
    for graph in graphs:
        graph.replay(3)
    assert count_calls(matrix) == (3 * 2 * 3,)


def test_nothing_is_captured_on_a_cpu():
    assert not is_capturing(CPU)


def test_a_capture_is_unknown_without_the_bindings_of_cuda(monkeypatch):
    monkeypatch.setattr("sparsedial.acceleration.graph_replays._load_runtime", lambda: None)
    assert find_capture(torch.device("cuda", 0)) is None
