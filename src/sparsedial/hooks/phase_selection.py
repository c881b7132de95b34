"""The phases of a forward pass in which the rule is applied.

A token in another phase is processed by the dense model, and is not counted. The phase of a token is known before the
forward pass starts, with two exceptions: the length of a cache on an accelerator is known only there, and a forward
pass over packed sequences processes tokens of both phases. In these cases the rule is applied to all vectors, and those
of the other phase are put back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sparsedial.errors import AttachError, SpecError
from sparsedial.hooks.forward_context import GENERATION, PHASES, ForwardContext
from sparsedial.suggestions import suggest

PhaseChoice = str | Iterable[str]
"""One phase or several."""

EXPECTED = f"expected one or both of {', '.join(PHASES)}"


@dataclass(frozen=True)
class PhaseSelection:
    """The phases in which the rule is applied.

    Attributes:
        phases: Their names, in the order of `PHASES`. Defaults to all of them.
    """

    phases: tuple[str, ...] = PHASES

    @property
    def is_complete(self) -> bool:
        """True if the rule is applied in all phases."""
        return len(self.phases) == len(PHASES)

    def is_sparse(self, context: ForwardContext) -> bool:
        """Return False if the model has to be dense for all vectors of a forward pass.

        Args:
            context: Context of the vectors.
        """
        return context.generation_tokens is not None or context.phase in self.phases

    def selected_tokens(self, context: ForwardContext) -> torch.Tensor | None:
        """Return which tokens of a forward pass are sparsified.

        Args:
            context: Context for which `is_sparse` is True.

        Returns:
            Boolean tensor in the shape of ``context.generation_tokens``. None if all tokens are sparsified.
        """
        if self.is_complete or context.generation_tokens is None:
            return None
        if GENERATION in self.phases:
            return context.generation_tokens
        return ~context.generation_tokens

    def check_step(self, context: ForwardContext) -> None:
        """Raise an error if a forward pass belongs to no phase.

        Args:
            context: Context of the forward pass.

        Raises:
            SpecError: It is a denoising step, and the rule is not applied in all phases.
        """
        if context.step is not None and not self.is_complete:
            raise SpecError(
                f"phases={self.phases!r}: this forward pass is a denoising step of a diffusion model, which computes "
                "prompt and text together and has no phases. Leave out phases=."
            )


ALL_PHASES = PhaseSelection()


def select_phases(choice: PhaseChoice) -> PhaseSelection:
    """Return the selection of the phases with these names.

    Args:
        choice: One name or several of `PHASES`.

    Returns:
        The selection.

    Raises:
        SpecError: A name is unknown, or there is none.

    Example:
        >>> select_phases("prefill").phases, select_phases(["generation", "prefill"]).is_complete
        (('prefill',), True)
    """
    if not isinstance(choice, str | Iterable):
        raise SpecError(f"phases={choice!r}: {EXPECTED}.")
    names = [choice] if isinstance(choice, str) else list(choice)
    for name in names:
        if name not in PHASES:
            question = suggest(name, PHASES) if isinstance(name, str) else ""
            hint = f" {question.capitalize()}" if question else ""
            raise SpecError(f"phases: unknown phase {name!r}: {EXPECTED}.{hint}")
    if not names:
        raise SpecError(f"phases: no phase is named: {EXPECTED}.")
    return PhaseSelection(tuple(phase for phase in PHASES if phase in names))


def restore_dense_vectors(
    dense: torch.Tensor, sparse: torch.Tensor, selected: torch.Tensor, module: str, tokens: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the sparse vectors of the selected tokens, and the dense ones of all other tokens.

    Args:
        dense: Vectors of shape [..., D].
        sparse: The same vectors after the rule was applied.
        selected: Boolean tensor with one entry per token, or with a single entry for all tokens.
        module: Name of the FFN, for the error message.
        tokens: Index of each vector's token, int64. Defaults to None: the vectors are the tokens, in order.

    Returns:
        Tensor of shape [..., D].

    Raises:
        AttachError: The vectors cannot be assigned to the tokens.
    """
    is_selected = selected.reshape(-1).to(dense.device)
    vectors = dense.shape[:-1]
    if is_selected.numel() != 1:
        if tokens is not None:
            is_selected = is_selected[tokens]
        if is_selected.numel() != vectors.numel():
            raise AttachError(
                f"{module}: its {vectors.numel()} vectors cannot be assigned to the phases of {selected.numel()} "
                "tokens, but the rule is not applied in all phases. State the phase: "
                'sparsifier.observe(phase="prefill") or (phase="generation").'
            )
        is_selected = is_selected.reshape(vectors)[..., None]
    return torch.where(is_selected, sparse, dense)
