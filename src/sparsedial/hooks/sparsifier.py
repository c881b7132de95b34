"""Context manager that applies a rule at a site of every FFN of a model and counts the dropped entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import pandas as pd
import torch
from torch import nn

from sparsedial.errors import AttachError, ModelError, NonFiniteError, SpecError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFN, FFNs
from sparsedial.ffn.sites import check_site, select_site_ffns
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.forward_context import PHASES
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.forward_override import ForwardOverride
from sparsedial.hooks.model_hooks import ModelHooks
from sparsedial.hooks.reach_check import describe_unreached
from sparsedial.hooks.rule_applier import RuleWrapper
from sparsedial.hooks.rule_binding import bind_rule
from sparsedial.hooks.site_attachment import Removable, attach_vectors, list_vectors
from sparsedial.rules import Calibration, Rule, check_rule

MAX_LISTED_EXPERTS = 3  # experts that an error message names

# Names of the vectors that a sparsifier changes at present, by the FFN's down projection.
_attached_vectors: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def sparsify(
    model: nn.Module,
    site: str,
    rule: Rule,
    *,
    layers: Iterable[int] | None = None,
    ffns: FFNs | None = None,
    calibration: Calibration | None = None,
) -> Sparsifier:
    """Return a context manager that applies a rule at a site of a model's FFNs.

    The context manager works with the model's own forward and `generate`, under `torch.inference_mode` and
    `torch.compile`, with left or right padding according to ``attention_mask``, with a key-value cache and with
    ``device_map``. Context managers of different sites may be nested. With the rule's dense value, such as `TopP(1)`,
    the logits are identical to those of the dense model. The user's forward pre-hooks on the projections see the input
    before the rule is applied.

    Args:
        model: Any transformer language model.
        site: "input", "up", "gate", "intermediate" or "all_inputs", or the name of a registered site.
        rule: `TopP`, `TopK`, `MaxP`, or another rule.
        layers: Indices of the layers to sparsify. Defaults to None: all layers.
        ffns: Result of `find_ffns` for this model. Defaults to None: they are found now.
        calibration: What the rule's `Rule.calibrate` returned for this model. Defaults to None. The built-in rules need
            no calibration.

    Returns:
        The context manager, which also counts the dropped entries.

    Raises:
        SpecError: The site, the rule or a layer is unknown, an FFN belongs to another model, or the rule needs a
            calibration.
        ModelError: The model has no FFN, or one of the chosen FFNs does not have the site.

    Example:
        >>> import sparsedial as sd, torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...                                      num_attention_heads=2, vocab_size=64))
        >>> with sd.sparsify(model, site="input", rule=sd.TopK(0.5)) as sparsifier:
        ...     _ = model(torch.arange(6)[None])
        >>> sparsifier.stats()[["layer", "vector", "phase", "dropped", "total", "sparsity"]]
           layer vector    phase  dropped  total  sparsity
        0      0  input  prefill       48     96       0.5
        1      1  input  prefill       48     96       0.5
    """
    check_rule(rule)
    if ffns is None:
        ffns = find_ffns(model)
    selected = select_site_ffns(ffns, select_ffns(ffns, layers), site)
    _check_model_contains(model, selected)
    check_site(selected, site)
    return Sparsifier(model, selected, site, rule, calibration)


def is_sparsified(model: nn.Module) -> bool:
    """Return True if a sparsifier is attached to a module of the model.

    Args:
        model: The model.
    """
    return any(module in _attached_vectors for module in model.modules())


def select_ffns(ffns: FFNs, layers: Iterable[int] | None = None) -> list[FFN]:
    """Return the FFNs of these layers, after checking that all of them can be sparsified.

    Args:
        ffns: The FFNs of a model.
        layers: Indices of layers. Defaults to None: all layers.

    Returns:
        At least one FFN.

    Raises:
        SpecError: A layer is unknown, or no layer is chosen.
        ModelError: An FFN of these layers cannot be sparsified.
    """
    selected = _select_layers(ffns, layers)
    unsupported = _describe_unsupported(ffns, selected, every_layer=layers is None)
    if unsupported is not None:
        raise ModelError(unsupported)
    chosen = [ffn for ffn in ffns if ffn.layer in selected]
    if not chosen:
        raise SpecError("No layer was chosen: expected at least one. Leave out layers= to sparsify all of them.")
    return chosen


class Sparsifier:
    """Context manager that applies a rule at a site of a model's FFNs and counts the dropped entries.

    Use `sparsify` to create one.

    Args:
        model: The model.
        ffns: FFNs to sparsify.
        site: Name of the site.
        rule: Rule to apply.
        calibration: What the rule's `Rule.calibrate` returned for the model. Defaults to None.

    Attributes:
        site: The site.
        rule: The rule.
    """

    def __init__(
        self, model: nn.Module, ffns: Sequence[FFN], site: str, rule: Rule, calibration: Calibration | None = None
    ) -> None:
        self.site = site
        self.rule = rule
        self._model = model
        self._ffns = ffns
        self._vectors = list_vectors(ffns, site)
        keys = [vector.make_key() for vector in self._vectors]
        self._coordinator = ForwardCoordinator(rule, keys, bind_rule(rule, self._vectors, calibration))
        self._handles: list[Removable] = []

    def __repr__(self) -> str:
        state = "attached" if self._handles else "not attached"
        return f"Sparsifier(site={self.site!r}, rule={self.rule!r}, ffns={len(self._ffns)}, {state})"

    def __enter__(self) -> Sparsifier:
        self._reserve_vectors()
        self._coordinator.counters.prepare(_list_devices(self._ffns))
        try:
            for handle in attach_vectors(self._vectors, self._model, self._coordinator):
                self._handles.append(handle)
            for handle in ModelHooks(self._model, self._vectors, self._coordinator).attach():
                self._handles.append(handle)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, exception_type: type[BaseException] | None = None, *_: object) -> None:
        self._detach()
        if exception_type is None and self._coordinator.has_run:
            self._check_reached()

    @property
    def counters(self) -> Sequence[CounterKey]:
        """Description of each counter, one per FFN and vector. `wrap` passes indices into this sequence."""
        return self._coordinator.counters.keys

    def wrap(self, wrapper: RuleWrapper) -> None:
        """Wrap the rule in a function. The function that was added last is the outermost one.

        The function is not called for stacked experts.

        Args:
            wrapper: Function of ``(counter, x, context, inner)``: the index of the counter, the vectors of shape
                [..., D], the `ForwardContext`, and the next inner function, which takes the first three. It returns
                ``(y, kept)`` as `apply_rule` does.
        """
        self._coordinator.wrap(wrapper)

    @contextmanager
    def observe(
        self,
        *,
        phase: str | None = None,
        step: int | None = None,
        real: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
    ) -> Iterator[None]:
        """Set properties of the forward passes inside the `with` block that the model's arguments do not contain.

        A forward pass in the block raises `SpecError` if ``real`` does not have one entry per token.

        Args:
            phase: "prefill" or "generation". Defaults to None: "generation" if the key-value cache
                holds tokens.
            step: Denoising step of a diffusion model. Defaults to None.
            real: Boolean tensor with one entry per token of the model's input, False for padding. Defaults to
                None: read from ``attention_mask``.
            masked: Boolean tensor with one entry per token of the model's input, True for the tokens that a
                diffusion model has yet to fill in. Defaults to None.

        Yields:
            None: Nothing.

        Raises:
            SpecError: The phase is unknown.
        """
        if phase is not None and phase not in PHASES:
            raise SpecError(f"Unknown phase {phase!r}: expected one of {', '.join(PHASES)}.")
        with self._coordinator.tracker.overrides.override(ForwardOverride(phase, step, real, masked)):
            yield

    def flush(self) -> None:
        """Add up the pending counts on their devices, without waiting for the devices. `stats` also does this."""
        self._coordinator.flush()
        self._coordinator.counters.reduce()

    def stats(self) -> pd.DataFrame:
        """Return the table of dropped entries, counted over real tokens only.

        Returns:
            One row per FFN, vector, phase and step, with the columns layer (int), module, vector ("all_inputs" has
            "input" and "intermediate"), expert (int or <NA>), phase, step (int or <NA>), dropped, total, sparsity,
            tokens (for an expert, those routed to it) and weight (for an expert, its share of the layer's routing
            weight in that phase). The weight is <NA> where the router's weights are unknown: for dense FFNs, and for
            experts that are modules of their own. An expert that no token was routed to, in a phase in which its
            layer ran, has a row with total 0 and sparsity <NA>.

        Raises:
            AttachError: No token reached an FFN, or padding could not be distinguished from real tokens in the input
                of an expert.
            NonFiniteError: A vector contained a NaN or Inf. The message names the layers.
        """
        self._coordinator.flush()
        lost_experts = self._coordinator.expert_tokens.untracked
        if lost_experts:
            raise AttachError(_describe_lost_experts(lost_experts))
        self._check_reached()
        table = self._coordinator.counters.table()
        if table.empty:
            raise AttachError(
                "No real token was counted: run the model inside the `with` block, with tokens that are no padding."
            )
        if (table["nonfinite"] > 0).any():
            raise NonFiniteError(_describe_nonfinite(table[table["nonfinite"] > 0]))
        return table.drop(columns="nonfinite")

    def sparsity(self) -> float:
        """Return the number of dropped entries divided by the number of all entries, over all rows of `stats`."""
        table = self.stats()
        return float(table["dropped"].sum() / table["total"].sum())

    def _detach(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()
        self._release_vectors()
        self._coordinator.detach()

    def _check_reached(self) -> None:
        """Raise an error if the forward passes did not reach a vector that they should have reached."""
        message = describe_unreached(
            self.counters, self._coordinator.counters.reached, self._model, self._coordinator.has_run
        )
        if message is not None:
            raise AttachError(message)

    def _reserve_vectors(self) -> None:
        if self._handles:
            raise AttachError(f"This sparsifier is already attached, at {self.site!r}. Leave its `with` block first.")
        names = {vector.name for vector in self._vectors}
        for ffn in self._ffns:
            conflicts = _attached_vectors.get(ffn.down, set()) & names
            if conflicts:
                raise AttachError(
                    f"{ffn.name} is already sparsified at {', '.join(sorted(conflicts))}. "
                    "Leave that `with` block first, or choose another site."
                )
        for ffn in self._ffns:
            _attached_vectors.setdefault(ffn.down, set()).update(names)

    def _release_vectors(self) -> None:
        for ffn in self._ffns:
            names = _attached_vectors.get(ffn.down, set())
            names.difference_update(vector.name for vector in self._vectors)
            if not names:
                _attached_vectors.pop(ffn.down, None)


def _list_devices(ffns: Sequence[FFN]) -> set[torch.device]:
    """Return the devices of the FFNs' weights, without those that are loaded only when they are needed."""
    devices = set()
    for ffn in ffns:
        for parameter in ffn.down.parameters():
            devices.add(parameter.device)
    return devices - {torch.device("meta")}


def _check_model_contains(model: nn.Module, ffns: Sequence[FFN]) -> None:
    """Raise an error if an FFN belongs to another model, which would leave this model dense."""
    modules = set(model.modules())
    for ffn in ffns:
        if ffn.down not in modules:
            raise SpecError(
                f"ffns=: {ffn.name} is not a module of this model ({type(model).__name__}), but of another one or of a "
                "copy of it. Pass the result of find_ffns(model), or leave out ffns=."
            )


def _select_layers(ffns: FFNs, layers: Iterable[int] | None) -> set[int]:
    known = {ffn.layer for ffn in ffns}
    if layers is None:
        return known
    selected = set(layers)
    unknown = selected - known
    if unknown:
        raise SpecError(f"Unknown layer(s) {sorted(unknown)}: FFNs are in layers {sorted(known)}.")
    return selected


def _describe_unsupported(ffns: FFNs, layers: set[int], every_layer: bool) -> str | None:
    """Return a message about the first FFN in these layers that cannot be sparsified, or None if there is none."""
    for name, reason in ffns.unsupported.items():
        numbers = {int(piece) for piece in name.split(".")[:-1] if piece.isdigit()}
        if every_layer or numbers & layers:
            return f"{name} cannot be sparsified: {reason}. Leave out its layer with layers= (CLI: --layers)."
    return None


def _describe_lost_experts(experts: set[str]) -> str:
    names = ", ".join(sorted(experts)[:MAX_LISTED_EXPERTS])
    return (
        f"The tokens that {len(experts)} expert(s) read could not be tracked, so padding would have been counted: "
        f"{names}. Run without padding (one row at a time), or leave out the layer with layers=."
    )


def _describe_nonfinite(rows: pd.DataFrame) -> str:
    vectors = ", ".join(f"{row.module} ({row.vector}: {row.nonfinite} vectors)" for row in rows.itertuples())
    return (
        f"NaN or Inf among the activations of layer(s) {sorted(set(rows['layer']))}: {vectors}. The vectors were not "
        "changed, and the scores of this run are invalid. Check the weights, or use a wider dtype."
    )
