"""Generic path of one activation, which applies the rule and records the number of kept entries.

The generic path handles all cases. `decode_fast_path` replaces it when one token is decoded on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.forward_tracker import ForwardTracker
from sparsedial.hooks.module_patch import Apply
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker
from sparsedial.rules import Rule, VectorRule
from sparsedial.tracing_state import is_tracing

if TYPE_CHECKING:
    from sparsedial.moe.routing import Routing

RuleFunction = Callable[[int, torch.Tensor, ForwardContext], tuple[torch.Tensor, torch.Tensor]]
RuleWrapper = Callable[[int, torch.Tensor, ForwardContext, RuleFunction], tuple[torch.Tensor, torch.Tensor]]
SharedResults = dict[int, tuple[torch.Tensor, torch.Tensor]]  # by counter: x, and the sparse x


class WrappableRule:
    """A rule bound to its kernels, and the wrappers that `Sparsifier.wrap` added.

    Args:
        rule: The rule.
        vector_rules: The rule for the vectors of each counter, as `Rule.bind` returns it. Defaults to none, which means
            ``rule`` for all counters.

    Attributes:
        bound: The rule, bound to its kernels.
        wrapped: The outermost wrapper, or None if there is none.
    """

    def __init__(self, rule: Rule, vector_rules: Sequence[VectorRule] = ()) -> None:
        self.bound = BoundRule(rule)
        self.wrapped: RuleFunction | None = None
        self._bound_by_counter: dict[int, BoundRule] = {}
        for counter, vector_rule in enumerate(vector_rules):
            if vector_rule is not rule:
                self._bound_by_counter[counter] = BoundRule(vector_rule)

    def bound_for(self, counter: int) -> BoundRule:
        """Return the rule for the vectors of one counter, bound to its kernels.

        Args:
            counter: Index of the counter.
        """
        return self._bound_by_counter.get(counter, self.bound)

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
        return self.bound_for(counter)(x)


class RuleApplier:
    """Function that applies one rule to the vectors of one counter and records the number of kept entries.

    Args:
        counter: Index of the counter.
        rule: The rule with its wrappers.
        tracker: Tracker of the forward pass.
        counters: Counters to record to.
        expert_tokens: Tracker of the tokens that the FFN reads. None unless the FFN is an expert in a module list.
    """

    def __init__(
        self,
        counter: int,
        rule: WrappableRule,
        tracker: ForwardTracker,
        counters: SparsityCounters,
        expert_tokens: ExpertTokenTracker | None = None,
    ) -> None:
        self.counter = counter
        self._rule = rule
        self._bound = rule.bound_for(counter)
        self._tracker = tracker
        self._counters = counters
        self._expert_tokens = expert_tokens
        self._module = counters.keys[counter].module

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with the entries that the rule drops set to zero.

        Args:
            x: Vectors of shape [..., D].

        Returns:
            Tensor of the same shape, in which the dropped entries are zero.
        """
        if is_tracing():
            return x
        context = self._tracker.context
        is_outside = context is None
        if context is None:
            context = self._tracker.describe_call_outside(self._module)
        if self._rule.wrapped is not None:
            y, kept = self._rule.wrapped(self.counter, x, context or ForwardContext())
        elif not torch.compiler.is_dynamo_compiling() and context is not None and context.can_bypass_dispatcher:
            y, kept = self._bound.call_backend(x, self._counters.buffers.take(x))
        else:
            y, kept = self._bound(x)
        if is_outside:
            if context is not None:
                self._counters.record_outside(context, RuleCall((self.counter,), kept, x.shape[:-1]))
            return y
        tokens = None if self._expert_tokens is None else self._expert_tokens.tokens.get(self._module)
        self._counters.record(self.counter, kept, x.shape[:-1], tokens)
        return y


class StackedRuleApplier:
    """Function that applies one rule to one vector of all stacked experts of a layer and records the kept entries.

    Args:
        expert_counters: Index of each expert's counter.
        rule: The rule. Its wrappers are not called for experts.
        tracker: Tracker of the forward pass.
        counters: Counters to record to.
        reads_tokens: True if the vectors are the tokens, False if there is one for each (token, expert) pair.
    """

    def __init__(
        self,
        expert_counters: tuple[int, ...],
        rule: WrappableRule,
        tracker: ForwardTracker,
        counters: SparsityCounters,
        reads_tokens: bool,
    ) -> None:
        self._expert_counters = expert_counters
        self._rule = rule
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
        y, kept = self._rule.bound(x)
        if self._reads_tokens:
            kept = kept[routing.token]
        if self._tracker.context is not None:
            self._counters.record_routed(self._expert_counters, kept, routing)
            return y
        module = self._counters.keys[self._expert_counters[0]].module
        context = self._tracker.describe_call_outside(module)
        if context is not None:
            self._counters.record_outside(
                context, RuleCall(self._expert_counters, kept, torch.Size([routing.tokens]), routing=routing)
            )
        return y


def share_result(applier: RuleApplier, results: SharedResults) -> Apply:
    """Return a function that applies the rule once for two modules that read the same x, such as up and gate.

    The call of the first module computes the result and counts it. The call of the second module with the same tensor
    only returns that result.

    Args:
        applier: Applies the rule to x.
        results: Results that only the first module has read. The caller clears them when a forward ends.

    Returns:
        The function.
    """
    counter = applier.counter

    def apply(x: torch.Tensor) -> torch.Tensor:
        previous = results.pop(counter, None)
        if previous is not None and previous[0] is x:
            return previous[1]
        y = applier(x)
        results[counter] = (x, y)
        return y

    return apply
