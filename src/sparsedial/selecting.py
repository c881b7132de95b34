"""What a dial does with every vector it meets: apply the rule, and count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sparsedial.forwards import Forwards
from sparsedial.kernels.op import Bound
from sparsedial.reading import Apply
from sparsedial.rows import Listed
from sparsedial.rules import Rule
from sparsedial.stats import Call, Counter, Counters, Observation
from sparsedial.trace import watching

if TYPE_CHECKING:
    from sparsedial.experts import Routed
    from sparsedial.kernels.cpu import Places

Inner = Callable[[int, torch.Tensor, Observation], tuple[torch.Tensor, torch.Tensor]]
Around = Callable[[int, torch.Tensor, Observation, Inner], tuple[torch.Tensor, torch.Tensor]]


class Selecting:
    """One rule on its way through a model's forwards.

    Attributes:
        counters: what was counted.
        forwards: what is known of the forward under way.
        listed: which tokens the experts in lists were given.
    """

    def __init__(self, rule: Rule, counters: Sequence[Counter]) -> None:
        self.counters = Counters(counters)
        self.forwards = Forwards(self._ended)
        self.listed = Listed(lambda: self.forwards.seen.real)
        self._op = Bound(rule.name, rule.value)
        self._around: Inner | None = None
        self._done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by counter, what one of two readers asked for
        self._places: Places | None = None
        self._rounds = Observation()  # what those forwards were whose counts `_places` still has

    def wrap(self, around: Around) -> None:
        """See `Dial.wrap`."""
        inner: Inner = self._around or (lambda _, x, __: self._op(x))
        self._around = lambda counter, x, seen: around(counter, x, seen, inner)

    def at(self, counter: int, shared: bool = False) -> Apply:
        """What applies the rule to a counter's vectors, and counts.

        ``shared`` by two modules that read one x (up and gate): it is done, and counted, once.

        It runs at every layer, with caches that the weights have emptied, so each frame, check and call in the way of
        a token that comes alone has been weighed.
        """
        forwards, done, width = self.forwards, self._done, self.counters.counters[counter].width
        plain, empty_like = torch.Tensor, torch.empty_like
        compiling = torch.compiler.is_dynamo_compiling  # a layer may be compiled by itself
        dtype: torch.dtype | None = None
        single: Callable[[int, int], None] | None = None

        def select(x: torch.Tensor) -> torch.Tensor:
            nonlocal dtype, single
            if shared and (before := done.pop(counter, None)) is not None and before[0] is x:
                return before[1]
            if (
                forwards.lone
                and single is not None
                and x.dtype is dtype
                and x.numel() == width
                and x.is_contiguous()
                and x.is_cpu
                and type(x) is plain
                and self._around is None
                and not compiling()
            ):
                y = empty_like(x)
                single(x.data_ptr(), y.data_ptr())
            else:
                y = self._select(counter, x)
                if forwards.lone and x.is_cpu and not compiling():
                    dtype, single = x.dtype, self._single(counter, x.dtype)
            if shared:
                done[counter] = (x, y)
            return y

        return select

    def _select(self, counter: int, x: torch.Tensor) -> torch.Tensor:
        if watching():
            return x
        if self._around is not None:
            y, kept = self._around(counter, x, self.forwards.seen)
        elif self.forwards.plain and not torch.compiler.is_dynamo_compiling():
            y, kept = self._op.direct(x, self.counters.room(x))
        else:
            y, kept = self._op(x)
        tokens = self.listed.tokens
        self.counters.add(
            Call((counter,), kept, tokens.get(self.counters.counters[counter].module) if tokens else None)
        )
        return y

    def routed(self, counters: tuple[int, ...], by_token: bool) -> Callable[[torch.Tensor, Routed], torch.Tensor]:
        """The same for the experts of one layer together; ``by_token``: their vectors are the tokens, not the pairs."""

        def apply(x: torch.Tensor, routed: Routed) -> torch.Tensor:
            y, kept = self._op(x)
            self.counters.add(Call(counters, kept[routed.token] if by_token else kept, routed=routed))
            return y

        return apply

    def settle(self) -> None:
        """What was noted is counted: before someone asks."""
        self._close()
        self._take()

    def _single(self, counter: int, dtype: torch.dtype) -> Callable[[int, int], None] | None:
        if self._places is None:
            self._places = self._op.places([c.width for c in self.counters.counters])
        return None if self._places is None else self._places.at(counter, dtype)

    def _ended(self, failed: bool) -> None:
        if failed:
            self.counters.forget()
        if self._places is not None:
            if failed:
                self._places.cancel()
            else:
                seen = self.forwards.seen
                if (seen.phase, seen.step) != (self._rounds.phase, self._rounds.step):
                    self._take()
                    self._rounds = Observation(seen.phase, seen.step)
                self._places.end()
        self._close()

    def _take(self) -> None:
        if self._places is not None:
            self.counters.tally(self._rounds, self._places.take())

    def _close(self) -> None:
        self._done.clear()
        self.listed.tokens.clear()
        self.counters.close(self.forwards.seen)
        self.forwards.seen = Observation()
