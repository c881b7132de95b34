"""Self-prediction: the probability that a sparse model predicts the token that is sampled from the dense model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from sparsedial.cache_arguments import cache_argument, returned_cache
from sparsedial.errors import NonFiniteOutputError, SpecError, TaskError
from sparsedial.hooks.forward_context import PREFILL
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.hooks.vector_reservation import is_sparsified
from sparsedial.inference.batch_size import FittingBatch
from sparsedial.inference.logit_budget import max_logit_rows, vocabulary_size
from sparsedial.inference.model_limits import check_length
from sparsedial.inference.next_token_prediction import (
    compute_dense_reference,
    find_dense_reference,
    predict_next_tokens,
)
from sparsedial.inference.nonfinite_outputs import GenerationCheck, describe_nonfinite_logits
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.inference.sampling import TokenSampler
from sparsedial.inference.seeds import derive_seed
from sparsedial.inference.token_likelihood import sum_nll
from sparsedial.models.kind import BLOCK_DIFFUSION, CAUSAL, MASKED_DIFFUSION, attends_to_later_tokens
from sparsedial.models.loading import LanguageModel
from sparsedial.tasks.agreement_metrics import AGREEMENT, EXPECTED_AGREEMENT, check_metric
from sparsedial.tasks.base import NLL, NLL_TOKENS, Scores, tokens_to_text
from sparsedial.tasks.batch_option import BatchOption
from sparsedial.tasks.diffusion_sampling import find_bos_token
from sparsedial.tasks.example_blocks import EXAMPLES, ExampleBlock, SampledExamples
from sparsedial.tasks.option_parsing import INTERNAL, check_at_least
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.workload import Workload, prefill_workload

VERSION = 5  # incremented when the same settings would give other numbers
MAX_SAMPLED_ROWS = 256
"""Sequences sampled at once, if they fit into memory. A forward pass reads one token of each, so wide batches cost
little.
"""
START_TOKENS = 64
"""Number of start tokens, spread over the vocabulary, for models without a BOS token."""


@dataclass(frozen=True)
class SelfPrediction(BatchOption, SampledExamples):
    """Task that scores a model on sequences sampled from the dense model.

    A masked diffusion model predicts masked tokens (`Restoration`), every other model predicts next tokens
    (`CausalSelfPrediction`). The dense score is below 1 in both cases, so sparse scores are divided by it. The
    fields are the options of the task.

    Attributes:
        sequences: Number of examples.
        length: Number of sampled tokens per example, without the start token.
        seed: Random seed of the sampling.
        batch: Maximum number of sequences per forward pass. Fewer are used if their logits would exceed 1 GiB. None
            means the default of the device.
        metric: ``expected_agreement`` or ``agreement``, see `CausalSelfPrediction` and `Restoration`.
        block: Range of examples to score. None means all. It is no option.
    """

    name: ClassVar[str] = "self_prediction"
    reuse_mask: ClassVar[int] = 1
    phases: ClassVar[tuple[str, ...]] = (PREFILL,)
    gives_likelihoods: ClassVar[bool] = True
    likelihood_kinds: ClassVar[tuple[str, ...]] = (CAUSAL,)

    sequences: int = 64
    length: int = 96
    seed: int = 0
    batch: int | None = None
    metric: str = EXPECTED_AGREEMENT
    block: ExampleBlock | None = field(default=None, metadata=INTERNAL)

    def __post_init__(self) -> None:
        check_at_least(self.name, 1, sequences=self.sequences, length=self.length, batch=self.batch)
        check_metric(self.name, self.metric)
        if not 0 <= self.seed < 2**63:
            raise SpecError(f"{self.name}: seed={self.seed}: expected a number from 0 to 2**63 - 1")

    def identity(self) -> dict[str, Any]:
        """Return the name, the version and the options that change a score."""
        return {
            "task": self.name,
            "version": VERSION,
            "length": self.length,
            "seed": self.seed,
            "metric": self.metric,
            EXAMPLES: self.example_block.to_json(),
        }

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Sample the sequences from the dense model.

        Args:
            lm: Causal or masked diffusion model.
            progress: Called with the sampled tokens done and in total.

        Returns:
            The examples for this kind of model: see `Restoration` and `CausalSelfPrediction`.

        Raises:
            TaskError: The model is neither causal nor a masked diffusion model, or has too few positions.
            ModelError: The model is a masked diffusion model without a mask token.
        """
        return self._task_for_kind(lm).prepare(lm, progress)

    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the score of each sequence.

        Args:
            lm: Model of the kind that the examples were prepared for.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the sequences done and in total.

        Returns:
            Scores with the metric of the options (next tokens) or ``restored`` (masked tokens).
        """
        return self._task_for_kind(lm).score(lm, examples, sparsifier, progress)

    def workload(self, lm: LanguageModel) -> Workload:
        """Return the work of one trial, see `EstimatedTask`.

        Args:
            lm: The model.
        """
        task = self._task_for_kind(lm)
        if isinstance(task, Restoration):
            return task.workload(lm)
        rows = len(self.example_block)
        generated = float(rows * self.length)
        sampling = Workload(rows, 0.0, 0.0, generated, generated, self.length + 1)
        return replace(prefill_workload(rows, self.length), preparation=sampling)

    def check_kind(self, lm: LanguageModel) -> None:
        """Check that a model is no block diffusion model.

        Args:
            lm: The model.

        Raises:
            TaskError: The model is a block diffusion model.
        """
        if lm.kind == BLOCK_DIFFUSION:
            raise TaskError(_describe_other_kind(self.name))

    def _task_for_kind(self, lm: LanguageModel) -> CausalSelfPrediction | Restoration:
        """Return the task that implements self-prediction for this kind of model."""
        if lm.kind == MASKED_DIFFUSION:
            return Restoration(self.sequences, self.length, self.seed, self.batch, metric=self.metric, block=self.block)
        return CausalSelfPrediction(self)


@dataclass(frozen=True)
class CausalSelfPrediction:
    """Self-prediction of models that predict the next token.

    Tokens are sampled at temperature 1 from the whole distribution. Each sequence starts with the BOS token or, if the
    model has none, with one of a fixed set of tokens. Its random numbers depend on the seed and on its index, but not
    on the number of sequences.

    With the metric ``agreement``, the score of a sequence is the share of its sampled tokens that are the arg max of
    the scored model. With ``expected_agreement``, each sampled token is replaced by its distribution: the score is the
    mean probability, under the dense model and after the same tokens, of the scored model's arg max. Both have the same
    expected value. The second one has no noise from the sampled tokens: a position at which the arg max does not change
    contributes the same to the dense and the sparse score, and at any other position the sparse score is not higher.

    Attributes:
        options: Options of the task.
    """

    options: SelfPrediction

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """Sample the sequences.

        Args:
            lm: Causal language model.
            progress: Called with the sampled tokens done and in total.

        Returns:
            ``{"tokens": [[start, t1, ..., tL], ...]}``.

        Raises:
            TaskError: The model is not causal, or has fewer positions than the sequences have tokens, or no embedding
                of the BOS token.
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        self._check_model(lm)
        batch = FittingBatch(min(MAX_SAMPLED_ROWS, len(self.options.example_block)))
        return {"tokens": batch.run(partial(self._sample_all, lm, progress))}

    @torch.inference_mode()
    def _sample_all(self, lm: LanguageModel, progress: Progress, batch: int) -> list[list[int]]:
        """Sample all sequences, at most ``batch`` at once."""
        length = self.options.length
        block = self.options.example_block
        total = len(block) * length
        seeds = [derive_seed(self.options.seed, index) for index in range(block.first, block.end)]
        rows: list[list[int]] = []

        def report(sampled: int) -> None:
            progress(len(rows) * length + sampled, total)

        for starts in _start_tokens(lm, block).split(batch):
            sampler = TokenSampler(seeds[len(rows) : len(rows) + len(starts)])
            rows += _sample(lm, starts, length, sampler, report)
        return rows

    @torch.inference_mode()
    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Return the score of each sequence.

        Args:
            lm: Causal language model.
            examples: Examples from `prepare`.
            sparsifier: Sparsifier attached to the model, or None.
            progress: Called with the sequences done and in total.

        Returns:
            Scores with the metric of the options.

        Raises:
            NonFiniteOutputError: The model's logits are NaN or infinite.
        """
        tokens = torch.tensor(examples["tokens"])
        inputs = tokens[:, :-1].contiguous()
        batch = max_logit_rows(lm.model, tokens.shape[1], self.options.batch_rows(lm))
        metric = self.options.metric
        if metric == EXPECTED_AGREEMENT and sparsifier is None and not is_sparsified(lm.model):
            reference = compute_dense_reference(lm, inputs, batch, progress, tokens[:, 1:])
            predicted_tokens = reference.top_tokens[..., 0]
            assert reference.nll is not None
            nll = reference.nll
            scores = reference.best_probabilities
        else:
            with RunContext(sparsifier).observe(phase="prefill"):
                predicted_tokens, nll = _predict_all(lm, tokens, batch, progress)
            if metric == AGREEMENT:
                scores = predicted_tokens == tokens[:, 1:]
            else:
                scores = find_dense_reference(lm, inputs, batch).find_probabilities(lm, predicted_tokens)
        values: np.ndarray = scores.double().mean(1).numpy()
        predictions = tokens_to_text(predicted_tokens.tolist())
        columns = {NLL: nll.numpy(), NLL_TOKENS: np.full(len(tokens), float(inputs.shape[1]))}
        return Scores(metric, values, higher_is_better=True, predictions=predictions, columns=columns)

    def _check_model(self, lm: LanguageModel) -> None:
        name = self.options.name
        length = self.options.length
        check_length(lm, length, f"{name}: length {length}", "use a smaller length")
        if lm.kind == BLOCK_DIFFUSION or attends_to_later_tokens(lm.model):
            raise TaskError(_describe_other_kind(name))


def _describe_other_kind(task_name: str) -> str:
    return (
        f"{task_name}: the model is not causal: later tokens change its predictions of earlier ones. "
        "Use a causal or a masked diffusion model."
    )


def _sample(
    lm: LanguageModel,
    starts: torch.Tensor,
    length: int,
    sampler: TokenSampler,
    report: Callable[[int], None],
) -> list[list[int]]:
    """Sample one sequence after each start token.

    Args:
        lm: Causal language model.
        starts: Start tokens, shape [rows].
        length: Tokens to sample per sequence.
        sampler: Sampler with one seed per row.
        report: Called with the number of tokens sampled so far.

    Returns:
        The token ids of each sequence, including its start token.

    Raises:
        NonFiniteOutputError: The model's logits are NaN or infinite.
    """
    tokens = [starts]
    check = GenerationCheck()
    cache = None
    argument = cache_argument(lm.model.forward)
    inputs = starts[:, None]
    for step in range(length):
        arguments: dict[str, Any] = {} if cache is None else {argument: cache}
        output = lm.model(input_ids=inputs.to(lm.device), **arguments)
        cache = returned_cache(output)
        logits = check(inputs, output.logits[:, -1])
        inputs = sampler.draw(logits)[:, None]
        tokens.append(inputs[:, 0].cpu())
        if cache is None:  # without a cache, the next forward pass has to read all tokens
            inputs = torch.stack(tokens, 1)
        report(len(starts) * (step + 1))
    sequences = torch.stack(tokens, 1)
    is_finite = check.is_finite().all(0)
    if not is_finite.all():
        broken = sequences[~is_finite][:1, :-1].to(lm.device)
        repeat = partial(lm.model, input_ids=broken, use_cache=False)
        raise NonFiniteOutputError(describe_nonfinite_logits(lm.model, repeat))
    rows: list[list[int]] = sequences.tolist()
    return rows


def _predict_all(
    lm: LanguageModel, tokens: torch.Tensor, batch: int, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Predict every token of the sequences but the first one.

    Args:
        lm: Causal language model.
        tokens: The sequences, int64 of shape [sequences, 1 + tokens], on the CPU.
        batch: Sequences per forward pass.
        progress: Called with the sequences done and in total.

    Returns:
        The model's arg max at every position, int64 of shape [sequences, tokens], and the sum of the negative
        log-likelihoods of the tokens of each sequence, float64 of shape [sequences]. Both are on the CPU.
    """
    predicted_tokens: list[torch.Tensor] = []
    nll: list[torch.Tensor] = []
    completed = 0
    for rows in tokens.split(batch):
        logits, predictions = predict_next_tokens(lm.model, rows[:, :-1].contiguous().to(lm.device))
        predicted_tokens.append(predictions.cpu())
        nll.append(sum_nll(logits, rows[:, 1:]))
        completed += len(rows)
        progress(completed, len(tokens))
    return torch.cat(predicted_tokens), torch.cat(nll)


def _start_tokens(lm: LanguageModel, block: ExampleBlock) -> torch.Tensor:
    """Return the start token of every sequence, shape [sequences]: the BOS token, or a fixed set of tokens in turn."""
    bos = find_bos_token(lm)
    if bos is not None:
        return torch.full((len(block),), bos)
    special = set(getattr(lm.tokenizer, "all_special_ids", None) or [])
    candidates = torch.linspace(0, vocabulary_size(lm.model) - 1, START_TOKENS + len(special)).long().tolist()
    usable = [token for token in dict.fromkeys(candidates) if token not in special][:START_TOKENS]
    return torch.tensor([usable[index % len(usable)] for index in range(block.first, block.end)])
