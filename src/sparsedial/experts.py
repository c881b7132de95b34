"""A layer's experts stacked in one parameter: read as FFNs, and run so that their vectors can be reached.

Transformers fuses the experts of a layer in 3-D parameters, so there is no module of an expert to hook. It lets
others register an experts forward, though, and asks each experts module's own ``config`` which one to run. `Tap`
puts a view in that place which asks for ours and leaves every other layer, and the model's ``config``, alone.

Our forward is transformers' ``grouped_mm`` (or ``batched_mm``, where the model asks for that), matmul for matmul
through its own helpers, so that with nothing dropped it gives the same bits; in between it hands x, u, g and i
to whoever tapped them. The model's ``_apply_gate`` computes i, whatever it does. u and g are never put back into
it: i = u ⊙ g, so an entry dropped from either is an entry of i set to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _batched_linear, _grouped_linear

from sparsedial.trace import watching

NAME = "sparsedial"
Value = Callable[[torch.Tensor], torch.Tensor]


class Routed(NamedTuple):
    """Where the router sent a forward's tokens, one entry per (token, expert) pair.

    Attributes:
        expert: int64, the expert of each pair. token: int64, its token.
        weight: how much the expert's output counts for that token.
        tokens: how many tokens there are.
    """

    expert: torch.Tensor
    token: torch.Tensor
    weight: torch.Tensor
    tokens: int


Apply = Callable[[torch.Tensor, Routed], torch.Tensor]  # sparsify these vectors, one per pair (x: one per token)


class Shape(NamedTuple):
    """How many experts a module stacks, and the widths of x and of the intermediate vector."""

    experts: int
    hidden: int
    width: int


def shape(module: nn.Module) -> Shape | str:
    """The module's `Shape` where it holds experts that our forward can run; otherwise why it cannot."""
    kind = type(module).__name__
    if not _comes_to_us(module):
        return (
            f"{kind} stacks its experts' weights in one parameter and runs them by itself, "
            "not through transformers' experts interface"
        )
    if getattr(module, "_is_expert_parallel", False):
        return f"{kind} is split over several processes"
    up, down = _weight(module), module.down_proj
    if not (isinstance(up, torch.Tensor) and isinstance(down, torch.Tensor) and up.dim() == down.dim() == 3):
        return f"{kind} keeps its experts' weights in another way than one 3-D parameter for each projection"
    if any(not w.dtype.is_floating_point or w.dtype.itemsize < 2 for w in (up, down)):
        return f"{kind} keeps its experts' weights quantised, as {up.dtype} and {down.dtype}"
    into, out = (up.shape[1:], down.shape[1:]) if module.is_transposed else (up.shape[:0:-1], down.shape[:0:-1])
    if into[0] != out[1] or into[1] != out[0] * (2 if module.has_gate else 1):
        return f"the shapes of {kind}'s weights, {list(up.shape)} and {list(down.shape)}, do not fit together"
    return Shape(int(down.shape[0]), int(into[0]), int(out[0]))


class OneExpert(nn.Module):
    """An expert spelt out in modules, for the tracer: the stack's own activation between two small projections."""

    def __init__(self, stack: nn.Module, width: int) -> None:
        super().__init__()
        weight = _weight(stack)
        where = {
            "device": "cpu" if weight.device.type == "meta" else weight.device,
            "dtype": weight.dtype,
        }
        self.stack = stack
        rows = width * (2 if stack.has_gate else 1)
        self.up = nn.utils.skip_init(nn.Linear, 2, rows, bias=False, **where)
        self.down = nn.utils.skip_init(nn.Linear, width, 2, bias=False, **where)
        with torch.no_grad():  # any numbers will do, but not the global generator's
            self.up.weight.copy_(torch.arange(2 * rows).reshape(rows, 2).sin())
            self.down.weight.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """down(activation(up(x)))."""
        return self.down(_activation(self.stack)(self.up(x)))


class Tap:
    """One vector of one experts module, tapped until `remove`."""

    def __init__(self, module: Any, vector: str, apply: Apply, value: Value | None = None) -> None:
        """``value`` says what u or g is of the projection's output, in a gated expert."""
        self._module, self._vector = module, vector
        if not isinstance(module.config, _View):
            module.config = _View(module.config)
        module.config.taps[vector] = (apply, value)

    def remove(self) -> None:
        """Leave the module as it was, once nobody taps it any more."""
        view = self._module.config
        if isinstance(view, _View):
            view.taps.pop(self._vector, None)
            if not view.taps:
                self._module.config = view.config


class _View:
    """In the place of an experts module's ``config``: the same, but for the experts forward it asks for."""

    _experts_implementation = NAME

    def __init__(self, config: Any) -> None:
        self.config = config
        self.taps: dict[str, tuple[Apply, Value | None]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "config":  # a copy under way has none yet
            raise AttributeError(name)
        return getattr(self.config, name)


class _Question:
    """What `_comes_to_us` calls a class's forward on, instead of a module."""

    config = _View(None)


def _comes_to_us(module: nn.Module) -> bool:
    """Whether this class's forward asks the interface which function to run, and has what that function needs."""
    needs = ("has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj", "config")
    try:
        answer = type(module).forward(_Question, None, None, None)
    except Exception:
        return False
    return answer is _Question and all(hasattr(module, name) for name in needs)


def _weight(module: Any) -> Any:
    return getattr(module, "gate_up_proj" if module.has_gate else "up_proj", None)


def _activation(module: Any) -> Value:
    return module._apply_gate if module.has_gate else module.act_fn


def _forward(module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> Any:
    """What transformers calls in the module's place: ``hidden_states [T, D]``, the other two ``[T, k]``."""
    if module is _Question:
        return module
    taps = {} if watching() else module.config.taps
    tokens, k = top_k_index.shape
    expert, weight = top_k_index.reshape(-1), top_k_weights.reshape(-1)
    grouped = module.config.config._experts_implementation != "batched_mm"
    if grouped:
        expert, order = torch.sort(expert)
        token, weight = order // k, weight[order]
        # histc, for bincount would wait for the device; on the CPU it knows floats only.
        numbers = expert.float() if expert.device.type in ("cpu", "mps") else expert.int()
        count = torch.histc(numbers, bins=module.num_experts, min=0, max=module.num_experts - 1)
        ends = torch.cumsum(count, dim=0, dtype=torch.int32)
    else:
        token = torch.arange(tokens * k, device=expert.device) // k
    routed = Routed(expert, token, weight, tokens)

    def project(x: torch.Tensor, name: str) -> torch.Tensor:
        matrix, flipped = getattr(module, name), module.is_transposed
        bias = getattr(module, f"{name}_bias")[expert] if module.has_bias else None
        if grouped:
            return _grouped_linear(x, matrix, ends, bias=bias, is_transposed=flipped)
        return _batched_linear(x, matrix[expert], bias=bias, is_transposed=flipped)

    if "input" in taps:
        hidden_states = taps["input"][0](hidden_states, routed)
    z = project(hidden_states[token], "gate_up_proj" if module.has_gate else "up_proj")
    if module.has_gate:
        dropped = []
        for apply, value in (taps[v] for v in ("up", "gate") if v in taps):
            vector = value(z)
            dropped.append((apply(vector, routed) == 0) & (vector != 0))
        i = module._apply_gate(z)
        for entries in dropped:
            i = i.masked_fill(entries, 0)
    else:
        i = module.act_fn(taps["up"][0](z, routed) if "up" in taps else z)
    if "intermediate" in taps:
        i = taps["intermediate"][0](i, routed)
    out = project(i, "down_proj")
    if getattr(module, "has_post_expert_norm", False):
        out = module.post_expert_norm(out)
    out = out * weight.unsqueeze(-1)
    if grouped:
        out = out[torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))]
    return out.view(tokens, k, -1).sum(dim=1).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(NAME, _forward)
