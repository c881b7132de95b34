"""Probabilities that the dense model assigns to tokens which a sparse model predicts in the same contexts.

The dense model is run once. For each position, its most probable tokens are kept with their probabilities, which
answers nearly all look-ups. The last hidden states are kept as well, from which the probability of any other token is
computed without running the layers again. Logits are never kept.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from sparsedial.inference.logit_budget import LOGITS_PER_CHUNK, vocabulary_size
from sparsedial.inference.output_stage import OutputStage
from sparsedial.inference.token_likelihood import iterate_log_probabilities, positions_in_cache
from sparsedial.models.loading import LanguageModel

TOP_TOKENS = 32
"""Tokens whose probabilities are kept for each position."""
COLUMNS_PER_GROUP = 64
"""Columns of which `find_largest` compares only the maximum at first."""
MAX_REFERENCE_BYTES = 1 << 30
"""Memory of the references that are kept for one model. The oldest ones are dropped, but never the latest one."""
MAX_SUBSET = 0.25
"""Largest share of the vocabulary for which only the logits of the required tokens are computed."""

# The references of each model that is in memory, by a digest of the sequences and the weights.
_references: WeakKeyDictionary[Any, OrderedDict[str, DenseReference]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class DenseReference:
    """Predictions of the dense model at every position of a set of sequences.

    All tensors but `hidden` are on the CPU.

    Attributes:
        repeat: Function that runs the model again, for a model without a stage. Its arguments are the model, one token
            per position and a boolean mask of positions, both of shape [sequences, tokens]. It returns the logits of
            the tokens at the masked positions, divided by the temperature.
        top_tokens: The arg max of each position, followed by its `TOP_TOKENS` most probable tokens, int32 of shape
            [sequences, tokens, 1 + TOP_TOKENS].
        top_probabilities: Their probabilities, float32 of the same shape.
        normalizers: Logarithm of the sum of the exponentials of the logits, float32 of shape [sequences, tokens].
        hidden: Last hidden states, shape [sequences, tokens, D], in the dtype of the model, on its device if they are
            small. None without a stage.
        stage: The part of the model that turns hidden states into logits, or None if it cannot be evaluated alone.
        temperature: Divisor of the logits. Defaults to 1.
        nll: Sum of the negative log-likelihoods of the target tokens of each sequence, float64 of shape [sequences].
            None if no targets were given.
    """

    repeat: Callable[[LanguageModel, torch.Tensor, torch.Tensor], torch.Tensor]
    top_tokens: torch.Tensor
    top_probabilities: torch.Tensor
    normalizers: torch.Tensor
    hidden: torch.Tensor | None = None
    stage: OutputStage | None = None
    temperature: float = 1.0
    nll: torch.Tensor | None = None

    @property
    def best_probabilities(self) -> torch.Tensor:
        """Probability of the dense arg max at each position, float32 of shape [sequences, tokens]."""
        return self.top_probabilities[..., 0]

    @property
    def size_in_bytes(self) -> int:
        """Memory of the tensors."""
        tensors = [self.top_tokens, self.top_probabilities, self.normalizers]
        if self.hidden is not None:
            tensors.append(self.hidden)
        return sum(tensor.nbytes for tensor in tensors)

    @torch.inference_mode()
    def find_probabilities(self, lm: LanguageModel, predicted_tokens: torch.Tensor) -> torch.Tensor:
        """Return the probability that the dense model assigns to one token per position.

        It is never higher than that of the dense arg max, and exactly that one for the dense arg max itself. Attached
        sparsifiers do not change the result, and they count nothing.

        Args:
            lm: The model of this reference.
            predicted_tokens: Token IDs, int64 of shape [sequences, tokens], on the CPU.

        Returns:
            Probabilities, float32 of shape [sequences, tokens].
        """
        matches = self.top_tokens == predicted_tokens[..., None]
        first_match = matches.int().argmax(-1, keepdim=True)
        probabilities = self.top_probabilities.gather(-1, first_match)[..., 0]
        is_missing = ~matches.any(-1)
        if is_missing.any():
            if self.stage is None:
                logits = self.repeat(lm, predicted_tokens, is_missing)
            else:
                logits = self._evaluate_stage(lm, predicted_tokens, is_missing)
            others = (logits - self.normalizers[is_missing]).exp()
            probabilities[is_missing] = torch.minimum(others, self.top_probabilities[..., -1][is_missing])
        return probabilities

    def _evaluate_stage(self, lm: LanguageModel, tokens: torch.Tensor, selected: torch.Tensor) -> torch.Tensor:
        """Return what `repeat` returns, but computed from the hidden states."""
        assert self.stage is not None and self.hidden is not None
        wanted = tokens[selected]
        vocabulary = vocabulary_size(lm.model)
        distinct, columns = wanted.unique(return_inverse=True)
        if not self.stage.is_divisible or len(distinct) > MAX_SUBSET * vocabulary:
            distinct = None
            columns = wanted
        positions_per_chunk = max(1, LOGITS_PER_CHUNK // vocabulary)
        chunks = []
        states = self.hidden[selected.to(self.hidden.device)]
        for hidden, chunk_columns in zip(
            states.split(positions_per_chunk), columns.split(positions_per_chunk), strict=True
        ):
            logits = self.stage.logits(lm.model, hidden, distinct)
            chunks.append(gather_logits(logits, chunk_columns))
        return torch.cat(chunks) / self.temperature


@dataclass(frozen=True, eq=False)
class LogitSummary:
    """Contains what a `DenseReference` keeps of some positions. All tensors are on the device of the logits.

    Attributes:
        top_tokens: See `DenseReference`, shape [positions, 1 + `TOP_TOKENS`].
        top_probabilities: See `DenseReference`, in the same shape.
        normalizers: See `DenseReference`, shape [positions].
        nll: Negative log-likelihoods of the target tokens, float32 of shape [positions]. None without targets.
    """

    top_tokens: torch.Tensor
    top_probabilities: torch.Tensor
    normalizers: torch.Tensor
    nll: torch.Tensor | None = None


def summarize_logits(
    logits: torch.Tensor,
    predicted_tokens: torch.Tensor,
    temperature: float = 1.0,
    targets: torch.Tensor | None = None,
) -> LogitSummary:
    """Return what a `DenseReference` keeps of the logits of some positions.

    Args:
        logits: Logits, shape [positions, vocabulary].
        predicted_tokens: Their arg max, int64 of shape [positions].
        temperature: Divisor of the logits. Defaults to 1.
        targets: Tokens whose negative log-likelihoods are returned, int64 of shape [positions]. Defaults to None.
    """
    count = min(TOP_TOKENS, logits.shape[-1])
    # On a GPU, all positions at once take the fewest kernels. On a CPU, a few positions stay in the cache.
    step = len(logits)
    if logits.device.type == "cpu":
        step = positions_in_cache(logits.shape[-1])
    largest = [find_largest(chunk, count) for chunk in logits.split(step)]
    # The arg max comes first, because `find_largest` may choose another one of several equal logits.
    top_tokens = torch.cat([predicted_tokens[:, None], torch.cat(largest)], dim=-1)
    wanted = top_tokens if targets is None else torch.cat([top_tokens, targets[:, None]], dim=-1)
    parts = []
    for positions, log_probabilities in iterate_log_probabilities(logits, temperature):
        parts.append(log_probabilities.gather(-1, wanted[positions]))
    wanted_log_probabilities = torch.cat(parts)
    top_log_probabilities = wanted_log_probabilities[:, : top_tokens.shape[-1]]
    best_logits = logits.gather(-1, top_tokens[:, :1])[:, 0].float() / temperature
    return LogitSummary(
        top_tokens.int(),
        top_log_probabilities.exp(),
        best_logits - top_log_probabilities[:, 0],
        None if targets is None else -wanted_log_probabilities[:, -1],
    )


def find_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the columns of the largest values of each row, faster than `torch.topk` if there are many columns.

    The largest values lie in the groups of columns with the largest maxima, so only these groups are searched.

    Args:
        values: Numbers that are not NaN, shape [rows, columns].
        count: Number of values.

    Returns:
        Columns in descending order of their values, int64 of shape [rows, count]. Among equal values, any are chosen.

    >>> find_largest(torch.tensor([[0.5, 2.0, 1.0], [4.0, 3.0, 5.0]]), 2)
    tensor([[1, 2],
            [2, 0]])
    """
    columns = values.shape[-1]
    groups = columns // COLUMNS_PER_GROUP
    if groups <= 2 * count:
        return values.topk(count).indices
    # The columns of a group are not neighbours: maxima of whole rows of numbers are found faster.
    grouped = values[:, : COLUMNS_PER_GROUP * groups].unflatten(1, (COLUMNS_PER_GROUP, groups))
    best_groups = grouped.amax(1).topk(count).indices
    offsets = torch.arange(0, COLUMNS_PER_GROUP * groups, groups, device=values.device)
    candidates = (best_groups[..., None] + offsets).flatten(1)
    if columns % COLUMNS_PER_GROUP:
        rest = torch.arange(groups * COLUMNS_PER_GROUP, columns, device=values.device).expand(len(values), -1)
        candidates = torch.cat([candidates, rest], dim=-1)
    return candidates.gather(-1, values.gather(-1, candidates).topk(count).indices)


def gather_logits(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logit of one token per position.

    Args:
        logits: Logits, shape [..., vocabulary].
        tokens: Token IDs, int64 of shape [...], on any device.

    Returns:
        The logits, float32 on the CPU, in the shape of ``tokens``.
    """
    return logits.gather(-1, tokens.to(logits.device)[..., None])[..., 0].float().cpu()


def keep_reference(model: Any, key: str, reference: DenseReference) -> None:
    """Keep a reference until the model is deleted, or until newer ones need its memory (`MAX_REFERENCE_BYTES`).

    Args:
        model: The model.
        key: Result of `reference_key`.
        reference: The reference.
    """
    references = _references.setdefault(model, OrderedDict())
    references.pop(key, None)
    references[key] = reference
    while len(references) > 1 and sum(kept.size_in_bytes for kept in references.values()) > MAX_REFERENCE_BYTES:
        references.popitem(last=False)


def find_reference(model: Any, key: str) -> DenseReference | None:
    """Return the reference that `keep_reference` kept in this process, or None.

    Args:
        model: The model.
        key: Result of `reference_key`.
    """
    return _references.get(model, OrderedDict()).get(key)


def reference_key(model: Any, settings: str, *sequences: torch.Tensor) -> str:
    """Return a digest of everything on which a reference depends.

    The state of the weights is the address of each parameter and the number of changes in place that torch has counted.

    Args:
        model: The model.
        settings: Settings of the forward passes.
        *sequences: Tensors on the CPU that describe the sequences.
    """
    digest = hashlib.sha256(settings.encode())
    for tensor in sequences:
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    state = array("q")
    # Unlike `model.parameters()`, this does not look for shared modules and parameters, which takes most of the time.
    modules = [model]
    for module in modules:
        if module._modules:
            modules += [child for child in module._modules.values() if child is not None]
        for parameter in module._parameters.values():
            if parameter is not None:
                state.append(parameter.data_ptr())
                state.append(0 if parameter.is_inference() else parameter._version)
    digest.update(state.tobytes())
    return digest.hexdigest()
