"""Tracking of a model's outermost forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.hooks.forward_context import GENERATION, PREFILL, ForwardContext
from sparsedial.hooks.padding import check_token_count, read_real_tokens
from sparsedial.kernels.dispatcher_observers import dispatcher_is_unobserved


@dataclass(frozen=True)
class _Override:
    """Values that replace those read from the arguments of the forward pass. A value of None is not replaced."""

    phase: str | None
    step: int | None
    real_tokens: torch.Tensor | None
    masked_tokens: torch.Tensor | None


class ForwardTracker:
    """Tracker of the outermost forward pass of a model.

    A language model contains an inner model that may also be called directly. Both are hooked, and the forward pass
    begins and ends with the outermost one of them. `ForwardCoordinator` registers the hooks, which call `enter`,
    `begin`, `leave` and `end`.

    Attributes:
        context: Context of the forward pass that is running, or None between forward passes.
    """

    def __init__(self) -> None:
        self.context: ForwardContext | None = None
        self._override: _Override | None = None
        self._running: list[int] = []  # indices of the hooked models that are running, outermost first
        self._known_caches: WeakSet[Any] = WeakSet()

    def is_running(self, model_index: int) -> bool:
        """Return True if the forward of this hooked model has started and not ended.

        Args:
            model_index: Index of the hooked model.
        """
        return model_index in self._running

    def enter(self, model_index: int) -> bool:
        """Record that the forward of a hooked model starts.

        Args:
            model_index: Index of the hooked model.

        Returns:
            True if it is the outermost model.
        """
        self._running.append(model_index)
        return len(self._running) == 1

    def leave(self) -> bool:
        """Record that the forward of the innermost hooked model ended.

        Returns:
            True if no hooked model is running any more.
        """
        if self._running:
            self._running.pop()
        return not self._running

    def begin(self, arguments: Mapping[str, Any]) -> ForwardContext:
        """Set the context of the forward pass that starts.

        `SpecError` is raised if the number of real-token flags passed to `override` is not the number of tokens.

        Args:
            arguments: Arguments of the outermost model's forward, by name.

        Returns:
            The new context.
        """
        can_bypass_dispatcher = dispatcher_is_unobserved() and not _is_capturing_graph()
        override = self._override or _Override(None, None, None, None)
        phase = override.phase or self._read_phase(arguments)
        real_tokens = override.real_tokens
        if real_tokens is None:
            real_tokens = read_real_tokens(arguments, phase)
        else:
            check_token_count(real_tokens, arguments)
        self.context = ForwardContext(
            phase=phase,
            step=override.step,
            real_tokens=real_tokens,
            masked_tokens=override.masked_tokens,
            is_single_cpu_token=can_bypass_dispatcher and _is_single_cpu_token(arguments, real_tokens),
            can_bypass_dispatcher=can_bypass_dispatcher,
        )
        return self.context

    def end(self) -> ForwardContext:
        """Clear the context at the end of the forward pass.

        Returns:
            The context of the forward pass that ended. A default context if none was running, or if it failed
            before its context was known.
        """
        context = self.context
        self.context = None
        self._running.clear()
        if context is None:
            return ForwardContext()
        return context

    def forget_caches(self) -> None:
        """Forget which key-value caches were used before."""
        self._known_caches.clear()

    @property
    def is_inside_forward(self) -> bool:
        """True if a forward pass has started and not ended. If no model code is running, the pass was interrupted."""
        return bool(self._running)

    @contextmanager
    def override(
        self,
        phase: str | None = None,
        step: int | None = None,
        real_tokens: torch.Tensor | None = None,
        masked_tokens: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Describe the forward passes inside the `with` block: see `Sparsifier.observe`.

        Args:
            phase: "prefill" or "generation". Defaults to None: read from the cache.
            step: Denoising step. Defaults to None.
            real_tokens: Boolean tensor, one entry per token. Defaults to None: read from the attention mask.
            masked_tokens: Boolean tensor, one entry per token. Defaults to None.

        Yields:
            None: Nothing.
        """
        outer = self._override
        self._override = _Override(phase, step, real_tokens, masked_tokens)
        try:
            yield
        finally:
            self._override = outer

    def _read_phase(self, arguments: Mapping[str, Any]) -> str:
        cache = arguments.get("past_key_values")
        if cache is None:
            return PREFILL
        if isinstance(cache, (tuple, list)):  # some models pass plain keys and values
            is_filled = any(layer is not None for layer in cache)
            return GENERATION if is_filled else PREFILL
        try:
            length = cache.get_seq_length()
        except (AttributeError, ValueError):  # another kind of cache, or one without an attention layer
            length = None
        if isinstance(length, int) and length > 0:
            return GENERATION
        # The length of a filled static cache is on the device. To avoid waiting for the device, a cache that was used
        # in an earlier forward is assumed to contain tokens.
        is_filled = not isinstance(length, int) and cache in self._known_caches
        self._known_caches.add(cache)
        return GENERATION if is_filled else PREFILL


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


def _is_capturing_graph() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _is_single_cpu_token(arguments: Mapping[str, Any], real_tokens: torch.Tensor | None) -> bool:
    tokens = arguments.get("input_ids")
    if not (isinstance(tokens, torch.Tensor) and tokens.numel() == 1 and tokens.is_cpu):
        return False
    return real_tokens is None or (real_tokens.is_cpu and real_tokens.numel() == 1 and bool(real_tokens))
