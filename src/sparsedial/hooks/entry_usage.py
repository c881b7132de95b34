"""How often each entry of a vector was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.kernels.gradient import find_kept_entries
from sparsedial.rules import Rule


@dataclass(frozen=True, eq=False)
class VectorUsage:
    """Number of tokens for which each entry of one vector of one FFN was kept.

    Attributes:
        layer: Index of the layer.
        module: Name of the FFN.
        vector: "input", "up", "gate" or "intermediate".
        expert: Index of the expert in its mixture-of-experts layer, or None.
        rule: Rule that was applied.
        tokens: Number of real tokens. For an expert, those routed to it.
        kept: Number of these tokens for which each entry was kept, int64 of shape [width], on the CPU.
    """

    layer: int
    module: str
    vector: str
    expert: int | None
    rule: Rule
    tokens: int
    kept: torch.Tensor

    @property
    def share(self) -> torch.Tensor:
        """Share of the tokens for which each entry was kept, float64 of shape [width]. NaN if there was no token."""
        return self.kept.double() / self.tokens

    def __repr__(self) -> str:
        return f"VectorUsage({self.module!r}, {self.vector}, {self.rule!r}, tokens={self.tokens})"


class EntryUsage:
    """Counters of kept entries, one per entry of each vector, on the device of the vector.

    Args:
        keys: Description of each counter.
    """

    def __init__(self, keys: Sequence[CounterKey]) -> None:
        self._keys = keys
        # One row per entry; the last one counts the tokens. int64 of shape [width + 1], by counter, rules and device.
        self._sums: dict[tuple[int, int, torch.device], torch.Tensor] = {}

    def observe(self, x: torch.Tensor, y: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Return which entries of the vectors of one call were kept.

        Args:
            x: Vectors, shape [..., D].
            y: The vectors with the dropped entries set to zero, shape [..., D].
            kept: Number of entries kept in each vector, in the order of the vectors.

        Returns:
            Boolean tensor of shape [vectors, D].
        """
        width = x.shape[-1]
        x = x.detach().reshape(-1, width)
        return find_kept_entries(x, y.detach().reshape(-1, width), kept.reshape(-1))

    def prepare(self, rules: int, devices: Sequence[torch.device]) -> None:
        """Allocate the counters, because compiled code cannot allocate memory that is kept.

        Args:
            rules: Index of the present assignment of rules.
            devices: Devices on which the rule is applied.
        """
        for device in devices:
            for counter in range(len(self._keys)):
                self._get_sums(counter, rules, device)

    def add(self, call: RuleCall, is_counted: torch.Tensor | None, rules: int) -> None:
        """Count the entries of one call.

        Args:
            call: The call.
            is_counted: Boolean tensor with one entry per vector, False for padding. None if no vector is padding.
            rules: Index of the present assignment of rules.
        """
        if call.is_kept is None:
            return
        counted = call.kept.reshape(-1) >= 0
        if is_counted is not None:
            counted = counted & is_counted
        rows = torch.cat([call.is_kept & counted[:, None], counted[:, None]], 1)
        if call.routing is None:
            self._get_sums(call.counters[0], rules, rows.device).add_(rows.sum(0))
            return
        width = rows.shape[-1]
        by_expert = rows.new_zeros(len(call.counters), width, dtype=torch.int64)
        by_expert.index_add_(0, call.routing.expert, rows.long())
        for counter, sums in zip(call.counters, by_expert, strict=True):
            self._get_sums(counter, rules, rows.device).add_(sums)

    def reset(self) -> None:
        """Set all counters to zero."""
        for sums in self._sums.values():
            sums.zero_()

    def list_usage(self, assignments: Sequence[Sequence[Rule | None]]) -> list[VectorUsage]:
        """Return the usage of each vector and rule.

        Args:
            assignments: Rule of each counter, by index of the assignment.

        Returns:
            One record per vector and rule, in the order of the counters.
        """
        totals: dict[tuple[int, Rule], torch.Tensor] = {}
        for (counter, index, _), sums in self._sums.items():
            rule = assignments[index][counter]
            if rule is not None:
                totals[counter, rule] = totals.get((counter, rule), 0) + sums.cpu()
        usages = []
        for (counter, rule), total in sorted(totals.items(), key=lambda item: item[0][0]):
            key = self._keys[counter]
            tokens = int(total[-1])
            if tokens or key.expert is not None:
                usages.append(
                    VectorUsage(key.layer, key.module, key.vector, key.expert, rule, tokens, total[:-1].clone())
                )
        return usages

    def _get_sums(self, counter: int, rules: int, device: torch.device) -> torch.Tensor:
        key = (counter, rules, device)
        if key not in self._sums:
            with torch.inference_mode(False):  # so that they can also be changed outside of inference mode
                self._sums[key] = torch.zeros(self._keys[counter].width + 1, dtype=torch.int64, device=device)
        return self._sums[key]
