"""Choice of the next token of several texts from their logits, with the options of the model's own `generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.errors import TaskError
from sparsedial.inference.decoding_method import is_sampling
from sparsedial.inference.nonfinite_outputs import predict_tokens
from sparsedial.inference.sampling import RandomNumbers, draw_tokens

LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

ROW_WISE_PROCESSORS = (
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "LogitNormalization",
    "MinPLogitsWarper",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
)
"""Logits processors of transformers that read only the logits of the row that they change."""
REPETITION_PROCESSOR = "RepetitionPenaltyLogitsProcessor"
LENGTH_CRITERIA = ("MaxLengthCriteria", "EosTokenCriteria")
"""Stopping criteria that `StopDetector` and the limit of a prompt replace."""


@dataclass(frozen=True)
class DecodingSettings:
    """Way in which a model's `generate` chooses tokens with some options.

    Attributes:
        is_sampled: True if tokens are drawn at random.
        processors: Logits processors that read only the logits, in order.
        repetition_penalty: Factor for the logits of tokens that a text contains already. 1 changes nothing.
        unsupported: Names of other logits processors and stopping criteria. If there are any, only `generate` itself
            can be used.
    """

    is_sampled: bool
    processors: tuple[LogitsProcessor, ...] = ()
    repetition_penalty: float = 1.0
    unsupported: tuple[str, ...] = ()

    @property
    def needs_history(self) -> bool:
        """True if the choice of a token depends on the earlier tokens of the text."""
        return self.repetition_penalty != 1.0


def read_decoding_settings(model: Any, options: Mapping[str, Any], prompt: Sequence[int]) -> DecodingSettings:
    """Return what a model's `generate` would do with some options. The model is not run.

    Args:
        model: Causal language model.
        options: Arguments of `generate`.
        prompt: Token IDs of a prompt.

    Returns:
        The settings.

    Raises:
        TaskError: The options ask for beam search or other decoding methods than greedy decoding and sampling, or
            `generate` rejects them, or the model has no generation configuration, or a method `generate` that ignores
            them.
    """
    if model.generation_config is None:
        raise TaskError(
            f"{type(model).__name__} has no generation configuration, which generate needs: set generation_config of "
            "the model, for example to transformers.GenerationConfig.from_model_config(model.config)"
        )
    is_sampled = is_sampling(model.generation_config, options)
    recorded: list[tuple[Any, Any]] = []

    def record_settings(
        model: Any, input_ids: torch.Tensor, logits_processor: Any, stopping_criteria: Any, **_: Any
    ) -> torch.Tensor:
        recorded.append((logits_processor, stopping_criteria))
        return input_ids

    tokens = torch.tensor([list(prompt)], device=model.device)
    try:
        model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=1,
            custom_generate=record_settings,
            **options,
        )
    except (TypeError, ValueError) as error:
        raise TaskError(describe_rejection(options, error)) from error
    if not recorded:
        raise TaskError(
            f"{type(model).__name__} has a method generate of its own that does not take custom_generate, so its texts "
            "cannot be counted token by token: expected the method of transformers. Use a task without generated texts"
        )
    [(processors, criteria)] = recorded
    return _sort_settings(is_sampled, processors, criteria)


def describe_rejection(options: Mapping[str, Any], error: Exception) -> str:
    """Return the error message for options that a model's `generate` rejects.

    Args:
        options: The options.
        error: Error that `generate` raised.
    """
    return f"the model's generate() rejects the options {dict(options)}: {error}"


class TokenChooser:
    """Chooser of the next token of several texts.

    Args:
        settings: How to choose.
    """

    def __init__(self, settings: DecodingSettings) -> None:
        self._settings = settings

    def choose(
        self, logits: torch.Tensor, history: torch.Tensor | None, numbers: Sequence[RandomNumbers]
    ) -> tuple[list[int], list[bool]]:
        """Return the next token of each text, and whether its logits are finite. Waits for the device once.

        Args:
            logits: Logits, shape [texts, vocabulary].
            history: Tokens of each text so far, int64 of shape [texts, tokens]. A shorter text is filled up with any
                of its own tokens. None if the settings do not need it.
            numbers: Random numbers of each text. Not used unless tokens are drawn at random.
        """
        scores = logits.to(torch.float32, copy=True)
        tokens, is_finite = predict_tokens(scores)
        if self._settings.is_sampled or self._settings.processors or history is not None:
            scores = torch.where(is_finite[:, None], scores, 0.0)
            if history is not None:
                scores = _penalize_repetitions(scores, history, self._settings.repetition_penalty)
            for processor in self._settings.processors:
                scores = processor(tokens[:, None], scores)
            if self._settings.is_sampled:
                tokens = draw_tokens(scores, [source.next_number() for source in numbers])
            else:
                tokens = scores.argmax(-1)
        chosen, finite = torch.stack([tokens, is_finite.to(tokens.dtype)]).tolist()
        return chosen, [bool(flag) for flag in finite]


def _sort_settings(is_sampled: bool, processors: Any, criteria: Any) -> DecodingSettings:
    row_wise: list[LogitsProcessor] = []
    penalty = 1.0
    unsupported = []
    for processor in processors:
        name = type(processor).__name__
        if name == REPETITION_PROCESSOR and not row_wise and penalty == 1.0:
            penalty = float(processor.penalty)
        elif name in ROW_WISE_PROCESSORS:
            row_wise.append(processor)
        else:
            unsupported.append(name)
    for criterion in criteria:
        if type(criterion).__name__ not in LENGTH_CRITERIA:
            unsupported.append(type(criterion).__name__)
    return DecodingSettings(is_sampled, tuple(row_wise), penalty, tuple(unsupported))


def _penalize_repetitions(scores: torch.Tensor, history: torch.Tensor, penalty: float) -> torch.Tensor:
    """Divide the positive logits, and multiply the negative ones, of the tokens in a text by the penalty."""
    repeated = scores.gather(1, history)
    repeated = torch.where(repeated < 0, repeated * penalty, repeated / penalty)
    return scores.scatter(1, history, repeated)
