"""Context manager that applies a rule at a site of every FFN of a model and counts the dropped entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn

from sparsedial.errors import AttachError, NonFiniteError, SpecError
from sparsedial.ffn.discovery import check_module, find_ffns
from sparsedial.ffn.feed_forward import FFNs, VectorOwner
from sparsedial.ffn.sites import check_site
from sparsedial.hooks.count_errors import describe_lost_experts, describe_nonfinite
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.dense_copies import DenseCopies
from sparsedial.hooks.entry_usage import VectorUsage
from sparsedial.hooks.ffn_selection import FfnFilter, check_ffns, check_model_contains, select_owners
from sparsedial.hooks.foreign_hooks import has_foreign_hooks
from sparsedial.hooks.forward_context import PHASES, Thinking
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.forward_override import ForwardOverride, read_flags
from sparsedial.hooks.model_hooks import ModelHooks
from sparsedial.hooks.phase_selection import ALL_PHASES, PhaseChoice, PhaseSelection, select_phases
from sparsedial.hooks.reach_check import describe_unreached
from sparsedial.hooks.rule_applier import RuleWrapper
from sparsedial.hooks.rule_assignment import (
    RuleChoice,
    assign_rules,
    choose_vectors,
    describe_rules,
)
from sparsedial.hooks.rule_binding import bind_rules
from sparsedial.hooks.site_attachment import Removable, attach_vectors
from sparsedial.hooks.vector_reservation import release_vectors, reserve_vectors
from sparsedial.kernels.dispatch import has_backend
from sparsedial.rules import Calibration, Rule


def sparsify(  # noqa: PLR0913  # the options of one call
    model: nn.Module,
    site: str,
    rule: RuleChoice,
    *,
    layers: Iterable[int] | None = None,
    filter_fn: FfnFilter | None = None,
    ffns: FFNs | None = None,
    track_usage: bool = False,
    calibration: Calibration | None = None,
    phases: PhaseChoice = PHASES,
) -> Sparsifier:
    """Return a context manager that applies a rule at a site of a model's FFNs.

    It works with the model's own forward and `generate`, under `torch.inference_mode` and
    `torch.compile`, with left or right padding according to ``attention_mask``, with a key-value cache and with
    ``device_map``. Context managers of different sites may be nested. With the rule's dense value, such as `TopP(1)`,
    the logits are identical to those of the dense model. The user's forward pre-hooks on the projections see the input
    before the rule is applied.

    The model can be trained (docs/training.md), and several threads may use it at the same time. A copy of the model
    that is made inside the block is dense.

    Args:
        model: Any transformer language model.
        site: Name of a site (docs/sites.md): "input", "all_inputs", "attention_input", or of a registered one.
        rule: `TopP`, `TopK`, `MaxP`, or another rule; a mapping from layer index, or from the vectors of the site
            ("input" and "intermediate" for "all_inputs"), to a rule; or a function that returns the rule of an `FFN`.
            What is given no rule, or None, stays dense and is not counted.
        layers: Indices of the layers to sparsify. Defaults to None: all layers.
        filter_fn: Function that returns True for each `FFN` to sparsify. Defaults to None: all of them.
        ffns: Result of `find_ffns` for this model. Defaults to None: they are found now.
        track_usage: True to count how often each entry is kept (`Sparsifier.usage`), which takes memory and time.
            Defaults to False.
        calibration: What `sparsedial.calibrate` returned for this model, rule and site. Defaults to None, for rules
            that need none.
        phases: "prefill" (the prompt, or a whole text), "generation" (decoding with a cache) or both. In a phase that
            is not named, the model is dense and its tokens are not counted. Defaults to both.

    Returns:
        The context manager, which also counts the dropped entries.

    Raises:
        SpecError: The site, the rule or a layer is unknown, nothing is selected, an FFN belongs to another model, or
            the rule needs a calibration, or a phase is unknown.
        ModelError: The model has no FFN, or one of the chosen FFNs does not have the site.
        AttachError: Experts with weights in one parameter would be treated differently.

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
    check_module(model)
    if ffns is None:
        ffns = find_ffns(model)
    check_ffns(ffns)
    selected = select_owners(ffns, site, layers, filter_fn)
    check_model_contains(model, selected)
    return Sparsifier(model, selected, site, rule, track_usage, calibration, select_phases(phases))


class Sparsifier:
    """Context manager that applies a rule at a site of a model's FFNs and counts the dropped entries.

    Use `sparsify` to create one.

    Args:
        model: The model.
        ffns: FFNs that may be sparsified, or projections outside of the FFNs.
        site: Name of the site.
        rule: Rule to apply, or a choice of rules as in `sparsify`. An FFN without a rule is not sparsified.
        track_usage: True to count how often each entry is kept. Defaults to False.
        calibration: What the rule's `Rule.calibrate` returned for the model. Defaults to None.
        phases: Phases in which the rule is applied. Defaults to all of them.

    Attributes:
        site: The site.
        phases: Names of the phases in which the rule is applied.
    """

    def __init__(  # noqa: PLR0913  # the arguments of `sparsify`, checked
        self,
        model: nn.Module,
        ffns: Sequence[VectorOwner],
        site: str,
        rule: RuleChoice,
        track_usage: bool = False,
        calibration: Calibration | None = None,
        phases: PhaseSelection = ALL_PHASES,
    ) -> None:
        self.site = site
        self.phases = phases.phases
        self._model = model
        self._rule = rule
        self._calibration = calibration
        self._vectors, rules = choose_vectors(ffns, site, rule)
        self._rules = bind_rules(rules, self._vectors, calibration)
        self._ffns = list({id(vector.ffn): vector.ffn for vector in self._vectors}.values())
        check_site(self._ffns, site)
        self._enabled = True
        self._coordinator = ForwardCoordinator(
            self._rules, [vector.make_key() for vector in self._vectors], track_usage, phases
        )
        self._handles: list[Removable] = []
        self._copies: DenseCopies | None = None  # is removed last, when no hook is left

    def __repr__(self) -> str:
        state = "attached" if self._handles else "not attached"
        if not self._enabled:
            state += ", disabled"
        rule = describe_rules(self._rules.rules)
        if self.phases != PHASES:
            rule += f", phases={self.phases!r}"
        return f"Sparsifier(site={self.site!r}, rule={rule}, ffns={len(self._ffns)}, {state})"

    def __enter__(self) -> Sparsifier:
        if self._handles:
            raise AttachError(f"This sparsifier is already attached, at {self.site!r}. Leave its `with` block first.")
        reserve_vectors(self._vectors)
        self._coordinator.tracker.overrides.set_owner()
        self._coordinator.counters.prepare(_list_devices(self._ffns))
        try:
            for handle in attach_vectors(self._vectors, self._model, self._coordinator):
                self._handles.append(handle)
            for handle in ModelHooks(self._model, self._vectors, self._coordinator).attach():
                self._handles.append(handle)
            self._copies = DenseCopies(self._model)
        except BaseException:
            self._detach()
            raise
        return self

    def __exit__(self, exception_type: type[BaseException] | None = None, *_: object) -> None:
        self._detach()
        if exception_type is None and self._coordinator.has_run:
            self._check_reached()

    @property
    def rule(self) -> RuleChoice:
        """The rule, or the choice of rules, as it was passed to `sparsify` or assigned.

        A new one takes effect at the next forward pass. All that `sparsify` accepts may be assigned. It holds for
        the vectors that are sparsified already: those that it gives no rule stay dense and are not counted. `stats`
        counts the entries of each rule separately. torch.compile compiles the model again for a new rule.
        """
        return self._rule

    @rule.setter
    def rule(self, rule: RuleChoice) -> None:
        rules = assign_rules(rule, self._vectors, self.site)
        self._rules = bind_rules(rules, self._vectors, self._calibration)
        self._rule = rule
        self._update_rules()

    @property
    def enabled(self) -> bool:
        """False to run the model dense, without counting, from the next forward pass on. True by default."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = bool(enabled)
        self._update_rules()

    def reset(self) -> None:
        """Set all counts to zero, including those of `usage`."""
        self._coordinator.reset()

    def usage(self) -> list[VectorUsage]:
        """Return how often each entry of each vector was kept, counted over real tokens only.

        Entries that are almost always kept are "hot", and others that are almost never kept are "cold" neurons.

        Returns:
            One `VectorUsage` per FFN, vector and rule. Each expert is an FFN of its own.

        Raises:
            SpecError: The sparsifier was not created with ``track_usage=True``.

        Example:
            >>> import sparsedial as sd, torch
            >>> from transformers import LlamaConfig, LlamaForCausalLM
            >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            ...                                      num_attention_heads=2, vocab_size=64))
            >>> with sd.sparsify(model, "intermediate", sd.TopK(0.5), track_usage=True) as sparsifier:
            ...     _ = model(torch.arange(6)[None])
            >>> first = sparsifier.usage()[0]
            >>> first
            VectorUsage('model.layers.0.mlp', intermediate, TopK(fraction=0.5), tokens=6)
            >>> first.kept.shape, int(first.kept.sum())
            (torch.Size([32]), 96)
        """
        if self._coordinator.counters.usage is None:
            raise SpecError("usage(): the entries were not counted one by one. Pass track_usage=True to sparsify.")
        self._coordinator.flush()
        return self._coordinator.counters.list_usage()

    @property
    def counters(self) -> Sequence[CounterKey]:
        """Description of each counter, one per FFN and vector. `wrap` passes indices into this sequence."""
        return self._coordinator.counters.keys

    def active_rule(self, counter: int) -> Rule | None:
        """Return the rule that the forward pass that is running, or else the next one, applies to a vector.

        Args:
            counter: Index into ``counters``.

        Returns:
            The rule, or None if the vector is dense.
        """
        return self._coordinator.rules.rules[counter]

    @property
    def can_be_captured(self) -> bool:
        """True if repeating the kernels of a forward pass repeats all that is done to the vectors and the counts.

        This is the case for the rules of the backends, unless a wrapper or a hook of the user runs Python code.
        """
        coordinator = self._coordinator
        if coordinator.rules.wrapped is not None or coordinator.counters.usage is not None:
            return False
        if any(rule is not None and not has_backend(rule) for rule in coordinator.rules.rules):
            return False
        tracked = {id(model) for model in coordinator.tracker.models}  # these have the sparsifier's own hooks
        others = [module for module in self._model.modules() if id(module) not in tracked]
        return not any(map(has_foreign_hooks, others))

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
        thinking: Thinking | None = None,
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
            thinking: Whether the tokens in the phase "generation" belong to the thinking of a model: True or False for
                all of them, or a boolean tensor with one entry per token of the model's input. They are then counted
                separately. Defaults to None: the text is not divided into segments.

        Yields:
            None: Nothing.

        Raises:
            SpecError: The phase is unknown, or what is stated about the tokens is no tensor.
        """
        if phase is not None and phase not in PHASES:
            raise SpecError(f"Unknown phase {phase!r}: expected one of {', '.join(PHASES)}.")
        if not isinstance(thinking, bool):
            thinking = read_flags(thinking, "thinking")
        if thinking is not None:
            self._coordinator.counters.prepare_segments()
        override = ForwardOverride(phase, step, read_flags(real, "real"), read_flags(masked, "masked"), thinking)
        with self._coordinator.tracker.overrides.override(override):
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
            layer ran, has a row with total 0 and sparsity <NA>. If more than one rule was applied, there is one row
            per rule, and a last column rule (str, such as "TopP(p=0.9)"). If `observe` stated which tokens are
            thinking, the rows of generation are divided, and a column segment ("thinking", "answer" or None) follows
            the phase.

        Raises:
            AttachError: No token reached an FFN in a phase in which the rule is applied, or padding could not be
                distinguished from real tokens in the input of an expert.
            NonFiniteError: A vector contained a NaN or Inf. The message names the layers.
        """
        self._coordinator.flush()
        lost_experts = self._coordinator.expert_tokens.untracked
        if lost_experts:
            raise AttachError(describe_lost_experts(lost_experts))
        self._check_phase()
        self._check_reached()
        table = self._coordinator.counters.table()
        if table.empty:
            raise AttachError(
                "No real token was counted: run the model inside the `with` block, with tokens that are no padding."
            )
        if (table["nonfinite"] > 0).any():
            raise NonFiniteError(describe_nonfinite(table[table["nonfinite"] > 0]))
        return table.drop(columns="nonfinite")

    def sparsity(self) -> float:
        """Return the number of dropped entries divided by the number of all entries, over all rows of `stats`."""
        table = self.stats()
        return float(table["dropped"].sum() / table["total"].sum())

    def _update_rules(self) -> None:
        rules = self._rules
        if not self._enabled:
            rules = bind_rules((None,) * len(self._vectors), self._vectors)
        self._coordinator.set_rules(rules)

    def _detach(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
        self._handles.clear()
        if self._copies is not None:
            self._copies.remove()
            self._copies = None
        release_vectors(self._vectors)
        self._coordinator.detach()

    def _check_phase(self) -> None:
        """Raise an error if all forward passes were in a phase in which the rule is not applied."""
        if self._coordinator.has_run_dense and not self._coordinator.has_run:
            raise AttachError(
                f"No token was sparsified: the rule is applied in {self.phases[0]} only, and no forward pass of the "
                "model was in this phase. A forward pass whose cache holds earlier tokens is in generation, any other "
                "one is in prefill. Choose the other phase with phases=, or leave it out."
            )

    def _check_reached(self) -> None:
        """Raise an error if the forward passes did not reach a vector that they should have reached."""
        message = describe_unreached(
            self.counters, self._coordinator.counters.reached, self._model, self._coordinator.has_run
        )
        if message is not None:
            raise AttachError(message)


def _list_devices(ffns: Sequence[VectorOwner]) -> set[torch.device]:
    """Return the devices of the FFNs' weights, without those that are loaded only when they are needed."""
    devices = set()
    for ffn in ffns:
        for parameter in ffn.anchor.parameters():
            devices.add(parameter.device)
    return devices - {torch.device("meta")}
