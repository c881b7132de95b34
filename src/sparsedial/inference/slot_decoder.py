"""Forward passes of a model with a `SlotCache`: prompts of new texts, and one token of each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.cache_arguments import cache_argument
from sparsedial.inference.loglikelihood import only_logits_at
from sparsedial.inference.model_limits import find_padding_token
from sparsedial.inference.run_context import RunContext
from sparsedial.inference.slot_cache import SlotCache

FULL_ATTENTION = "full_attention"
SLIDING_ATTENTION = "sliding_attention"


@dataclass(frozen=True)
class AttentionKinds:
    """Kinds of attention of the layers of a model.

    Attributes:
        names: Distinct kinds of layers: `FULL_ATTENTION` and `SLIDING_ATTENTION`. A model with both kinds takes one
            mask for each.
        window: Number of tokens that a layer with sliding attention attends to. None if there is no such layer.
    """

    names: tuple[str, ...]
    window: int | None

    @classmethod
    def from_config(cls, config: Any) -> AttentionKinds:
        """Return the kinds of attention in the configuration of a text model.

        Args:
            config: Configuration of the text model.
        """
        window = getattr(config, "sliding_window", None)
        layer_types = getattr(config, "layer_types", None)
        if layer_types:
            names = tuple(dict.fromkeys(layer_types))
        else:
            names = (SLIDING_ATTENTION,)
            if window is None:
                names = (FULL_ATTENTION,)
        if SLIDING_ATTENTION not in names:
            window = None
        return cls(names, window)


class SlotDecoder:
    """A model with the cache of its texts.

    Args:
        model: Causal language model.
        slots: Number of texts at the same time.
        columns: Maximum number of tokens of a text.

    Attributes:
        cache: The cache.
        tokens: Next token of each slot, int64 of shape [slots] on the model's device.
        positions: Position of this token in its text, int64 of shape [slots].
        is_active: Boolean tensor of shape [slots] that is True where the slot holds a text that has not ended.
        is_thinking: Boolean tensor of shape [slots] that is True where the next token belongs to the thinking. None if
            texts are not divided.
    """

    def __init__(self, model: Any, slots: int, columns: int) -> None:
        self.model = model
        config = model.config.get_text_config(decoder=True)
        self.cache = SlotCache(config.num_hidden_layers, slots, columns)
        self._cache_argument = {cache_argument(model.forward): self.cache}
        self._attention = AttentionKinds.from_config(config)
        self._padding_token = find_padding_token(model)
        inputs = torch.zeros(2, slots, dtype=torch.int64, device=model.device)
        self.tokens, self.positions = inputs
        self._inputs = inputs
        self.is_active = torch.zeros(slots, dtype=torch.bool, device=model.device)
        self.is_thinking: torch.Tensor | None = None
        self._columns = torch.arange(columns, device=model.device)
        self._blocked = torch.full((), torch.finfo(model.dtype).min, dtype=model.dtype, device=model.device)
        self._allowed = torch.zeros((), dtype=model.dtype, device=model.device)

    def read_prompts(self, prompts: Sequence[Sequence[int]], first_slot: int, run: RunContext) -> torch.Tensor:
        """Read the prompts of new texts.

        Padding on the right needs no mask, because a causal model does not attend to later tokens.

        Args:
            prompts: Token IDs of each prompt.
            first_slot: Slot of the first one.
            run: Settings of the evaluation.

        Returns:
            Logits of the token after each prompt, shape [prompts, vocabulary].
        """
        width = max(map(len, prompts))
        tokens = torch.full((len(prompts), width), self._padding_token, dtype=torch.int64)
        real = torch.zeros(len(prompts), width, dtype=torch.bool)
        ends = torch.empty(len(prompts), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt)
            real[row, : len(prompt)] = True
            ends[row] = row * width + len(prompt) - 1
        device = self.model.device
        tokens = tokens.to(device)
        real = real.to(device)
        ends = ends.to(device)
        self.cache.start_prompts(first_slot, len(prompts), width)
        with run.observe(phase="prefill", real=real), only_logits_at(self.model, ends):
            logits = self.model(input_ids=tokens, use_cache=True, **self._cache_argument).logits
        if logits.shape[0] * logits.shape[1] != len(prompts):  # the output layer could not be restricted
            logits = logits.flatten(0, 1)[ends.to(logits.device)]
        return logits.reshape(len(prompts), -1)

    def set_tokens(self, tokens: Sequence[int], positions: Sequence[int], slots: int) -> None:
        """Set the inputs of the next decoding step.

        Args:
            tokens: Next token of each active text. These texts are in the first slots.
            positions: Position of each token in its text.
            slots: Number of slots that the step computes. Those without an active text process an arbitrary token.
        """
        idle = [0] * (slots - len(tokens))
        inputs = torch.tensor([[*tokens, *idle], [*positions, *idle]])
        self._inputs[:, :slots] = inputs.to(self._inputs.device)
        self.is_active[: len(tokens)] = True
        self.is_active[len(tokens) :] = False

    def set_thinking(self, flags: Sequence[bool | None]) -> None:
        """Set whether the next tokens belong to the thinking.

        Args:
            flags: One entry per active text. None if texts are not divided.
        """
        known = [flag for flag in flags if flag is not None]
        if not known:
            return
        if self.is_thinking is None:
            self.is_thinking = torch.zeros_like(self.is_active)
        self.is_thinking[: len(known)] = torch.tensor(known).to(self.is_thinking.device)

    def thinking_tokens(self, slots: int) -> torch.Tensor | None:
        """Return whether the tokens of the next step belong to the thinking, as `RunContext.observe` takes it.

        Args:
            slots: Number of slots.

        Returns:
            Boolean tensor of shape [slots, 1], which changes with the next step. None if texts are not divided.
        """
        if self.is_thinking is None:
            return None
        return self.is_thinking[:slots, None]

    def decode(self, slots: int, columns: int) -> torch.Tensor:
        """Read the token of each of the first slots.

        Args:
            slots: Number of slots.
            columns: Number of columns to attend to: more than the largest position.

        Returns:
            Logits of the following token, shape [slots, vocabulary].
        """
        positions = self.positions[:slots, None]
        self.cache.start_decoding(slots, columns, self.positions[:slots])
        output = self.model(
            input_ids=self.tokens[:slots, None],
            position_ids=positions,
            attention_mask=self._make_masks(positions, columns),
            use_cache=True,
            **self._cache_argument,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _make_masks(self, positions: torch.Tensor, columns: int) -> torch.Tensor | Mapping[str, torch.Tensor]:
        """Return the mask that is added to the attention scores, shape [slots, 1, 1, columns], or one for each kind."""
        masks = {}
        for name in self._attention.names:
            attends = self._columns[:columns] <= positions
            if name == SLIDING_ATTENTION and self._attention.window is not None:
                attends &= self._columns[:columns] > positions - self._attention.window
            masks[name] = torch.where(attends, self._allowed, self._blocked)[:, None, None]
        if len(masks) == 1:
            return next(iter(masks.values()))
        return masks
