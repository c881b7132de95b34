"""Coordination of the actions at the start and at the end of a model's forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.errors import AttachError
from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.decode_fast_path import (
    CommittedCounts,
    DecodeFastPath,
    is_fast_decode_enabled,
    make_decode_function,
)
from sparsedial.hooks.entry_usage import EntryUsage
from sparsedial.hooks.forward_arguments import TEXT_MODEL, ModelTraits
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.forward_tracker import HOW_TO_STATE_THEM, ForwardTracker, is_in_backward
from sparsedial.hooks.module_patch import Apply
from sparsedial.hooks.pending_counts import CallGroup
from sparsedial.hooks.phase_selection import ALL_PHASES, PhaseSelection
from sparsedial.hooks.rule_applier import (
    RuleApplier,
    RuleSet,
    RuleTable,
    RuleWrapper,
    SharedResults,
    StackedRuleApplier,
    clear_results,
    share_result,
)
from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker


class ForwardCoordinator:
    """Coordinator of the parts of a sparsifier that run during a forward pass.

    The parts are independent of each other. `enter_model` and `leave_model` call them in the required order.

    Args:
        rules: Rule of each counter.
        keys: Description of each counter.
        tracks_usage: True to count how often each entry is kept. Defaults to False.
        phases: Phases in which the rules are applied. Defaults to all of them.

    Attributes:
        rules: The rules with their wrappers.
        tracker: Tracker of the forward pass.
        counters: Counters of dropped entries.
        fast_path: Fast path for decoding one token on the CPU.
        expert_tokens: Tracker of the tokens that the experts in module lists read.
        innermost_models: Index of the innermost hooked model that contains the vector of each counter. Empty if only
            one model is hooked.
        has_run: True if a forward pass of the model has ended that belongs to a phase in which the rules are applied.
        has_run_dense: True if a forward pass has ended that belongs to another phase.
    """

    def __init__(
        self,
        rules: RuleSet,
        keys: Sequence[CounterKey],
        tracks_usage: bool = False,
        phases: PhaseSelection = ALL_PHASES,
    ) -> None:
        self.rules = RuleTable(rules, phases)
        self.tracker = ForwardTracker()
        self.counters = SparsityCounters(keys, rules.rules, EntryUsage(keys) if tracks_usage else None, phases)
        self.fast_path = DecodeFastPath(self.rules, [key.width for key in keys])
        self.fast_path.is_blocked = tracks_usage
        self.expert_tokens = ExpertTokenTracker()
        self.innermost_models: Sequence[int] = ()
        self.has_run = False
        self.has_run_dense = False
        self._has_dense_context = False  # a model of the current forward pass is in a phase without the rules
        self._shared_results: SharedResults = {}
        self._entered: set[int] = set()  # hooked models whose forward has started in the current forward pass
        self._next_rules: RuleSet | None = None  # those of the next forward pass, if they differ

    def wrap(self, wrapper: RuleWrapper) -> None:
        """Put a function around the rule: see `Sparsifier.wrap`.

        Args:
            wrapper: Function of counter, x, context and the next inner function.
        """
        self.rules.wrap(wrapper)
        self.fast_path.open_thread = 0

    def set_rules(self, rules: RuleSet) -> None:
        """Replace the rules from the next forward pass on. Waits for a forward pass that another thread runs.

        Args:
            rules: Rule of each counter.
        """
        self.tracker.acquire()
        try:
            self._next_rules = rules
            if not self.tracker.is_inside_forward:
                self._switch_rules(self._next_rules)
        finally:
            self.tracker.release()

    def reset(self) -> None:
        """Set all counts to zero, including those of a forward pass that is running."""
        self.tracker.acquire()
        try:
            self.fast_path.rollback()
            self.fast_path.drain()
            self.counters.reset()
            self.expert_tokens.untracked.clear()
            self.has_run = False
            self.has_run_dense = False
        finally:
            self.tracker.release()

    def make_applier(self, counter: int, readers: int = 1) -> Apply:
        """Return the function that applies the rule to the vectors of one counter.

        Args:
            counter: Index of the counter.
            readers: Number of modules that read the same x, which must be counted once. Defaults to 1.

        Returns:
            Function that takes x and returns it with the dropped entries set to zero.
        """
        is_listed_expert = self.counters.keys[counter].moe_path is not None
        applier = RuleApplier(
            counter, self.rules, self.tracker, self.counters, self.expert_tokens if is_listed_expert else None
        )
        results = self._shared_results if readers > 1 else None
        if is_fast_decode_enabled():
            return make_decode_function(self.fast_path, applier, results, readers)
        if results is not None:
            return share_result(applier, results, readers)
        return applier

    def make_stacked_applier(self, expert_counters: tuple[int, ...], reads_tokens: bool) -> StackedRuleApplier:
        """Return the function that applies the rule to one vector of all stacked experts of a layer.

        Args:
            expert_counters: Index of each expert's counter.
            reads_tokens: True if the vectors are the tokens, False if there is one for each (token, expert) pair.

        Returns:
            Function of the vectors and the routing.
        """
        return StackedRuleApplier(expert_counters, self.rules, self.tracker, self.counters, reads_tokens)

    def attach_to_expert(self, ffn: FFN, model: nn.Module) -> Iterator[RemovableHandle]:
        """Track the tokens that an expert in a module list reads.

        Args:
            ffn: The expert.
            model: The model that contains it.

        Yields:
            RemovableHandle: Handle that removes a hook.
        """
        if ffn.moe_path is not None:
            layer = model.get_submodule(ffn.moe_path.rpartition(".")[0])
            yield from self.expert_tokens.attach(layer, ffn.up.module, ffn.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardCoordinator:
        """Return the same object. The hooks of a copied model recognise that they belong to another model."""
        return self

    def enter_model(self, index: int, arguments: Mapping[str, Any], traits: ModelTraits = TEXT_MODEL) -> None:
        """Start the forward of a hooked model.

        Args:
            index: Index of the hooked model.
            arguments: Arguments of its forward, by name.
            traits: Properties of the model. Defaults to those of a text model.

        Raises:
            SpecError: The cache does not say whether it holds tokens, or a denoising step belongs to no phase.
        """
        self.tracker.acquire()
        if self.tracker.is_running(index):
            self._abort_forward()
        if not self.tracker.is_inside_forward:
            self._entered.clear()
            self._has_dense_context = False
            if self._next_rules is not None:
                self._switch_rules(self._next_rules)
        self._entered.add(index)
        if self.rules.is_dense:
            self._switch_context(self.tracker.enter_dense(index))
        else:
            context = self.tracker.enter(index, arguments, traits)
            self.rules.phases.check_step(context)
            self._has_dense_context |= not self.rules.phases.is_sparse(context)
            self._switch_context(context)

    def leave_model(self, index: int, failed: bool) -> bool:
        """End the forward of a hooked model. At the end of the outermost one, keep or discard the counts.

        Args:
            index: Index of the hooked model.
            failed: True if the forward raised an exception.

        Returns:
            False if a forward pass ended that reached no vector. Otherwise True.

        Raises:
            AttachError: There is padding, and the vectors cannot be assigned to the tokens.
            SpecError: The number of real-token flags that the user stated differs from the number of vectors.
        """
        context = self.tracker.leave(index)
        if context is not None:
            self._switch_context(context)
            return True
        try:
            # Gradient checkpointing of a whole model repeats a forward pass in the backward pass.
            if failed or self.rules.is_dense or is_in_backward():
                self._discard_forward()
                return True
            return self._count_forward()
        finally:
            clear_results(self._shared_results)
            self.expert_tokens.end_forward()
            self.tracker.release_all()

    def flush(self) -> None:
        """Count the tokens decoded so far."""
        self.tracker.acquire()
        try:
            clear_results(self._shared_results)
            self._add_totals(self.fast_path.drain())
        finally:
            self.tracker.release()

    def detach(self) -> None:
        """Clear the state after the hooks were removed. A forward that has not ended was interrupted and failed."""
        self.tracker.acquire()
        if self.tracker.is_inside_forward:
            self._abort_forward()
        self.tracker.forget_generation()
        self.expert_tokens.detach()
        self._shared_results.clear()
        self.flush()
        self.tracker.release_all()

    def _switch_rules(self, rules: RuleSet) -> None:
        """Put the rules of the next forward pass into force. The counts so far belong to the previous rules."""
        self._next_rules = None
        self._add_totals(self.fast_path.drain())
        self.counters.start_rules(rules.rules)
        self.rules.assign(rules)
        self.fast_path.update_rules()

    def _switch_context(self, context: ForwardContext) -> None:
        self.counters.pending.start_context(context)
        self.fast_path.start_context(context)
        self.expert_tokens.begin_forward(context.real_tokens)

    def _count_forward(self) -> bool:
        """Keep the counts of the forward pass that ended, and return False if it reached no vector."""
        used_fast_path = self.fast_path.was_opened
        self._add_totals(self.fast_path.commit())
        groups = self.counters.pending.take_forward()
        self._check_models_were_called(groups)
        self.counters.add_calls(groups)
        has_reached_vectors = used_fast_path or len(groups) > 0
        if self._has_dense_context and not has_reached_vectors:
            self.has_run_dense = True
            return True
        self.has_run = True
        return has_reached_vectors

    def _check_models_were_called(self, groups: Sequence[CallGroup]) -> None:
        """Raise an error if a wrapper, whose tokens are unknown, called the forward method of a model inside it."""
        if not self.innermost_models or self.tracker.overrides.current is not None:
            return
        for context, calls in groups:
            if context.token_shape is not None:
                continue
            for call in calls:
                if self.innermost_models[call.counters[0]] not in self._entered:
                    raise AttachError(
                        f"{self.counters.keys[call.counters[0]].module} was reached, but the model that contains it "
                        f"was not called, so the phase and the padding are unknown. {HOW_TO_STATE_THEM}"
                    )

    def _discard_forward(self) -> None:
        self.counters.discard_pending()
        self.fast_path.rollback()

    def _abort_forward(self) -> None:
        """End a forward pass that was interrupted by Ctrl-C, where torch called no hook at its end."""
        self.tracker.clear()
        self._discard_forward()
        clear_results(self._shared_results)
        self.expert_tokens.end_forward()

    def _add_totals(self, decoded: CommittedCounts | None) -> None:
        if decoded is not None:
            self.counters.add_totals(decoded.phase, decoded.step, decoded.totals, decoded.segment)
