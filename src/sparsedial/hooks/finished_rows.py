"""Rows of a batch whose generation has ended.

`generate` continues a batch until all rows have ended. It fills the rows that have ended with padding and still feeds
them to the model, and its attention mask does not exclude them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sparsedial.hooks.forward_tracker import ForwardTracker

GENERATE = "generate"
STOPPING_CRITERIA = "_get_stopping_criteria"


class GeneratePatch:
    """Patch of a model's `generate` that tells a tracker which rows have ended, until `remove` is called.

    transformers decides with a list of stopping criteria which rows have ended. The patch records its decisions. Beam
    search is not observed, because its rows are not independent of each other.

    Args:
        model: Model that has the method `generate`.
        tracker: Tracker of its forward passes.

    Attributes:
        instance_attributes: The methods that other code, or another patch, had set on the model itself, by their names.
        is_removed: True after `remove` was called.
    """

    def __init__(self, model: nn.Module, tracker: ForwardTracker) -> None:
        self._model = model
        self._tracker = tracker
        self._patches: dict[str, Any] = {
            GENERATE: self._generate,
            STOPPING_CRITERIA: self._get_stopping_criteria,
        }
        self.instance_attributes = {name: vars(model)[name] for name in self._patches if name in vars(model)}
        self.is_removed = False
        self._originals = {name: getattr(model, name) for name in self._patches}
        vars(model).update(self._patches)

    def remove(self) -> None:
        """Restore the model. If a method was replaced again after this patch, it is left as it is."""
        self.is_removed = True
        attributes = vars(self._model)
        for name, patch in self._patches.items():
            if attributes.get(name) != patch:
                continue
            original = self._find_uncovered(name)
            if original is None:
                del attributes[name]
            else:
                attributes[name] = original

    def _find_uncovered(self, name: str) -> Any:
        """Return the method that the model itself had before, without patches that were removed in the meantime."""
        original = self.instance_attributes.get(name)
        patch = getattr(original, "__self__", None)
        while isinstance(patch, GeneratePatch) and patch.is_removed:
            original = patch.instance_attributes.get(name)
            patch = getattr(original, "__self__", None)
        return original

    def __deepcopy__(self, memo: dict[int, Any]) -> GeneratePatch:
        """Return a patch without effect, for a copy of the model."""
        model = memo.get(id(self._model))
        if model is None:
            return self
        patch = object.__new__(GeneratePatch)
        patch._model = model
        patch._tracker = ForwardTracker()
        patch._originals = {name: getattr(type(model), name).__get__(model) for name in self._originals}
        patch._patches = {}
        patch.instance_attributes = {}
        patch.is_removed = True
        return patch

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._originals[GENERATE](*args, **kwargs)
        finally:
            self._tracker.finished_rows.set(None)

    def _get_stopping_criteria(self, *args: Any, **kwargs: Any) -> Any:
        criteria = self._originals[STOPPING_CRITERIA](*args, **kwargs)
        self._tracker.finished_rows.set(None)
        generation_config = kwargs.get("generation_config", args[0] if args else None)
        if getattr(generation_config, "num_beams", 1) not in (None, 1):
            return criteria
        return _observe(criteria, self._tracker)


def can_observe_generation(module: nn.Module) -> bool:
    """Return True if `GeneratePatch` can be applied to a module.

    Args:
        module: The module.
    """
    kind = type(module)
    return callable(getattr(kind, GENERATE, None)) and callable(getattr(kind, STOPPING_CRITERIA, None))


def _observe(criteria: Any, tracker: ForwardTracker) -> Any:
    """Return a list of the same stopping criteria that records which rows have ended."""
    list_type = type(criteria)

    class ObservedCriteria(list_type):  # type: ignore[misc, valid-type]  # the type that transformers uses
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            ended: torch.Tensor = super().__call__(input_ids, scores, **kwargs)
            previous = tracker.finished_rows.get()
            if previous is None or previous.shape != ended.shape:
                tracker.finished_rows.set(ended)
            else:
                tracker.finished_rows.set(previous | ended)
            return ended

    return ObservedCriteria(criteria)
