"""Tracking of the forward passes of a model and of the models inside it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.errors import AttachError
from sparsedial.hooks.context_reader import Scope, open_scope
from sparsedial.hooks.forward_arguments import TEXT_MODEL, ForwardArguments, ModelTraits, read_arguments
from sparsedial.hooks.forward_context import PREFILL, ForwardContext
from sparsedial.hooks.forward_override import ForwardOverride, OverrideStack
from sparsedial.hooks.thread_state import ThreadValue

HOW_TO_STATE_THEM = (
    "Call the model itself, model(...), or state them: sparsifier.observe(phase='prefill', real=...), where real=None "
    "means that all tokens are real."
)


class ForwardTracker:
    """Tracker of the models whose forward is running.

    A language model contains an inner model that may also be called directly. All of them are hooked. The forward pass
    begins and ends with the outermost one, and the context of a vector is that of the innermost one, which knows the
    tokens and the mask that it really processes. `ForwardCoordinator` registers the hooks, which call `enter` and
    `leave`.

    A forward pass holds a lock, so that a forward pass in another thread waits until it has ended.

    Attributes:
        context: Context of the vectors that are computed at present, or None between forward passes.
        overrides: Values that the user stated.
        models: The hooked models.
        finished_rows: Boolean tensor of shape [batch] that is True for the rows whose generation in the present thread
            has ended. Not set if no generation with several rows is running.
    """

    def __init__(self) -> None:
        self.context: ForwardContext | None = None
        self.overrides = OverrideStack()
        self.models: Sequence[nn.Module] = ()
        self.finished_rows: ThreadValue[torch.Tensor] = ThreadValue()
        self._scopes: list[Scope] = []  # outermost first
        self._lock = threading.RLock()
        self._lock_depth = 0
        self._thread = 0  # the one that holds the lock

    def thread_context(self) -> ForwardContext | None:
        """Return the context if the present thread runs the forward pass, otherwise None.

        Other threads may call single layers, or repeat parts of an earlier forward pass in their backward pass.
        """
        context = self.context
        if context is None or torch.compiler.is_dynamo_compiling() or self._thread == threading.get_ident():
            return context
        return None

    def is_running(self, model_index: int) -> bool:
        """Return True if the forward of this hooked model has started and not ended.

        Args:
            model_index: Index of the hooked model.
        """
        return any(scope.model_index == model_index for scope in self._scopes)

    @property
    def is_inside_forward(self) -> bool:
        """True if a forward pass has started and not ended. If no model code is running, the pass was interrupted."""
        return len(self._scopes) > 0

    def acquire(self) -> None:
        """Wait until no other thread is inside a forward pass. Compiled code does not wait."""
        if not torch.compiler.is_compiling():
            self._lock.acquire()
            self._lock_depth += 1
            self._thread = threading.get_ident()

    def release(self) -> None:
        """Undo one call of `acquire`."""
        if not torch.compiler.is_compiling() and self._lock_depth > 0:
            self._lock_depth -= 1
            self._lock.release()

    def release_all(self) -> None:
        """Let the forward passes of other threads continue. The present thread must have called `acquire`."""
        if torch.compiler.is_compiling():
            return
        depth = self._lock_depth
        self._lock_depth = 0  # before the lock is free, because then it is that of another thread
        for _ in range(depth):
            self._lock.release()

    def enter(self, model_index: int, arguments: Mapping[str, Any], traits: ModelTraits = TEXT_MODEL) -> ForwardContext:
        """Start the forward of a hooked model.

        Args:
            model_index: Index of the hooked model.
            arguments: Arguments of its forward, by name.
            traits: Properties of the model. Defaults to those of a text model.

        Returns:
            The context of the vectors that this model computes.

        Raises:
            SpecError: The cache does not say whether it holds tokens.
        """
        outer = self._scopes[-1] if self._scopes else None
        scope = open_scope(
            model_index,
            read_arguments(arguments, traits),
            outer,
            self.overrides.current or ForwardOverride(),
            self.finished_rows.get(),
        )
        self._scopes.append(scope)
        self.context = scope.context
        return scope.context

    def enter_dense(self, model_index: int) -> ForwardContext:
        """Start the forward of a hooked model in a forward pass that is not sparsified. Its arguments are not read.

        Args:
            model_index: Index of the hooked model.

        Returns:
            The context of all its vectors.
        """
        scope = Scope(model_index, ForwardArguments(), ForwardContext(), None)
        self._scopes.append(scope)
        self.context = scope.context
        return scope.context

    def leave(self, model_index: int) -> ForwardContext | None:
        """End the forward of a hooked model, and of the models inside it that were interrupted.

        Args:
            model_index: Index of the hooked model. Nothing happens if its forward did not start.

        Returns:
            The context of the model that called it, or None if it was the outermost one.
        """
        if self.is_running(model_index):
            while self._scopes.pop().model_index != model_index:
                pass
        self.context = self._scopes[-1].context if self._scopes else None
        return self.context

    def clear(self) -> None:
        """End the forward of all hooked models."""
        self._scopes.clear()
        self.context = None

    def forget_generation(self) -> None:
        """Forget which rows have ended."""
        self.finished_rows = ThreadValue()

    def describe_call_outside(self, module: str) -> ForwardContext | None:
        """Return the context of a call of a single layer, outside of a forward pass.

        Nobody passed a mask or a cache to such a layer, so all its tokens are real, unless the user states otherwise.

        Args:
            module: Name of the FFN that was called.

        Returns:
            The context. None if the call must not be counted, because it repeats a part of a forward pass during the
            backward pass (gradient checkpointing).

        Raises:
            AttachError: The forward method of a model was called directly, so its arguments are unknown.
        """
        override = self.overrides.current
        if torch.compiler.is_compiling():
            return ForwardContext()
        if is_in_backward():
            return None
        if override is None:
            model = _find_direct_call(self.models)
            if model is not None:
                raise AttachError(
                    f"{module} was reached through {type(model).__name__}.forward(...), which bypasses the hooks, so "
                    f"the phase and the padding are unknown. {HOW_TO_STATE_THEM}"
                )
            return ForwardContext()
        return ForwardContext(
            phase=override.phase or PREFILL,
            step=override.step,
            real_tokens=override.real_tokens,
            masked_tokens=override.masked_tokens,
            states_real_tokens=override.real_tokens is not None,
            thinking=override.thinking,
        )


class PerForwardContext:
    """Context manager that enters another one around every forward of a model, including those inside `generate`.

    Args:
        model: Model whose forwards are wrapped while this object is entered.
        observe: Function that is called before each forward and returns the context manager to enter.
    """

    def __init__(self, model: nn.Module, observe: Callable[[], AbstractContextManager[None]]) -> None:
        self._model = model
        self._observe = observe
        self._handles: list[RemovableHandle] = []
        self._current: AbstractContextManager[None] | None = None

    def __enter__(self) -> PerForwardContext:
        self._handles = [
            self._model.register_forward_pre_hook(self._before_forward, prepend=True),
            self._model.register_forward_hook(self._after_forward, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_forward(self, *_: Any) -> None:
        self._current = self._observe()
        self._current.__enter__()

    def _after_forward(self, *_: Any) -> None:
        if self._current is not None:
            self._current.__exit__(None, None, None)
            self._current = None


def is_in_backward() -> bool:
    """Return True while autograd runs a backward pass in this thread. Code that is being compiled is in none."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return torch._C._current_graph_task_id() != -1


def _find_direct_call(models: Sequence[nn.Module]) -> nn.Module | None:
    """Return the model whose forward method is on the call stack, although no hook saw its forward start, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount > 0:
            called = frame.f_locals.get(code.co_varnames[0])
            if any(called is model for model in models):
                return called
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return None
