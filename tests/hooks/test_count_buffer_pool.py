"""Memory for counts."""

import math

import torch

from sparsedial.hooks.count_buffer_pool import CountBufferPool

SHAPES = [(2, 3), (2, 3), (5,), (5,), (2, 3), *[(1, 1)] * 200]


def test_buffers_are_on_the_device_of_the_call():
    """Calls of two devices alternate, as with `device_map`."""
    pool = CountBufferPool()
    for shape in SHAPES:
        for device in ("cpu", "meta"):
            assert pool.take(torch.empty(*shape, 8, device=device)).device.type == device


def test_buffers_have_the_size_of_the_call_and_share_no_memory():
    """Calls of several shapes alternate, as with experts in a list."""
    pool = CountBufferPool()
    buffers = []
    for number, shape in enumerate(SHAPES):
        buffer = pool.take(torch.empty(*shape, 8))
        assert buffer.shape == (math.prod(shape),)
        assert buffer.dtype == torch.int32
        assert buffer.device.type == "cpu"
        buffers.append(buffer.fill_(number))
    assert [int(buffer[0]) for buffer in buffers] == list(range(len(SHAPES)))
