"""Which tokens the rows are that an expert reads which is a module of its own.

Nobody says: its layer picks them out of the tokens and calls it. So while a batch has padding, the picks are
watched (``x[token]``, a mask, `index_select`), and done over again on the tokens' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from sparsedial.trace import first, watching

_PICKS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default)
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)


class Rows(TorchDispatchMode):
    """While it is entered, follows the rows of ``x [..., D]``.

    >>> x = torch.randn(2, 3, 4)
    >>> with Rows(x) as rows:
    ...     picked = x.view(6, 4)[torch.tensor([5, 0])].to(torch.float64)
    >>> rows.tokens(picked), rows.tokens(x + 1)
    (tensor([5, 0]), None)
    """

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self._width = x.shape[-1]
        self._known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # an address means a tensor while that lives
        self._know(x, torch.arange(x.numel() // self._width, device=x.device))

    def tokens(self, x: torch.Tensor) -> torch.Tensor | None:
        """The number of the token that each row of ``x`` is, or None where that is not known."""
        _, tokens = self._known.get(x.untyped_storage().data_ptr(), (None, None))
        return tokens if tokens is not None and tokens.numel() * self._width == x.numel() else None

    def _know(self, x: torch.Tensor, tokens: torch.Tensor) -> None:
        self._known[x.untyped_storage().data_ptr()] = (x, tokens)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _PICKS or func in _COPIES:
            source = args[0]
            tokens = self.tokens(source)
            if tokens is not None and source.is_contiguous() and source.shape[-1] == out.shape[-1] == self._width:
                if func in _PICKS:
                    tokens = func(tokens.view(source.shape[:-1]), *args[1:]).reshape(-1)
                self._know(out, tokens)
        return out


class Listed:
    """The experts in lists of one model, while a dial is attached: what each was given last.

    Attributes:
        tokens: by the expert's name, the numbers of the tokens it was given; while there is no padding, nothing.
        lost: the experts of which that could not be told.
    """

    def __init__(self, real: Callable[[], torch.Tensor | None]) -> None:
        """``real`` says which tokens of the forward under way are no padding, or None where there is none."""
        self.tokens: dict[str, torch.Tensor | None] = {}
        self.lost: set[str] = set()
        self._real = real
        self._blocks: list[nn.Module] = []
        self._rows: list[Rows | None] = []

    def attach(self, block: nn.Module, reader: nn.Module, name: str) -> Iterator[RemovableHandle]:
        """Watch ``block``, which sends tokens to the expert ``name``, whose ``reader`` is the first to read them."""
        if block not in self._blocks:
            self._blocks.append(block)
            yield block.register_forward_pre_hook(self._begin, with_kwargs=True)
            yield block.register_forward_hook(self._end, always_call=True)

        def given(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._rows and (rows := self._rows[-1]) is not None:
                self.tokens[name] = tokens = rows.tokens(first(args, kwargs))
                if tokens is None:
                    self.lost.add(name)

        yield reader.register_forward_pre_hook(given, with_kwargs=True)

    def detach(self) -> None:
        """Forget what was attached: its hooks are gone."""
        self._blocks.clear()
        self._rows.clear()

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, real, rows = first(args, kwargs), self._real(), None
        if isinstance(x, torch.Tensor) and real is not None and not (watching() or torch.compiler.is_compiling()):
            rows = Rows(x).__enter__() if real.numel() * x.shape[-1] == x.numel() else None
        self._rows.append(rows)

    def _end(self, *_: Any) -> None:
        if self._rows and (rows := self._rows.pop()) is not None:
            rows.__exit__(None, None, None)
