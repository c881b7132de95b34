"""Attach a rule at a site of every FFN, count what it drops, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import nn

from sparsedial.errors import AttachError, ModelError, NonFiniteError, SpecError
from sparsedial.ffn import FFN, FFNs, check_site, find_ffns
from sparsedial.reading import Reading, pre_hook
from sparsedial.rules import Rule
from sparsedial.selecting import Around, Selecting
from sparsedial.stats import Counter
from sparsedial.trace import Expression, Part, watching

if TYPE_CHECKING:
    from sparsedial.experts import Tap

_attached: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # down projection -> vectors taken


def sparsify(
    model: nn.Module, site: str, rule: Rule, *, layers: Iterable[int] | None = None, ffns: FFNs | None = None
) -> Dial:
    """A context manager under which ``model`` runs with ``rule`` applied at ``site`` of its FFNs.

    Works with the model's own forward and `generate`, under `torch.inference_mode` and `torch.compile`,
    with padding (left or right, read off ``attention_mask``), a KV cache and ``device_map``. Different
    sites may be nested. With the rule's dense value (`TopP(1)`) the logits are the dense ones. Your own forward
    pre-hooks on the projections see what the model hands on, before the rule.

    Args:
        model: any transformer language model.
        site: ``input``, ``up``, ``gate``, ``intermediate`` or ``all_inputs``.
        rule: `TopP`, `TopK` or `MaxP`.
        layers: only these layers (default: all).
        ffns: what `find_ffns` found, to save finding it again.

    Raises:
        SpecError: an unknown site, rule or layer.
        ModelError: no FFN found, or one of them does not have the site.
        AttachError: on entering, when the site is taken already.

    >>> import sparsedial as sd, torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    ...                                      num_attention_heads=2, vocab_size=64))
    >>> with sd.sparsify(model, site="input", rule=sd.TopK(0.5)) as dial:
    ...     _ = model(torch.arange(6)[None])
    >>> dial.stats()[["layer", "site", "phase", "dropped", "total", "sparsity"]]
       layer   site    phase  dropped  total  sparsity
    0      0  input  prefill       48     96       0.5
    1      1  input  prefill       48     96       0.5
    """
    if not isinstance(rule, Rule):
        raise SpecError(f"sparsify: expected a rule such as TopP(0.9), got {rule!r}")
    found = find_ffns(model) if ffns is None else ffns
    chosen = _choose(found, layers)
    check_site(chosen, site)
    return Dial(model, chosen, site, rule)


class Dial:
    """What `sparsify` returns: entered, it sparsifies; asked, it tells what was dropped."""

    def __init__(self, model: nn.Module, ffns: Sequence[FFN], site: str, rule: Rule) -> None:
        self.site, self.rule = site, rule
        self._model, self._ffns = model, ffns
        self._vectors = ("input", "intermediate") if site == "all_inputs" else (site,)
        self._selecting = Selecting(
            rule,
            [
                Counter(f.layer, f.name, v, f.expert, f.hidden if v == "input" else f.width, f.mixture)
                for f in ffns
                for v in self._vectors
            ],
        )
        self._handles: list[torch.utils.hooks.RemovableHandle | Reading | Tap] = []

    def __enter__(self) -> Dial:
        self._take()
        try:
            stacks: dict[tuple[nn.Module, str], dict[int, int]] = {}
            for index, (ffn, vector) in enumerate((f, v) for f in self._ffns for v in self._vectors):
                if ffn.stack is not None:
                    stacks.setdefault((ffn.stack, vector), {})[ffn.expert or 0] = index
                    continue
                if ffn.mixture is not None and vector == self._vectors[0]:
                    block = self._model.get_submodule(ffn.mixture.rpartition(".")[0])
                    self._handles += self._selecting.listed.attach(block, ffn.up.module, ffn.name)
                self._attach(index, ffn, vector)
            for (stack, vector), counters in stacks.items():
                self._tap(stack, vector, counters)
            self._handles += self._selecting.forwards.attach(self._model)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for ffn in self._ffns:
            taken = _attached.get(ffn.down, set())
            taken.difference_update(self._vectors)
            if not taken:
                _attached.pop(ffn.down, None)
        self._selecting.forwards.forget()
        self._selecting.settle()
        self._selecting.listed.detach()

    @property
    def counters(self) -> Sequence[Counter]:
        """What is counted, one entry per FFN and vector: ``wrap`` is told their indices."""
        return self._selecting.counters.counters

    def wrap(self, around: Around) -> None:
        """Put ``around(counter, x, seen, inner)`` around the rule; what is put last is outermost.

        It returns y and kept, as ``inner(counter, x, seen)`` does, which it may ask.
        """
        self._selecting.wrap(around)

    @contextmanager
    def observe(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        real: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Say what the forwards inside are, where the model's own arguments do not.

        Args:
            phase: ``prefill`` or ``generation``; by default a forward whose cache holds tokens already
                is generation.
            step: the denoising step of a diffusion model.
            real: boolean, one entry per token of the forward's input; by default ``attention_mask``.
            masked: boolean likewise: which tokens a diffusion model is still to fill in.

        Raises:
            SpecError: an unknown phase; or, by a forward inside, ``real`` with another number of entries than it has
                tokens.
        """
        with self._selecting.forwards.told(phase, step, real, masked):
            yield

    def stats(self) -> pd.DataFrame:
        """What was dropped, one row per FFN, vector, phase and step; over real tokens only.

        Columns: layer (int), module, site (the vector: ``all_inputs`` has ``input`` and ``intermediate``),
        expert (int or <NA>), phase, step (int or <NA>), dropped, total, sparsity, tokens (for an expert,
        those routed to it), weight (for an expert, its share of the layer's routing weight in that phase;
        <NA> where the router's weights are not seen: dense FFNs, experts that are modules of their own).

        An expert that no token was routed to, in a phase in which its layer ran, has a row with
        ``total`` 0 and sparsity <NA>: no data.

        Raises:
            AttachError: a hook never fired, so there is nothing to report for its layer; or padding could not
                be told from tokens among what an expert in a list read.
            NonFiniteError: a vector held a NaN or Inf; the message names the layers.
        """
        self._selecting.settle()
        if lost := self._selecting.listed.lost:
            names = ", ".join(sorted(lost)[:3])
            raise AttachError(
                f"which tokens {names} read could not be followed, so padding would have been counted: "
                "run without padding (one row at a time), or leave that layer out with layers="
            )
        table = self._selecting.counters.table()
        bad = table[table["nonfinite"] > 0]
        if len(bad):
            where = ", ".join(f"{r.module} ({r.site}: {r.nonfinite} vectors)" for r in bad.itertuples())
            raise NonFiniteError(
                f"NaN or Inf among the activations of layer(s) {sorted(set(bad['layer']))}: {where}. They were left as "
                "they are; the scores of this run mean nothing. Check the weights, or use a wider dtype."
            )
        counted = set(zip(table["module"], table["site"], strict=True))
        # Of experts, the module that holds them all: one that no token was sent to is in the table, with no data.
        silent = list(
            dict.fromkeys(
                f"{c.mixture or c.module} ({c.site})" for c in self.counters if (c.module, c.site) not in counted
            )
        )
        if silent:
            raise AttachError(
                f"never reached: {', '.join(silent[:6])}"
                f"{f' and {len(silent) - 6} more' if len(silent) > 6 else ''}. Run the model inside the `with` block, "
                "and leave out layers it does not use with layers=."
            )
        return table.drop(columns="nonfinite")

    def sparsity(self) -> float:
        """Dropped entries / all entries, over everything counted (the average is count-weighted)."""
        table = self.stats()
        return float(table["dropped"].sum() / table["total"].sum())

    # ------------------------------------------------------------------ attaching

    def _take(self) -> None:
        if self._handles:
            raise AttachError(f"this dial is attached already, at {self.site!r}: leave its `with` block first")
        for ffn in self._ffns:
            if both := _attached.get(ffn.down, set()) & set(self._vectors):
                raise AttachError(
                    f"{ffn.name} is sparsified at {', '.join(sorted(both))} already: "
                    "leave that `with` block first, or choose another site"
                )
        for ffn in self._ffns:
            _attached.setdefault(ffn.down, set()).update(self._vectors)

    def _attach(self, index: int, ffn: FFN, vector: str) -> None:
        if vector == "input":
            apply = self._selecting.at(index, shared=len(ffn.readers) > 1)
            self._handles += [Reading(reader, apply) for reader in ffn.readers]
        elif vector == "intermediate":
            self._handles.append(Reading(ffn.down, self._selecting.at(index)))
        else:
            part, value = (ffn.gate, ffn.gate_value) if vector == "gate" else (ffn.up, ffn.up_value)
            if part is None:
                raise ModelError(f"{ffn.name}: no site {vector!r}")
            if ffn.keeps_zero(vector):
                self._handles.append(part.module.register_forward_hook(self._writing(index, part, value)))
            else:
                self._multiply(index, ffn, vector, part.module)

    def _tap(self, stack: nn.Module, vector: str, counters: dict[int, int]) -> None:
        """Reach ``vector`` of all the experts that ``stack`` holds; ``counters`` are theirs."""
        from sparsedial.experts import Tap

        ffn = self._ffns[next(iter(counters.values())) // len(self._vectors)]
        if len(counters) != (held := len(stack.down_proj)):  # type: ignore[arg-type]  # a 3-D parameter
            raise AttachError(
                f"{ffn.name}: only {len(counters)} of {held} experts that keep their weights in one parameter were "
                "chosen: they are sparsified together, so choose all of them, or none"
            )
        indices = tuple(counters[e] for e in range(held))

        apply = self._selecting.routed(indices, by_token=vector == "input")
        self._handles.append(Tap(stack, vector, apply, partial(ffn.vector, vector)))

    def _writing(self, index: int, part: Part, value: Expression | None) -> Callable[..., torch.Tensor]:
        """Sparsify u or g where they come from: an entry of W x set to zero makes that entry of u or g zero."""
        select = self._selecting.at(index)

        def hook(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if watching():
                return output
            raw = part.of(output)
            if value is None or value.part is not None:
                new = select(raw)
            else:
                vector = value({part: raw})
                new = torch.where((select(vector) != 0) | (vector == 0), raw, 0)
            if new.shape == output.shape:
                return new
            output = output.clone()
            part.of(output).copy_(new)
            return output

        return hook

    def _multiply(self, index: int, ffn: FFN, vector: str, module: nn.Module) -> None:
        """Sparsify u or g where they are multiplied: an entry of either that is dropped makes that of i zero."""
        dropped: list[torch.Tensor] = []
        select = self._selecting.at(index)

        def hook(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            if not watching():
                v = ffn.vector(vector, output)
                dropped[:] = [(select(v) == 0) & (v != 0)]

        def apply(i: torch.Tensor) -> torch.Tensor:
            return i.masked_fill(dropped.pop().view(i.shape), 0)

        self._handles.append(module.register_forward_hook(hook))
        self._handles.append(pre_hook(ffn.down, apply))  # before what reads i


def _choose(ffns: FFNs, layers: Iterable[int] | None) -> list[FFN]:
    wanted = {f.layer for f in ffns} if layers is None else set(layers)
    if unknown := wanted - {f.layer for f in ffns}:
        raise SpecError(f"unknown layer(s) {sorted(unknown)}: FFNs are in {sorted({f.layer for f in ffns})}")
    for name, reason in ffns.not_understood.items():
        if layers is None or any(piece.isdigit() and int(piece) in wanted for piece in name.split(".")[:-1]):
            raise ModelError(
                f"{name}: {reason}, which cannot be sparsified yet. Leave its layer out with layers= (CLI: --layers)."
            )
    chosen = [f for f in ffns if f.layer in wanted]
    if not chosen:
        raise SpecError("no layer chosen: nothing to sparsify")
    return chosen
