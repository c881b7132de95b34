"""Generic path of one activation, which applies the rule and records the number of kept entries.

The generic path handles all cases. `decode_fast_path` replaces it when one token is decoded on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsedial.ffn.projection_input import LM_HEAD_INPUT
from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.forward_tracker import ForwardTracker, is_in_backward
from sparsedial.hooks.module_patch import Apply
from sparsedial.hooks.output_positions import find_output_tokens
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.hooks.phase_selection import ALL_PHASES, PhaseSelection, restore_dense_vectors
from sparsedial.hooks.thread_state import current_thread
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker
from sparsedial.rules import Rule, VectorRule
from sparsedial.tracing_state import is_tracing

if TYPE_CHECKING:
    from sparsedial.moe.routing import Routing

RuleFunction = Callable[[int, torch.Tensor, ForwardContext], tuple[torch.Tensor, torch.Tensor]]
RuleWrapper = Callable[[int, torch.Tensor, ForwardContext, RuleFunction], tuple[torch.Tensor, torch.Tensor]]
SharedResults = dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor, int]]
"""By counter and thread: x, the sparse x, and the number of modules that have yet to read it."""


@dataclass(frozen=True)
class RuleSet:
    """The rules of all counters.

    Attributes:
        rules: Rule of each counter. None means that the vector is not changed and not counted.
        vector_rules: What `Rule.bind` returned for each counter. None where ``rules`` is None.
    """

    rules: tuple[Rule | None, ...]
    vector_rules: tuple[VectorRule | None, ...]


class RuleTable:
    """The rule of each counter, bound to its kernels, and the wrappers that `Sparsifier.wrap` added.

    Args:
        rules: Rule of each counter.
        phases: Phases in which the rules are applied. Defaults to all of them.

    Attributes:
        rules: Rule of each counter.
        phases: Phases in which the rules are applied.
        bound: The same rules, bound to their kernels. Equal rules share their binding.
        is_dense: True if no counter has a rule.
        wrapped: The outermost wrapper, or None if there is none.
    """

    def __init__(self, rules: RuleSet, phases: PhaseSelection = ALL_PHASES) -> None:
        self.phases = phases
        self.wrapped: RuleFunction | None = None
        self.assign(rules)

    def assign(self, rules: RuleSet) -> None:
        """Replace the rules.

        Args:
            rules: Rule of each counter.
        """
        bindings: dict[object, BoundRule] = {}
        self.bound: list[BoundRule | None] = []
        for vector_rule in rules.vector_rules:
            if vector_rule is None:
                self.bound.append(None)
                continue
            key = vector_rule if isinstance(vector_rule, Rule) else id(vector_rule)
            if key not in bindings:
                bindings[key] = BoundRule(vector_rule)
            self.bound.append(bindings[key])
        self.rules = rules.rules
        self.is_dense = set(rules.rules) == {None}

    def wrap(self, wrapper: RuleWrapper) -> None:
        """Wrap the rule and its present wrappers in a function: see `Sparsifier.wrap`.

        Args:
            wrapper: Function of counter, x, context and the next inner function.
        """
        inner = self.wrapped or self._apply_bound

        def wrapped(counter: int, x: torch.Tensor, context: ForwardContext) -> tuple[torch.Tensor, torch.Tensor]:
            return wrapper(counter, x, context, inner)

        self.wrapped = wrapped

    def _apply_bound(self, counter: int, x: torch.Tensor, _: ForwardContext) -> tuple[torch.Tensor, torch.Tensor]:
        return self.bound[counter](x)  # type: ignore[misc]  # a vector without a rule does not get here


class RuleApplier:
    """Function that applies one rule to the vectors of one counter and records the number of kept entries.

    Args:
        counter: Index of the counter.
        rules: The rules with their wrappers.
        tracker: Tracker of the forward pass.
        counters: Counters to record to.
        expert_tokens: Tracker of the tokens that the FFN reads. None unless the FFN is an expert in a module list.
    """

    def __init__(
        self,
        counter: int,
        rules: RuleTable,
        tracker: ForwardTracker,
        counters: SparsityCounters,
        expert_tokens: ExpertTokenTracker | None = None,
    ) -> None:
        self.counter = counter
        self._rules = rules
        self._tracker = tracker
        self._counters = counters
        self._expert_tokens = expert_tokens
        self._module = counters.keys[counter].module
        self._is_output_layer = counters.keys[counter].vector == LM_HEAD_INPUT

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with the entries that the rule drops set to zero.

        Args:
            x: Vectors of shape [..., D].

        Returns:
            Tensor of the same shape, in which the dropped entries are zero. x itself in a phase without the rule.
        """
        bound = self._rules.bound[self.counter]
        if bound is None or is_tracing():
            return x
        inside = self._tracker.thread_context()
        context = inside or self._tracker.describe_call_outside(self._module)
        phases = self._rules.phases
        if not phases.is_sparse(context or ForwardContext()):
            return x
        y, kept = self._apply_rule(bound, x, context)
        usage = None
        if self._counters.usage is not None:
            usage = self._counters.usage.observe(x, y, kept)
        tokens = self._find_tokens(x, context)
        selected = phases.selected_tokens(context or ForwardContext())
        if selected is not None:
            y = restore_dense_vectors(x, y, selected, self._module, tokens)
        if inside is None:
            tokens = None
        call = RuleCall((self.counter,), kept, x.shape[:-1], tokens, None, usage)
        _record_call(self._counters, call, inside, context, is_in_backward() and x.requires_grad)
        return y

    def _find_tokens(self, x: torch.Tensor, context: ForwardContext | None) -> torch.Tensor | None:
        """Return the index of each vector's token. None if the vectors are the tokens, in order."""
        if self._expert_tokens is not None:
            return self._expert_tokens.tokens.get(self._module)
        if self._is_output_layer and context is not None:
            return find_output_tokens(x, context)
        return None

    def _apply_rule(
        self, bound: BoundRule, x: torch.Tensor, context: ForwardContext | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sparse vectors, and the number of entries that are kept in each."""
        if self._rules.wrapped is not None:
            return self._rules.wrapped(self.counter, x, context or ForwardContext())
        if (
            not torch.compiler.is_dynamo_compiling()
            and context is not None
            and context.can_bypass_dispatcher
            and not x.requires_grad
        ):
            return bound.call_backend(x, self._counters.buffers.take(x))
        return bound(x)


class StackedRuleApplier:
    """Function that applies one rule to one vector of all stacked experts of a layer and records the kept entries.

    Args:
        expert_counters: Index of each expert's counter. They have the same rule.
        rules: The rules. Their wrappers are not called for experts.
        tracker: Tracker of the forward pass.
        counters: Counters to record to.
        reads_tokens: True if the vectors are the tokens, False if there is one for each (token, expert) pair.
    """

    def __init__(
        self,
        expert_counters: tuple[int, ...],
        rules: RuleTable,
        tracker: ForwardTracker,
        counters: SparsityCounters,
        reads_tokens: bool,
    ) -> None:
        self._expert_counters = expert_counters
        self._rules = rules
        self._tracker = tracker
        self._counters = counters
        self._reads_tokens = reads_tokens

    def __call__(self, x: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return x with the entries that the rule drops set to zero.

        Args:
            x: Vectors of shape [tokens, D] or [pairs, D].
            routing: Expert, token and weight of each pair.

        Returns:
            Tensor of the same shape, in which the dropped entries are zero.
        """
        bound = self._rules.bound[self._expert_counters[0]]
        if bound is None:
            return x
        module = self._counters.keys[self._expert_counters[0]].module
        inside = self._tracker.thread_context()
        context = inside or self._tracker.describe_call_outside(module)
        phases = self._rules.phases
        if not phases.is_sparse(context or ForwardContext()):
            return x
        y, kept = bound(x)
        usage = None
        if self._counters.usage is not None:
            usage = self._counters.usage.observe(x, y, kept)
        selected = phases.selected_tokens(context or ForwardContext())
        if selected is not None:
            y = restore_dense_vectors(x, y, selected, module, None if self._reads_tokens else routing.token)
        if self._reads_tokens:
            kept = kept[routing.token]
            if usage is not None:
                usage = usage[routing.token]
        tokens = torch.Size([routing.tokens])
        call = RuleCall(self._expert_counters, kept, tokens, routing=_detach(routing), is_kept=usage)
        _record_call(self._counters, call, inside, context, is_in_backward() and x.requires_grad)
        return y


def _record_call(
    counters: SparsityCounters,
    call: RuleCall,
    inside: ForwardContext | None,
    context: ForwardContext | None,
    is_repeated: bool,
) -> None:
    """Record a call of the rule, unless it repeats a part of a forward pass (gradient checkpointing).

    Args:
        counters: Counters to record to.
        call: The call.
        inside: Context of the forward pass that made the call. None if no forward pass is running.
        context: The same, or else what the user stated. None if the call is not counted.
        is_repeated: True if a backward pass that runs inside the forward pass made the call.
    """
    if inside is None:
        if context is not None:
            counters.record_outside(context, call)
    elif not is_repeated:
        counters.record(call)


def share_result(applier: RuleApplier, results: SharedResults, readers: int = 2) -> Apply:
    """Return a function that applies the rule once for all modules that read the same x, such as up and gate.

    The call of the first module computes the result and counts it. The calls of the other modules with the same tensor
    only return that result.

    Args:
        applier: Applies the rule to x.
        results: Results that not all modules have read. The caller clears them when a forward ends.
        readers: Number of modules that read x. Defaults to 2.

    Returns:
        The function.
    """
    counter = applier.counter

    def apply(x: torch.Tensor) -> torch.Tensor:
        key = (counter, current_thread())
        y = take_result(results, key, x)
        if y is None:
            y = applier(x)
            results[key] = (x, y, readers - 1)
        return y

    return apply


def take_result(results: SharedResults, key: tuple[int, int], x: torch.Tensor) -> torch.Tensor | None:
    """Return the sparse x that another module has computed, or None if there is none. The last reader removes it.

    Args:
        results: Results of all counters and threads.
        key: Counter and thread.
        x: The tensor that a module reads.
    """
    previous = results.pop(key, None)
    if previous is None or previous[0] is not x:
        return None
    _, y, readers = previous
    if readers > 1:
        results[key] = (x, y, readers - 1)
    return y


def clear_results(results: SharedResults) -> None:
    """Remove the results of the present thread.

    Args:
        results: Results of all threads.
    """
    if not results:
        return
    thread = current_thread()
    for key in list(results):
        if key[1] == thread:
            results.pop(key, None)


def _detach(routing: Routing) -> Routing:
    """Return the routing without the graph of its weights, which would keep a whole training step in memory."""
    if not routing.weight.requires_grad:
        return routing
    return routing._replace(weight=routing.weight.detach())
