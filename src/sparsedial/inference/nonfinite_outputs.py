"""Detection of NaN and Inf in the logits of a model, and the search for the module in which they first appear.

The detection adds no work that waits for the device: the most probable prediction is computed anyway, and its logit is
finite only if no logit at the position is NaN or plus infinity. Only after a detection is one example repeated, with a
hook on every module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsedial.dtype_names import dtype_name
from sparsedial.errors import NonFiniteOutputError


@dataclass(frozen=True)
class NonFiniteOrigin:
    """The first module of a model whose output contains NaN or Inf.

    Attributes:
        module: Path of the module, or the name of its class if it is the whole model.
        module_class: Name of its class.
        dtype: Name of the dtype of its output, such as "float16".
        parameters: Number of NaN and Inf in each of its parameters that has any, by the name of the parameter. Empty
            if the values appear first among the activations.
    """

    module: str
    module_class: str
    dtype: str
    parameters: Mapping[str, int]

    def __str__(self) -> str:
        location = f"They first appear in the output of {self.module} ({self.module_class})"
        if self.parameters:
            counts = ", ".join(f"{name} contains {count} NaN or Inf" for name, count in self.parameters.items())
            return f"{location}: its {counts}. Check the weights: download or convert them again."
        return (
            f"{location}, whose weights are finite: an activation exceeds the range of {self.dtype}. "
            "Use a wider dtype, or check the weights of earlier modules for very large values."
        )


def predict_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the most probable token of each position, and whether its logits are usable.

    Args:
        logits: Logits, shape [..., vocabulary].

    Returns:
        The token IDs, int64, and a boolean mask that is False where a logit is NaN or plus infinity, or where all of
        them are minus infinity. Both have the shape [...].

    >>> predict_tokens(torch.tensor([[0.0, 2.0], [torch.nan, 2.0], [-torch.inf, 1.0]]))
    (tensor([1, 0, 1]), tensor([ True, False,  True]))
    """
    predictions = logits.argmax(-1)  # the arg max of logits that contain NaN is a NaN
    return predictions, logits.gather(-1, predictions[..., None])[..., 0].isfinite()


def mark_nonfinite(normalizers: torch.Tensor) -> torch.Tensor:
    """Replace infinite normalizers by NaN, so that every log-probability that uses one is NaN.

    Without this, a logit of plus infinity would give the other tokens a log-probability of minus infinity.

    Args:
        normalizers: Logarithm of the sum of the exponentials of the logits, any shape.

    Returns:
        A tensor of the same shape.

    >>> mark_nonfinite(torch.tensor([1.0, torch.inf]))
    tensor([1., nan])
    """
    return normalizers.masked_fill(normalizers.isinf(), torch.nan)


class GenerationCheck:
    """Logits processor that records whether the logits of each step of a generation are finite.

    Logits that are not finite are replaced by 0, so that sampling does not raise another error first. The records stay
    on the device, because reading them in every step would wait for it.
    """

    def __init__(self) -> None:
        self._is_finite: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Record one step.

        Args:
            input_ids: Token IDs generated so far. Not used.
            scores: Logits, shape [batch, vocabulary] or [batch, tokens, vocabulary].

        Returns:
            The logits, with zeros in place of those that are not finite.
        """
        is_finite = predict_tokens(scores)[1]
        self._is_finite.append(is_finite)
        return torch.where(is_finite[..., None], scores, 0.0)

    def is_finite(self) -> torch.Tensor:
        """Return the records of all steps, boolean of shape [steps, batch] or [steps, batch, tokens], on the CPU."""
        return torch.stack(self._is_finite).cpu()


def check_finite_scores(model: Any, scores: np.ndarray, repeat: Callable[[int], object]) -> None:
    """Raise an error if a score of a batch is NaN, which marks an example whose logits are not finite.

    Args:
        model: The model that was run.
        scores: Score of each example of the batch, shape [examples].
        repeat: Function that runs the model on the example of the given index alone, so that it has no padding.

    Raises:
        NonFiniteOutputError: A score is NaN. The message names the first module whose output is not finite.
    """
    if np.isnan(scores).any():
        index = int(np.isnan(scores).argmax())
        raise NonFiniteOutputError(describe_nonfinite_logits(model, partial(repeat, index)))


def describe_nonfinite_logits(model: Any, repeat: Callable[[], object]) -> str:
    """Return the error message for logits that contain NaN or Inf, with the module in which they first appear.

    Args:
        model: The model that was run.
        repeat: Function that repeats the forward passes of one example.

    Returns:
        The message, with advice.
    """
    advice: object = find_origin(model, repeat)
    if advice is None:
        advice = "The example alone gives finite values when it is repeated. Use a wider dtype, or check the weights."
    return f"the model's logits are NaN or infinite. {advice}"


def find_origin(model: Any, repeat: Callable[[], object]) -> NonFiniteOrigin | None:
    """Return the first module whose output contains NaN or Inf.

    Args:
        model: The model that was run.
        repeat: Function that repeats the forward passes of one example.

    Returns:
        The module, or None if the outputs of all modules are finite.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> _ = model[1].weight.data[0, 0].fill_(torch.nan)
        >>> origin = find_origin(model, lambda: model(torch.ones(1, 2)))
        >>> origin.module, origin.parameters
        ('1', {'weight': 1})
    """
    origins: list[NonFiniteOrigin] = []
    if isinstance(model, nn.Module):
        with _watch_outputs(model, origins), torch.inference_mode():
            repeat()
    return origins[0] if origins else None


@contextmanager
def _watch_outputs(model: nn.Module, origins: list[NonFiniteOrigin]) -> Iterator[None]:
    """Append the first module whose output is not finite to ``origins``. Hooks of inner modules run first."""

    def check_output(name: str, module: nn.Module, _: Any, output: Any) -> None:
        if origins:
            return
        for tensor in _tensors(output):
            if not tensor.isfinite().all():
                origins.append(_make_origin(name, module, tensor))
                return

    handles = [module.register_forward_hook(partial(check_output, name)) for name, module in model.named_modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in the output of a module."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def _make_origin(name: str, module: nn.Module, output: torch.Tensor) -> NonFiniteOrigin:
    counts = {}
    for parameter_name, parameter in module.named_parameters():
        count = int(parameter.isfinite().logical_not().sum())
        if count:
            counts[parameter_name] = count
    class_name = type(module).__name__
    return NonFiniteOrigin(name or class_name, class_name, dtype_name(output.dtype), counts)
