"""Properties of forward passes that the user states with `Sparsifier.observe`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from sparsedial.errors import SpecError
from sparsedial.hooks.forward_context import Thinking


@dataclass(frozen=True, eq=False)
class ForwardOverride:
    """Values that replace those read from the arguments of a forward pass. A value of None is not replaced.

    Attributes:
        phase: "prefill" or "generation".
        step: Denoising step.
        real_tokens: Boolean tensor, one entry per token.
        masked_tokens: Boolean tensor, one entry per token.
        thinking: Whether the tokens belong to the thinking.
    """

    phase: str | None = None
    step: int | None = None
    real_tokens: torch.Tensor | None = None
    masked_tokens: torch.Tensor | None = None
    thinking: Thinking | None = None


def read_flags(flags: object, argument: str) -> torch.Tensor | None:
    """Return what the user stated about each token as a boolean tensor. None if nothing was stated.

    Args:
        flags: The tensor. An attention mask of numbers, in which 0 means False, is accepted as well.
        argument: Name of the argument, for the error message.

    Raises:
        SpecError: It is no tensor.

    Example:
        >>> read_flags(torch.tensor([0, 1]), "real")
        tensor([False,  True])
    """
    if flags is None:
        return None
    if not isinstance(flags, torch.Tensor):
        raise SpecError(f"{argument}={flags!r}: expected a boolean tensor with one entry per token")
    return flags if flags.dtype == torch.bool else flags != 0


class OverrideStack:
    """The overrides that are in force, one per thread.

    A thread without an override of its own, such as a worker that the model starts, uses the one of the thread that
    attached the sparsifier.
    """

    def __init__(self) -> None:
        self._by_thread: dict[int, ForwardOverride] = {}
        self._owner = threading.get_ident()

    def set_owner(self) -> None:
        """Make the present thread the one whose override is used by threads that have none."""
        self._owner = threading.get_ident()

    @property
    def current(self) -> ForwardOverride | None:
        """The override of the present thread, or None."""
        if not self._by_thread:
            return None
        override = self._by_thread.get(threading.get_ident())
        if override is None:
            override = self._by_thread.get(self._owner)
        return override

    @contextmanager
    def override(self, override: ForwardOverride) -> Iterator[None]:
        """Put an override into force inside the `with` block.

        Args:
            override: The values.

        Yields:
            None: Nothing.
        """
        thread = threading.get_ident()
        outer = self._by_thread.get(thread)
        self._by_thread[thread] = override
        try:
            yield
        finally:
            if outer is None:
                del self._by_thread[thread]
            else:
                self._by_thread[thread] = outer
