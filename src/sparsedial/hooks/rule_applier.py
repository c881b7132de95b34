"""Generic path of one activation, which applies the rule and records the number of kept entries.

The generic path handles all cases. `decode_fast_path` replaces it when one token is decoded on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.forward_tracker import ForwardTracker, is_in_backward
from sparsedial.hooks.module_patch import Apply
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.hooks.thread_state import current_thread
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker
from sparsedial.rules import Rule, VectorRule
from sparsedial.tracing_state import is_tracing

if TYPE_CHECKING:
    from sparsedial.moe.routing import Routing

RuleFunction = Callable[[int, torch.Tensor, ForwardContext], tuple[torch.Tensor, torch.Tensor]]
RuleWrapper = Callable[[int, torch.Tensor, ForwardContext, RuleFunction], tuple[torch.Tensor, torch.Tensor]]
SharedResults = dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]  # by counter and thread: x, and the sparse x


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

    Attributes:
        rules: Rule of each counter.
        bound: The same rules, bound to their kernels. Equal rules share their binding.
        is_dense: True if no counter has a rule.
        wrapped: The outermost wrapper, or None if there is none.
    """

    def __init__(self, rules: RuleSet) -> None:
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

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with the entries that the rule drops set to zero.

        Args:
            x: Vectors of shape [..., D].

        Returns:
            Tensor of the same shape, in which the dropped entries are zero.
        """
        bound = self._rules.bound[self.counter]
        if bound is None or is_tracing():
            return x
        context = self._tracker.thread_context()
        is_outside = context is None
        if context is None:
            context = self._tracker.describe_call_outside(self._module)
        if self._rules.wrapped is not None:
            y, kept = self._rules.wrapped(self.counter, x, context or ForwardContext())
        elif (
            not torch.compiler.is_dynamo_compiling()
            and context is not None
            and context.can_bypass_dispatcher
            and not x.requires_grad
        ):
            y, kept = bound.call_backend(x, self._counters.buffers.take(x))
        else:
            y, kept = bound(x)
            if x.requires_grad and is_in_backward():
                return y  # gradient checkpointing inside a forward that runs a backward pass
        usage = None
        if self._counters.usage is not None:
            usage = self._counters.usage.observe(x, y, kept)
        if is_outside:
            if context is not None:
                call = RuleCall((self.counter,), kept, x.shape[:-1], is_kept=usage)
                self._counters.record_outside(context, call)
            return y
        tokens = None if self._expert_tokens is None else self._expert_tokens.tokens.get(self._module)
        self._counters.record(self.counter, kept, x.shape[:-1], tokens, usage)
        return y


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
        y, kept = bound(x)
        usage = None
        if self._counters.usage is not None:
            usage = self._counters.usage.observe(x, y, kept)
        if self._reads_tokens:
            kept = kept[routing.token]
            if usage is not None:
                usage = usage[routing.token]
        tokens = torch.Size([routing.tokens])
        call = RuleCall(self._expert_counters, kept, tokens, routing=_detach(routing), is_kept=usage)
        context = self._tracker.thread_context()
        if context is not None:
            if not (x.requires_grad and is_in_backward()):
                self._counters.pending.current.append(call)
            return y
        context = self._tracker.describe_call_outside(self._counters.keys[self._expert_counters[0]].module)
        if context is not None:
            self._counters.record_outside(context, call)
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
        key = (counter, current_thread())
        previous = results.pop(key, None)
        if previous is not None and previous[0] is x:
            return previous[1]
        y = applier(x)
        results[key] = (x, y)
        return y

    return apply


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
