"""Decode steps that ``torch.compile`` compiles, while prompts run as before.

In a decode step of a small model on a CPU, Python's part of norms and attention takes as long as the products. Compiled
code has no such part. But it is compiled for fixed shapes, and a prompt has any length. So only calls with one new
token for each sequence are compiled, and only if the cache of keys and values has a fixed size.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from types import MethodType
from typing import Any

import torch
from torch import nn

from sparsedial.acceleration.backend import MAX_DECODE_VECTORS
from sparsedial.cache_arguments import find_cache
from sparsedial.hooks.module_patch import ForwardPatch
from sparsedial.tracing_state import is_tracing


class CompiledStep:
    """A decode step, which is compiled when it runs for the first time.

    Args:
        forward: The forward of the model.
        options: Arguments of ``torch.compile``.

    Attributes:
        run: The compiled forward.
    """

    def __init__(self, forward: Callable[..., Any], options: dict[str, Any]) -> None:
        self.run: Callable[..., Any] = torch.compile(forward, **options)


class DecodingPatch(ForwardPatch):
    """Patch that runs compiled code in the decode steps of a model until `remove` is called.

    Args:
        model: The model.
        **options: Arguments of ``torch.compile``. ``dynamic`` defaults to False.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        step = CompiledStep(model.forward, {"dynamic": False, **options})
        super().__init__(model, step)  # type: ignore[arg-type]  # it is not a function of a tensor

    def _select_forward(self) -> Callable[..., Any]:
        def call(patch: DecodingPatch, *args: Any, **kwargs: Any) -> Any:
            return patch._call(*args, **kwargs)

        # `generate` reads the parameters of the forward, for example whether it can leave out the logits of a prompt.
        inner = signature(self._inner)
        own = Parameter("self", Parameter.POSITIONAL_ONLY)  # the patch, which a bound method does not show
        full = inner.replace(parameters=[own, *inner.parameters.values()])
        call.__signature__ = full  # type: ignore[attr-defined]  # typeshed's functions lack what inspect.signature reads
        return MethodType(call, self)

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._apply, CompiledStep) and _is_decode_step(args, kwargs):
            return self._apply.run(*args, **kwargs)
        return self._inner(*args, **kwargs)


def _is_decode_step(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True if a call has one new token per sequence, at most eight sequences, and a cache of a fixed size."""
    cache = find_cache(kwargs)
    if not getattr(cache, "is_compileable", False):
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or is_tracing():
        return False
    tokens = args[0] if args else kwargs.get("input_ids")
    if tokens is None:
        tokens = kwargs.get("inputs_embeds")
    if not isinstance(tokens, torch.Tensor) or tokens.ndim < 2:
        return False
    return tokens.shape[1] == 1 and 0 < tokens.shape[0] <= MAX_DECODE_VECTORS
