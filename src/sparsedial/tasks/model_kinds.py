"""The kinds of models that a task works with, checked before its examples are prepared."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from sparsedial.models.kind import MASKED_DIFFUSION
from sparsedial.models.loading import LanguageModel


@runtime_checkable
class KindCheckingTask(Protocol):
    """Interface of tasks that do not work with every kind of model."""

    def check_kind(self, lm: LanguageModel) -> None:
        """Raise the error of `Task.prepare` if the task does not work with models of this kind.

        Args:
            lm: The model, whose weights may be on the device "meta".
        """
        ...


class MaskedDiffusionTask:
    """Base class of tasks for masked diffusion models. It implements `KindCheckingTask`."""

    def check_kind(self, lm: LanguageModel) -> None:
        """Check that a model is a masked diffusion model. A missing mask token is not checked.

        Args:
            lm: The model. A `ModelError` is raised if it is of another kind.
        """
        if lm.kind != MASKED_DIFFUSION:
            lm.require_mask_token()  # raises the error that names both kinds
