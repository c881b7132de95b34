"""Coordination of the actions at the start and at the end of a model's forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.counters import SparsityCounters
from sparsedial.hooks.decode_fast_path import (
    CommittedCounts,
    DecodeFastPath,
    is_fast_decode_enabled,
    make_decode_function,
)
from sparsedial.hooks.forward_context import ForwardContext
from sparsedial.hooks.forward_tracker import ForwardTracker
from sparsedial.hooks.input_patch import Apply
from sparsedial.hooks.rule_applier import (
    RuleApplier,
    RuleWrapper,
    SharedResults,
    StackedRuleApplier,
    WrappableRule,
    share_result,
)
from sparsedial.moe.listed_expert_tokens import ExpertTokenTracker
from sparsedial.rules import Rule
from sparsedial.tracing_state import is_tracing


class ForwardCoordinator:
    """Coordinator of the parts of a sparsifier that run during a forward pass.

    The parts are independent of each other. `begin_forward` and `end_forward` call them in the required order.

    Args:
        rule: Rule to apply.
        keys: Description of each counter.

    Attributes:
        rule: The rule with its wrappers.
        tracker: Tracker of the forward pass.
        counters: Counters of dropped entries.
        fast_path: Fast path for decoding one token on the CPU.
        expert_tokens: Tracker of the tokens that the experts in module lists read.
    """

    def __init__(self, rule: Rule, keys: Sequence[CounterKey]) -> None:
        self.rule = WrappableRule(rule)
        self.tracker = ForwardTracker()
        self.counters = SparsityCounters(keys)
        self.fast_path = DecodeFastPath(self.rule, [key.width for key in keys])
        self.expert_tokens = ExpertTokenTracker()
        self._shared_results: SharedResults = {}

    def wrap(self, wrapper: RuleWrapper) -> None:
        """Put a function around the rule: see `Sparsifier.wrap`.

        Args:
            wrapper: Function of counter, x, context and the next inner function.
        """
        self.rule.wrap(wrapper)
        self.fast_path.is_open = False

    def make_applier(self, counter: int, shared: bool = False) -> Apply:
        """Return the function that applies the rule to the vectors of one counter.

        Args:
            counter: Index of the counter.
            shared: True if two modules read the same x, which must then be counted once. Defaults to False.

        Returns:
            Function that takes x and returns it with the dropped entries set to zero.
        """
        is_listed_expert = self.counters.keys[counter].moe_path is not None
        applier = RuleApplier(
            counter, self.rule, self.tracker, self.counters, self.expert_tokens if is_listed_expert else None
        )
        results = self._shared_results if shared else None
        if is_fast_decode_enabled():
            return make_decode_function(self.fast_path, applier, results)
        if results is not None:
            return share_result(applier, results)
        return applier

    def make_stacked_applier(self, expert_counters: tuple[int, ...], reads_tokens: bool) -> StackedRuleApplier:
        """Return the function that applies the rule to one vector of all stacked experts of a layer.

        Args:
            expert_counters: Index of each expert's counter.
            reads_tokens: True if the vectors are the tokens, False if there is one for each (token, expert) pair.

        Returns:
            Function of the vectors and the routing.
        """
        return StackedRuleApplier(expert_counters, self.rule, self.counters, reads_tokens)

    def attach_to_model(self, model: nn.Module) -> Iterator[RemovableHandle]:
        """Register hooks on the model and on the models inside it, which may be called directly.

        Args:
            model: The model.

        Yields:
            RemovableHandle: Handle that removes a hook.
        """
        models = [module for module in model.modules() if module is model or _is_language_model(module)]
        for index, module in enumerate(models):
            parameters = tuple(signature(module.forward).parameters)
            before = partial(self._before_forward, index, parameters)
            yield module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            yield module.register_forward_hook(self._after_forward, always_call=True)

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

    def detach(self) -> None:
        """Clear the state after the hooks were removed. A forward that has not ended was interrupted and failed."""
        if self.tracker.is_inside_forward:
            self.end_forward(failed=True)
        self.tracker.forget_caches()
        self.flush()
        self.expert_tokens.detach()

    def begin_forward(self, arguments: Mapping[str, Any]) -> None:
        """Start a forward pass.

        Args:
            arguments: Arguments of the model's forward, by name.
        """
        context = self.tracker.begin(arguments)
        self.fast_path.begin_forward(context)
        self.expert_tokens.begin_forward(context.real_tokens)

    def end_forward(self, failed: bool) -> None:
        """End a forward pass: keep its counts, or discard them if it failed.

        Args:
            failed: True if the forward raised an exception or was interrupted.
        """
        context = self.tracker.end()
        if failed:
            self.counters.discard_pending()
            self.fast_path.rollback()
        else:
            self._add_totals(self.fast_path.commit(context))
        self._shared_results.clear()
        self.expert_tokens.end_forward()
        self.counters.end_forward(context)

    def flush(self) -> None:
        """Count the calls made outside of a forward pass and the tokens decoded so far."""
        self._shared_results.clear()
        self.counters.end_forward(self.tracker.context or ForwardContext())
        self._add_totals(self.fast_path.drain())

    def _add_totals(self, decoded: CommittedCounts | None) -> None:
        if decoded is not None:
            self.counters.add_totals(decoded.phase, decoded.step, decoded.totals)

    def _before_forward(
        self, index: int, parameters: tuple[str, ...], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if is_tracing():
            return
        if self.tracker.is_running(index):
            # The forward before this one was interrupted by Ctrl-C, and torch called no hook at its end.
            self.end_forward(failed=True)
        if self.tracker.enter(index):
            arguments = {**dict(zip(parameters, args, strict=False)), **kwargs} if args else kwargs
            self.begin_forward(arguments)

    def _after_forward(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_tracing():
            return
        if self.tracker.leave():
            self.end_forward(failed=output is None)


def _is_language_model(module: nn.Module) -> bool:
    """Return True for a Hugging Face model, which takes the attention mask and the cache."""
    return hasattr(module, "config") and hasattr(module, "get_input_embeddings")
