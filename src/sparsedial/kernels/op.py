"""The op: `torch.ops.sparsedial.select(x, rule, value) -> (y, kept)`, dispatched by the tensor's device."""

from __future__ import annotations

import torch

from sparsedial.kernels import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

_library = torch.library.Library("sparsedial", "DEF")
_library.define("select(Tensor x, str rule, float value) -> (Tensor, Tensor)")


def _fake(x: torch.Tensor, rule: str, value: float) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=torch.int32)


_library.impl("select", reference.select, "CompositeExplicitAutograd")
torch.library.register_fake("sparsedial::select", _fake, lib=_library)
