"""Forward passes of a causal model that predict the next token at every position, and the probabilities of tokens."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from sparsedial.errors import NonFiniteOutputError
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.inference.dense_reference import (
    DenseReference,
    LogitSummary,
    find_reference,
    gather_logits,
    keep_reference,
    reference_key,
    summarize_logits,
)
from sparsedial.inference.nonfinite_outputs import describe_nonfinite_logits, predict_tokens
from sparsedial.inference.output_stage import last_hidden_state, match_output_stage, record_base_models
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.models.loading import LanguageModel

MAX_DEVICE_BYTES = 1 << 28
"""Memory of the last hidden states of a set of sequences that stay on the device of the model."""


def predict_next_tokens(model: Any, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of all positions and the most probable token of each.

    Args:
        model: Causal language model.
        inputs: Token IDs without padding, int64 of shape [rows, tokens], on the device of the model.

    Returns:
        The logits, shape [rows, tokens, vocabulary], and the token IDs, int64 of shape [rows, tokens].

    Raises:
        NonFiniteOutputError: The logits are NaN or infinite. The message names the first module whose output is not
            finite.
    """
    logits = model(input_ids=inputs, use_cache=False).logits
    predicted_tokens, is_finite = predict_tokens(logits)
    is_finite_row = is_finite.all(1)
    if not is_finite_row.all():
        row = int(is_finite_row.int().argmin())
        repeat = partial(model, input_ids=inputs[row : row + 1], use_cache=False)
        raise NonFiniteOutputError(describe_nonfinite_logits(model, repeat))
    return logits, predicted_tokens


@torch.inference_mode()
def compute_dense_reference(
    lm: LanguageModel,
    inputs: torch.Tensor,
    batch: int,
    progress: Progress = ignore_progress,
    targets: torch.Tensor | None = None,
) -> DenseReference:
    """Run the dense model and keep the result for `find_dense_reference`. Attached sparsifiers have no effect.

    Args:
        lm: Causal language model.
        inputs: Token IDs without padding, int64 of shape [sequences, tokens], on the CPU.
        batch: Sequences per forward pass.
        progress: Called with the sequences done and in total.
        targets: Tokens whose negative log-likelihoods are summed, int64 of shape [sequences, tokens], on the CPU.
            Defaults to None.

    Returns:
        The reference.

    Raises:
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    with pause_sparsifiers():
        key, reference = _run_dense_model(lm, inputs, batch, progress, targets)
    keep_reference(lm.model, key, reference)
    return reference


def find_dense_reference(lm: LanguageModel, inputs: torch.Tensor, batch: int) -> DenseReference:
    """Return the reference that `compute_dense_reference` kept in this process. Compute it if there is none.

    Args:
        lm: Causal language model.
        inputs: Token IDs without padding, int64 of shape [sequences, tokens], on the CPU.
        batch: Sequences per forward pass.

    Returns:
        The reference.

    Raises:
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    reference = find_reference(lm.model, _key(lm, inputs, batch))
    if reference is None:
        return compute_dense_reference(lm, inputs, batch)
    return reference


def _key(lm: LanguageModel, inputs: torch.Tensor, batch: int) -> str:
    return reference_key(lm.model, f"next tokens {batch}", inputs)


def _run_dense_model(
    lm: LanguageModel, inputs: torch.Tensor, batch: int, progress: Progress, targets: torch.Tensor | None
) -> tuple[str, DenseReference]:
    """Return the key of a reference, and the reference."""
    key = ""
    stage = None
    if targets is not None:
        targets = targets.to(lm.device)
    summaries: list[LogitSummary] = []
    hidden: list[torch.Tensor] = []
    nll_parts: list[torch.Tensor] = []
    completed = 0
    with record_base_models(lm.model) as outputs:
        for rows in inputs.to(lm.device).split(batch):  # copied once, because every copy waits for the device
            logits, predicted_tokens = predict_next_tokens(lm.model, rows)
            wanted = None
            if targets is not None:
                wanted = targets[completed : completed + len(rows)].flatten().to(logits.device)
            summary = summarize_logits(logits.flatten(0, 1), predicted_tokens.flatten(), targets=wanted)
            summaries.append(summary)
            if summary.nll is not None:
                nll_parts.append(summary.nll.unflatten(0, rows.shape).double().sum(1))
            if not completed:  # while a GPU is still busy with the summary
                key = _key(lm, inputs, batch)
                stage = match_output_stage(lm.model, outputs, logits)
            if stage is not None:
                states = last_hidden_state(outputs[stage.base][0])
                keeps_on_device = states[0].nbytes * len(inputs) <= MAX_DEVICE_BYTES
                hidden.append(states if keeps_on_device else states.cpu())
            for base_outputs in outputs.values():
                base_outputs.clear()
            completed += len(rows)
            progress(completed, len(inputs))
    top_tokens = _start_copy(torch.cat([summary.top_tokens for summary in summaries]))
    top_probabilities = _start_copy(torch.cat([summary.top_probabilities for summary in summaries]))
    nll = _start_copy(torch.cat(nll_parts)) if nll_parts else None
    hidden_states = torch.cat(hidden) if hidden else None
    normalizers = torch.cat([summary.normalizers for summary in summaries]).cpu()  # waits for the copies above as well
    return key, DenseReference(
        partial(_repeat_sequences, inputs, batch),
        top_tokens.unflatten(0, inputs.shape),
        top_probabilities.unflatten(0, inputs.shape),
        normalizers.unflatten(0, inputs.shape),
        hidden_states,
        stage,
        nll=nll,
    )


def _start_copy(values: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU, whose numbers are valid after the next copy that waits for the device."""
    return values.to("cpu", non_blocking=True)


def _repeat_sequences(
    inputs: torch.Tensor, batch: int, lm: LanguageModel, tokens: torch.Tensor, selected: torch.Tensor
) -> torch.Tensor:
    """Return the logits of the tokens at the selected positions. See `DenseReference.repeat`."""
    chunks = []
    for rows, wanted, is_selected in zip(inputs.split(batch), tokens.split(batch), selected.split(batch), strict=True):
        if is_selected.any():
            with pause_sparsifiers():
                logits, _ = predict_next_tokens(lm.model, rows.to(lm.device))
            chunks.append(gather_logits(logits, wanted)[is_selected])
    return torch.cat(chunks)
