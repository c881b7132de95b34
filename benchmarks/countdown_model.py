"""A Llama with random weights whose next token is the present one minus one, so that the length of every text is known.

The forward pass does all the work of a Llama. Only the logits are changed: token k is followed by token k - 1. Token 0
is the end token, so a prompt that ends with token k is continued by k tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

END_TOKEN = 0
FIRST_FREE_TOKEN = 512
"""Smallest token ID that is never part of a countdown."""
DIGIT = 128
"""Token IDs are passed through the model's dtype as two digits, because bfloat16 has no larger odd numbers than 255."""
SPIKE = 1e4
"""Logit of the next token, which is larger than that of any other token."""


class _Embedding(nn.Embedding):
    """Embedding that remembers the tokens of the present forward pass."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens = tokens
        return super().forward(tokens)


class _TokensInHiddenStates(nn.Module):
    """Final norm that replaces two entries of each hidden state by the two digits of its token."""

    def __init__(self, norm: nn.Module, embedding: _Embedding) -> None:
        super().__init__()
        self.norm = norm
        self._embedding = [embedding]  # in a list, so that it is no submodule

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tokens = self._embedding[0].tokens.reshape(hidden.shape[:-1])
        digits = torch.stack([tokens // DIGIT, tokens % DIGIT], -1).to(hidden.dtype)
        return torch.cat([digits, self.norm(hidden)[..., 2:]], -1)


class _CountdownHead(nn.Linear):
    """Output layer that adds `SPIKE` to the logit of the token that is one less."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        digits = hidden[..., :2].float().round().long()
        following = (digits[..., 0] * DIGIT + digits[..., 1] - 1).clamp(min=END_TOKEN, max=FIRST_FREE_TOKEN - 1)
        logits = super().forward(hidden)
        spike = torch.full((), SPIKE, dtype=logits.dtype, device=logits.device)
        return logits.scatter(-1, following[..., None], spike.expand(*following.shape, 1))


def make_countdown_model(device: str, dtype: torch.dtype, **config: Any) -> LlamaForCausalLM:
    """Return a model with random weights that counts down.

    Args:
        device: Device.
        dtype: Data type of the weights. Token IDs of a countdown stay below `FIRST_FREE_TOKEN`.
        **config: Arguments of `LlamaConfig`, with a vocabulary of more than `FIRST_FREE_TOKEN` tokens.
    """
    torch.manual_seed(0)
    llama_config = LlamaConfig(
        **config, bos_token_id=None, eos_token_id=END_TOKEN, pad_token_id=END_TOKEN, tie_word_embeddings=False
    )
    with torch.device(device):
        model = LlamaForCausalLM(llama_config).to(dtype).eval()
        embedding = _Embedding(llama_config.vocab_size, llama_config.hidden_size, dtype=dtype)
        head = _CountdownHead(llama_config.hidden_size, llama_config.vocab_size, bias=False, dtype=dtype)
    embedding.weight = model.model.embed_tokens.weight
    head.weight = embedding.weight  # tied, as in small models
    model.model.embed_tokens = embedding
    model.lm_head = head
    model.model.norm = _TokensInHiddenStates(model.model.norm, embedding)
    model.generation_config.eos_token_id = END_TOKEN
    model.generation_config.pad_token_id = END_TOKEN
    return model.requires_grad_(False)


class NumberTokenizer:
    """Tokenizer of the countdown model: the text of a token is its number and a space."""

    pad_token_id = END_TOKEN
    eos_token_id = END_TOKEN

    def encode(self, text: str, **_: Any) -> list[int]:
        """Return the numbers in a text.

        Args:
            text: Numbers with spaces between them.
        """
        return [int(word) for word in text.split()]

    def decode(self, tokens: Any, **_: Any) -> str:
        """Return the numbers of the tokens, each with a space after it.

        Args:
            tokens: Token IDs.
        """
        return "".join(f"{int(token)} " for token in tokens)

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        """Return the text of each row.

        Args:
            rows: Token IDs of each row.
        """
        return [self.decode(row) for row in rows]
