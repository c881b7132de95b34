"""Watches a model's outermost forwards: their phase, their denoising step, and which of their tokens are real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from inspect import signature
from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.errors import SpecError
from sparsedial.kernels.op import unheard
from sparsedial.stats import PHASES, Observation
from sparsedial.trace import watching


class Forwards:
    """What is known about the forward under way (`seen`), from what the model is called with or what it is told.

    ``ended`` is called when one is over, with whether it failed. ``plain`` says that one is under way which torch
    runs as it is written: nobody listens to the dispatcher, and no CUDA graph is captured. ``lone`` says that it is,
    besides, of a single token, which is real, and on the CPU.
    """

    def __init__(self, ended: Callable[[bool], None]) -> None:
        self.seen = Observation()
        self.plain = False
        self.lone = False
        self._ended = ended
        self._told: Observation | None = None
        self._under: list[int] = []  # the hooked modules whose forward is under way, outermost first
        self._caches: WeakSet[Any] = WeakSet()

    def attach(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Hook the model, and the models inside it, which may be called instead."""
        hooked = [module for module in model.modules() if module is model or _is_model(module)]
        for number, module in enumerate(hooked):
            begin = self._begin(number, tuple(signature(module.forward).parameters))
            yield module.register_forward_pre_hook(begin, with_kwargs=True, prepend=True)
            yield module.register_forward_hook(self._end, always_call=True)

    def forget(self) -> None:
        """Begin anew: a forward under way was cut off, no cache has been met."""
        if self._under:
            self._over(failed=True)
        self._caches.clear()

    @contextmanager
    def told(
        self, phase: str | None, step: int | None, real: torch.Tensor | None, masked: torch.Tensor | None = None
    ) -> Iterator[None]:
        """See `Dial.observe`."""
        if phase is not None and phase not in PHASES:
            raise SpecError(f"unknown phase {phase!r}: expected one of {', '.join(PHASES)}")
        before, self._told = self._told, Observation(phase or "", step, real, masked)
        try:
            yield
        finally:
            self._told = before

    def _begin(self, number: int, names: tuple[str, ...]) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if watching():
                return
            if number in self._under:  # cut off by Ctrl-C, when torch calls no hook
                self._over(failed=True)
            self._under.append(number)
            if len(self._under) == 1:
                self.plain = unheard() and not (
                    torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
                )
                given = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
                self.seen = self._observation(given)
                self.lone = self.plain and _is_lone(given.get("input_ids"), self.seen.real)

        return hook

    def _end(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if watching():
            return
        if self._under:
            self._under.pop()
        if not self._under:
            self._over(failed=output is None)

    def _over(self, failed: bool) -> None:
        self._under.clear()
        self.plain = self.lone = False
        self._ended(failed)

    def _observation(self, given: dict[str, Any]) -> Observation:
        phase, step, real, masked = self._told or ("", None, None, None)
        phase = phase or self._phase(given)
        if real is not None:
            _check_size(real, given)
        elif (mask := given.get("attention_mask")) is not None:
            tokens = given.get("input_ids")
            tokens = given.get("inputs_embeds") if tokens is None else tokens
            if tokens is not None:
                real = _real(mask, tokens.shape[1], phase)
        return Observation(phase, step, real, masked)

    def _phase(self, given: dict[str, Any]) -> str:
        cache = given.get("past_key_values")
        if cache is None:
            return "prefill"
        if isinstance(cache, (tuple, list)):  # keys and values as they are: a model's own code
            return "generation" if any(layer is not None for layer in cache) else "prefill"
        try:
            length = cache.get_seq_length()
        except (AttributeError, ValueError):  # a cache of another kind, or with no attention layer
            length = None
        if isinstance(length, int) and length > 0:
            return "generation"
        # A static cache's length lives on the device once it is filled: one met before holds tokens, without asking it.
        filled = not isinstance(length, int) and cache in self._caches
        self._caches.add(cache)
        return "generation" if filled else "prefill"


class Telling:
    """While entered, every forward of ``model`` runs inside what ``observe()`` gives: `generate` cannot say it."""

    def __init__(self, model: nn.Module, observe: Callable[[], AbstractContextManager[None]]) -> None:
        self._model, self._observe = model, observe
        self._handles: list[RemovableHandle] = []
        self._open: AbstractContextManager[None] | None = None

    def __enter__(self) -> Telling:
        self._handles = [
            self._model.register_forward_pre_hook(self._before, prepend=True),
            self._model.register_forward_hook(self._after, always_call=True),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, *_: Any) -> None:
        self._open = self._observe()
        self._open.__enter__()

    def _after(self, *_: Any) -> None:
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = None


def _is_lone(tokens: Any, real: torch.Tensor | None) -> bool:
    if not (isinstance(tokens, torch.Tensor) and tokens.numel() == 1 and tokens.is_cpu):
        return False
    return real is None or (real.is_cpu and real.numel() == 1 and bool(real))


def _is_model(module: nn.Module) -> bool:
    """A Hugging Face model: it takes the attention mask and the cache, called directly or by a wrapper."""
    return hasattr(module, "config") and hasattr(module, "get_input_embeddings")


def _check_size(real: torch.Tensor, given: dict[str, Any]) -> None:
    """Raise SpecError where what a caller says of the tokens cannot be about those of this forward."""
    ids = [given.get(name) for name in ("input_ids", "decoder_input_ids")]
    embedded = [given.get(name) for name in ("inputs_embeds", "decoder_inputs_embeds")]
    sizes = [t.numel() for t in ids if isinstance(t, torch.Tensor)]
    sizes += [t.shape[:-1].numel() for t in embedded if isinstance(t, torch.Tensor)]
    if sizes and real.numel() not in sizes:
        raise SpecError(
            f"observe(real=): {real.numel()} entries for a forward of {sizes[0]} tokens: give one per token, and in "
            "`generate`, where each forward has other tokens, leave it out and pass attention_mask"
        )


def _real(mask: Any, length: int, phase: str) -> torch.Tensor | None:
    """Which of the last ``length`` tokens are real: a 2-D mask says it; in a 4-D one, what attends to itself is."""
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if not isinstance(mask, torch.Tensor):
        return None
    if mask.dim() == 2:
        return mask[:, -length:] != 0
    if mask.dim() == 4 and mask.shape[2] == length:
        attends = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
        return attends.diagonal(dim1=1, dim2=2) if phase == "prefill" else attends.any(-1)
    return None
