"""The duration of a trial, estimated from its number of tokens and the measured speed of a device."""

from __future__ import annotations

from dataclasses import dataclass

from sparsedial.models.model_outline import ModelOutline
from sparsedial.study.cost.cards import Card
from sparsedial.tasks.workload import Workload


@dataclass(frozen=True)
class SecondsRange:
    """Seconds of one worker, if answers are as short as can be expected and if all of them reach their limit.

    Attributes:
        low: Seconds with the shortest answers.
        high: Seconds with the longest answers.
    """

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: SecondsRange) -> SecondsRange:
        return SecondsRange(self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> SecondsRange:
        return SecondsRange(self.low * factor, self.high * factor)


def estimate_trial(outline: ModelOutline, work: Workload, card: Card, site: str | None) -> SecondsRange:
    """Return the duration of one trial over all examples of a task.

    With N parameters that process each token, M parameters of the output layer and W bytes of weights, it is

        2 (N prefill_tokens + M scored_tokens) / prefill speed + W generated_tokens / rows / decode speed + overhead

    The speeds are those of the card for layers of this size at this site. A forward pass of L layers takes at least
    L times the shortest time of a layer, which is what a small model takes on a GPU.

    Args:
        outline: Shape of the model.
        work: Work of the task.
        card: The device.
        site: Site that is sparsified. None for a dense trial.
    """
    layer_parameters = outline.active_parameters / outline.layers
    has_experts = outline.experts > 1
    flops = 2 * (outline.active_parameters * work.prefill_tokens + outline.output_parameters * work.scored_tokens)
    shortest_pass = outline.layers * card.layer_seconds(has_experts, site)
    rows = max(1, min(card.decode_rows, work.examples))
    passes = max(work.prefill_tokens / max(1, work.longest_row), work.examples) / rows
    prefill = flops / card.prefill_speed(layer_parameters, has_experts, site)
    if work.prefill_tokens:
        prefill = max(prefill, passes * shortest_pass)
    prefill += card.trial_seconds
    step = max(outline.decoded_bytes / card.decode_speed(layer_parameters, has_experts, site), shortest_pass)
    return SecondsRange(
        prefill + step * work.fewest_generated_tokens / rows,
        prefill + step * work.most_generated_tokens / rows,
    )
