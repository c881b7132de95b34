"""Attach a rule at a site of every FFN, count what it drops, and leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import pandas as pd
import torch
from torch import nn

from sparsedial.errors import AttachError, ModelError, NonFiniteError, SpecError
from sparsedial.ffn import FFN, FFNs, check_site, find_ffns
from sparsedial.rules import Rule
from sparsedial.stats import PHASES, Counter, Counters, Observation
from sparsedial.trace import Expression, Part, watching

_attached: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # down projection -> vectors taken


def sparsify(
    model: nn.Module, site: str, rule: Rule, *, layers: Iterable[int] | None = None, ffns: FFNs | None = None
) -> Dial:
    """A context manager under which ``model`` runs with ``rule`` applied at ``site`` of its FFNs.

    Works with the model's own forward and `generate`, under `torch.inference_mode` and `torch.compile`,
    with padding (left or right, read off ``attention_mask``), a KV cache and ``device_map``. Different
    sites may be nested. With the rule's dense value (`TopP(1)`) the logits are the dense ones.

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
        self._name, self._value = rule.name, rule.value
        self._model, self._ffns = model, ffns
        self._vectors = ("input", "intermediate") if site == "all_inputs" else (site,)
        self._counters = Counters(
            [
                Counter(f.layer, f.name, v, f.expert, f.hidden if v == "input" else f.width)
                for f in ffns
                for v in self._vectors
            ]
        )
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._told: Observation | None = None
        self._seen = Observation()
        self._depth = 0
        self._caches: WeakSet[Any] = WeakSet()
        self._shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __enter__(self) -> Dial:
        self._take()
        try:
            for index, (ffn, vector) in enumerate((f, v) for f in self._ffns for v in self._vectors):
                self._attach(index, ffn, vector)
            for module in self._model.modules():
                if module is self._model or _is_model(module):
                    begin = self._begin(tuple(signature(module.forward).parameters))
                    self._handles.append(module.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
                    self._handles.append(module.register_forward_hook(self._end, always_call=True))
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
        self._flush()
        self._depth = 0
        self._caches.clear()

    @contextmanager
    def observe(
        self, *, phase: str | None = None, step: int | None = None, real: torch.Tensor | None = None
    ) -> Iterator[None]:
        """Say what the forwards inside are, where the model's own arguments do not.

        Args:
            phase: ``prefill`` or ``generation``; by default a forward whose cache holds tokens already
                is generation.
            step: the denoising step of a diffusion model.
            real: boolean, one entry per token of the forward's input; by default ``attention_mask``.
        """
        if phase is not None and phase not in PHASES:
            raise SpecError(f"unknown phase {phase!r}: expected one of {', '.join(PHASES)}")
        before, self._told = self._told, Observation(phase or "", step, real)
        try:
            yield
        finally:
            self._told = before

    def stats(self) -> pd.DataFrame:
        """What was dropped, one row per FFN, vector, phase and step; over real tokens only.

        Columns: layer (int), module, site (the vector: ``all_inputs`` has ``input`` and ``intermediate``),
        expert (int or <NA>), phase, step (int or <NA>), dropped, total, sparsity.

        Raises:
            AttachError: a hook never fired, so there is nothing to report for its layer.
            NonFiniteError: a vector held a NaN or Inf; the message names the layers.
        """
        self._flush()
        table = self._counters.table()
        bad = table[table["nonfinite"] > 0]
        if len(bad):
            where = ", ".join(f"{r.module} ({r.site}: {r.nonfinite} vectors)" for r in bad.itertuples())
            raise NonFiniteError(
                f"NaN or Inf among the activations of layer(s) {sorted(set(bad['layer']))}: {where}. They were left as "
                "they are; the scores of this run mean nothing. Check the weights, or use a wider dtype."
            )
        counted = set(zip(table["module"], table["site"], strict=True))
        silent = [c for c in self._counters.counters if (c.module, c.site) not in counted and c.expert is None]
        if silent:
            raise AttachError(
                f"never reached: {', '.join(f'{c.module} ({c.site})' for c in silent[:6])}"
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
            for reader in ffn.readers:
                self._before(reader, self._reading(index, readers=len(ffn.readers)))
        elif vector == "intermediate":
            self._before(ffn.down, self._reading(index, readers=1))
        else:
            part, value = (ffn.gate, ffn.gate_value) if vector == "gate" else (ffn.up, ffn.up_value)
            if part is None:
                raise ModelError(f"{ffn.name}: no site {vector!r}")
            self._handles.append(part.module.register_forward_hook(self._writing(index, part, value)))

    def _before(self, module: nn.Module, apply: Callable[[torch.Tensor], torch.Tensor]) -> None:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if watching():
                return args, kwargs
            if args:
                return (apply(args[0]), *args[1:]), kwargs
            first = next(iter(kwargs))
            return args, {**kwargs, first: apply(kwargs[first])}

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _reading(self, index: int, readers: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Sparsify what a projection reads; up and gate read the same x, which is done (and counted) once."""

        def apply(x: torch.Tensor) -> torch.Tensor:
            if readers > 1:
                shared = self._shared.pop(index, None)
                if shared is not None and shared[0] is x:
                    return shared[1]
            y = self._select(index, x)
            if readers > 1:
                self._shared[index] = (x, y)
            return y

        return apply

    def _writing(self, index: int, part: Part, value: Expression | None) -> Callable[..., torch.Tensor]:
        """Sparsify u or g where they come from: an entry of W x set to zero makes that entry of u or g zero."""

        def hook(_: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            if watching():
                return output
            raw = output[..., part.start : part.start + part.step * part.width : part.step]
            if value is None or value.part is not None:
                new = self._select(index, raw)
            else:
                vector = value({part: raw})
                new = torch.where((self._select(index, vector) != 0) | (vector == 0), raw, 0)
            if new.shape == output.shape:
                return new
            output = output.clone()
            output[..., part.start : part.start + part.step * part.width : part.step] = new
            return output

        return hook

    def _select(self, index: int, x: torch.Tensor) -> torch.Tensor:
        y, kept = torch.ops.sparsedial.select.default(x, self._name, self._value)
        self._counters.add(index, kept)
        return y

    # ------------------------------------------------------------------ watching the forward

    def _begin(self, names: tuple[str, ...]) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._depth += not watching()
            if self._depth == 1:
                self._seen = self._observation({**dict(zip(names, args, strict=False)), **kwargs})

        return hook

    def _end(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._depth -= not watching()
        if self._depth == 0:
            if output is None:  # the forward failed
                self._counters.forget()
            self._flush()

    def _flush(self) -> None:
        self._shared.clear()
        self._counters.close(self._seen)
        self._seen = Observation()

    def _observation(self, given: dict[str, Any]) -> Observation:
        told = self._told or Observation("")
        seen = told if told.phase else replace(told, phase=self._phase(given))
        if seen.real is None and (mask := given.get("attention_mask")) is not None:
            tokens = given.get("input_ids")
            tokens = given.get("inputs_embeds") if tokens is None else tokens
            if tokens is not None:
                seen = replace(seen, real=_real(mask, tokens.shape[1], seen.phase))
        return seen

    def _phase(self, given: dict[str, Any]) -> str:
        cache = given.get("past_key_values")
        if cache is None:
            return "prefill"
        try:
            length = cache.get_seq_length()
        except (AttributeError, ValueError):  # a cache of another kind, or with no attention layer
            length = None
        # A static cache's length lives on the device: one met before holds tokens, without asking it.
        filled = length > 0 if isinstance(length, int) else cache in self._caches
        self._caches.add(cache)
        return "generation" if filled else "prefill"


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


def _is_model(module: nn.Module) -> bool:
    """A Hugging Face model: it takes the attention mask and the cache, called directly or by a wrapper."""
    return hasattr(module, "config") and hasattr(module, "get_input_embeddings")


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
