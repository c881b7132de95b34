"""The backend of the CPU."""

from __future__ import annotations

import torch

from sparsedial.acceleration.backend import Backend
from sparsedial.acceleration.cpu_ffns import CpuFfnKernels
from sparsedial.acceleration.cpu_kernels import FORMATS
from sparsedial.acceleration.cpu_products import AllOutputs, KeptInputs, KeptOutputs, make_selector
from sparsedial.acceleration.processor import converts_float16, describe_processor


def make_backend() -> Backend:
    """Return the kernels of the CPU."""
    dtypes = [dtype for dtype in FORMATS if dtype is not torch.float16 or converts_float16()]
    return Backend(
        dtypes=tuple(dtypes),
        make_selector=make_selector,
        make_kept_input_product=KeptInputs,
        make_kept_output_product=KeptOutputs,
        make_dense_product=AllOutputs,
        describe_device=describe_processor,
        ffn_kernels=CpuFfnKernels(),
    )
