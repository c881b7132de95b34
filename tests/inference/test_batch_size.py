"""Batches that are halved when memory runs out."""

import pytest
import torch

from sparsedial.inference.batch_size import FittingBatch, default_rows, is_memory_error


class Memory:
    """Memory with room for a number of rows."""

    def __init__(self, room, error):
        self.room = room
        self.error = error
        self.tried = []

    def use(self, rows):
        self.tried.append(rows)
        if rows > self.room:
            raise self.error
        return rows


MEMORY_ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
)


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_the_number_that_fits_is_kept(error):
    memory = Memory(5, error)
    messages = []
    batch = FittingBatch(24, messages.append)
    assert batch.run(memory.use) == 3
    assert batch.run(memory.use) == 3
    assert memory.tried == [24, 12, 6, 3, 3]
    assert messages[0] == "out of memory with 24 rows per forward pass: trying 12"
    assert len(messages) == 3


def test_one_row_that_does_not_fit_is_an_error():
    memory = Memory(0, MEMORY_ERRORS[0])
    with pytest.raises(torch.OutOfMemoryError):
        FittingBatch(2, lambda _: None).run(memory.use)
    assert memory.tried == [2, 1]


def test_other_errors_are_not_repeated():
    memory = Memory(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        FittingBatch(8, lambda _: None).run(memory.use)
    assert memory.tried == [8]


def test_a_real_allocation_that_fails_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert is_memory_error(caught.value)


def test_a_cpu_starts_with_fewer_rows():
    assert default_rows(torch.device("cpu")) == 8
    assert default_rows(torch.device("meta")) == 64
