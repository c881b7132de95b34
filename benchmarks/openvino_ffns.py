"""The speed of OpenVINO on the FFNs of a model, beside the stock modules and the kernels of this package.

OpenVINO is no dependency of this package. Without it, the comparison says that it is not installed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import sparsedial as sd


class FfnStack(nn.Module):
    """The FFNs of all layers of a model in a row, each with its residual connection.

    Args:
        model: A model of the Llama family.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norms = nn.ModuleList([layer.post_attention_layernorm for layer in model.model.layers])
        self.ffns = nn.ModuleList([layer.mlp for layer in model.model.layers])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of the last FFN for vectors of shape [batch, tokens, hidden]."""
        for norm, ffn in zip(self.norms, self.ffns, strict=True):
            x = x + ffn(norm(x))
        return x


def compare_ffns(model: Any, p: float, turns: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Time the FFNs of all layers for one token, in turns: stock, OpenVINO, kernels at p = 1, kernels at p.

    Args:
        model: A model of the Llama family, on the CPU.
        p: Parameter of top-p.
        turns: Turns. Each one times every contender over 20 tokens.
        clock: Function that returns seconds.

    Returns:
        Median milliseconds per token of each contender.
    """
    stack = FfnStack(model)
    dtype = next(model.parameters()).dtype
    x = model.get_input_embeddings()(torch.arange(1, 2)[None]).detach()
    run_openvino = _compile_with_openvino(stack, x, dtype)
    seconds: dict[str, list[float]] = {"stock": [], "openvino": [], "p1": [], "sparse": []}

    def time_calls(name: str, call: Callable[[], Any]) -> None:
        call()
        start = clock()
        for _ in range(20):
            call()
        seconds[name].append((clock() - start) / 20)

    with torch.no_grad():
        for _ in range(turns):
            time_calls("stock", lambda: stack(x))
            if run_openvino is not None:
                time_calls("openvino", run_openvino)
            for name, value in (("p1", 1.0), ("sparse", p)):
                with sd.accelerate(model, "all_inputs", sd.TopP(value)):
                    time_calls(name, lambda: stack(x))
    result: dict[str, Any] = {}
    for name, times in seconds.items():
        result[f"ms_{name}"] = round(1e3 * statistics.median(times), 2) if times else "not installed"
    return result


def _compile_with_openvino(stack: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> Callable[[], Any] | None:
    """Return a function that runs the stack with OpenVINO, or None if it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    precision = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    with torch.no_grad():
        converted = openvino.convert_model(stack.float(), example_input=x.float(), input=[1, 1, x.shape[-1]])
    stack.to(dtype)
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(converted, "CPU", options)
    request = compiled.create_infer_request()
    values = x.float().numpy()
    return lambda: request.infer({0: values})
