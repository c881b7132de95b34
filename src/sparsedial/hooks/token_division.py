"""Division of the real tokens of a forward pass into phases and into the segments of generated texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from sparsedial.errors import AttachError
from sparsedial.hooks.forward_context import ANSWER, GENERATION, PREFILL, THINKING, ForwardContext
from sparsedial.hooks.pending_counts import RuleCall
from sparsedial.hooks.phase_selection import PhaseSelection


@dataclass(frozen=True, eq=False)
class TokenPart:
    """Tokens of a forward pass that belong to one phase and segment.

    Attributes:
        phase: "prefill" or "generation".
        segment: "thinking" or "answer". None if the text is not divided, or the phase is "prefill".
        real: Boolean tensor with one entry per token, False for padding and for the tokens of other parts. None if all
            tokens belong to this part.
    """

    phase: str
    segment: str | None
    real: torch.Tensor | None


def divide_tokens(
    context: ForwardContext, call: RuleCall, real: torch.Tensor | None, phases: PhaseSelection, module: str
) -> list[TokenPart]:
    """Return the parts of the tokens that one call of the rule was made for.

    Args:
        context: Context of the call.
        call: The call.
        real: Boolean tensor with one entry per token, or None if all of them are real.
        phases: Phases in which the rule is applied. There are no parts in other phases.
        module: Name of the FFN, for error messages.

    Returns:
        One part per phase and segment.

    Raises:
        AttachError: The vectors cannot be assigned to the tokens of the phases or segments.
    """
    if context.generation_tokens is None:
        by_phase: dict[str, torch.Tensor | None] = {context.phase: real}
    else:
        generating, real = _align(context.generation_tokens, context, call, real, "phases", module)
        by_phase = {PREFILL: real & ~generating, GENERATION: real & generating}
    parts = []
    for phase, tokens in by_phase.items():
        if phase not in phases.phases:
            continue
        if phase == GENERATION and isinstance(context.thinking, torch.Tensor):
            thinking, tokens = _align(context.thinking, context, call, tokens, "segments", module)
            parts.append(TokenPart(phase, THINKING, tokens & thinking))
            parts.append(TokenPart(phase, ANSWER, tokens & ~thinking))
        else:
            parts.append(TokenPart(phase, context.segment if phase == GENERATION else None, tokens))
    return parts


def unite_parts(parts: Sequence[TokenPart]) -> torch.Tensor | None:
    """Return a boolean tensor that is True for the tokens of any part. None if one part has all tokens.

    Args:
        parts: At least one part.
    """
    united = parts[0].real
    for part in parts[1:]:
        if united is None or part.real is None:
            return None
        united = united | part.real
    return united


def _align(
    flags: torch.Tensor, context: ForwardContext, call: RuleCall, real: torch.Tensor | None, kind: str, module: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flags and the real tokens, one entry per token each, on the device of the counts."""
    if real is None:
        tokens = call.shape.numel()
        if call.token_indices is not None and context.token_shape is not None:
            tokens = prod(context.token_shape)
        real = torch.ones(tokens, dtype=torch.bool, device=call.kept.device)
    real = real.reshape(-1).to(call.kept.device)
    flags = flags.reshape(-1).to(call.kept.device, non_blocking=True)
    if flags.numel() not in (1, real.numel()):
        raise AttachError(
            f"{module}: its {real.numel()} vectors cannot be assigned to the {kind} of {flags.numel()} tokens. State "
            'the phase: sparsifier.observe(phase="prefill") or (phase="generation"), and one entry of thinking= per '
            "token."
        )
    return flags, real
