"""Fast batched sampling from a Llama: thousands of prompts are answered in lockstep, one token of each at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from sparsedial.cache_arguments import cache_argument

ATTENTION_NAME = "grouped_query_rows"
ATTENTION_ALIGNMENT = 8  # fast attention kernels need a number of keys that is a multiple of this
STEPS_BETWEEN_END_CHECKS = 32  # each check waits for the device
HIDDEN_SCORE = -1e9


@dataclass(frozen=True)
class Sampling:
    """Settings for drawing the next token from the logits.

    Attributes:
        temperature: The logits are divided by this number.
        top_p: Tokens are drawn from the fewest most likely tokens whose probabilities reach this sum.
        top_k: Only this many of the most likely tokens are considered.
    """

    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 256


@torch.inference_mode()
def decode_in_lockstep(
    model: Any, tokenizer: Any, prompts: Sequence[str], uniform: torch.Tensor, sampling: Sampling = Sampling()
) -> torch.Tensor:
    """Sample an answer to every prompt.

    The layers of the Llama are called directly, with one buffer for all keys and values and with the queries that
    share a key side by side. For thousands of prompts this is several times faster than `generate`.

    Args:
        model: A Llama of transformers.
        tokenizer: The tokenizer of the model.
        prompts: One user message for each answer.
        uniform: Random numbers in [0, 1) that the tokens are drawn with, shape [max_tokens, prompts].
        sampling: Temperature, top-p and top-k.

    Returns:
        Token IDs of the answers, shape [prompts, max_tokens], int64. An answer that has ended is filled up with the
        end token.
    """
    end_token = tokenizer.eos_token_id
    tokens, padding = _encode_prompts(tokenizer, prompts, model.device)
    max_tokens = len(uniform)
    cache = _KeyValueCache(model, rows=len(prompts), capacity=_align(tokens.shape[1] + max_tokens))
    uniform = uniform.to(model.device)
    answers = torch.full((len(prompts), max_tokens), end_token, device=model.device)
    has_ended = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    with _grouped_query_attention(model):
        for step in range(max_tokens):
            logits = _next_token_logits(model, tokens, padding, cache)
            next_token = draw_tokens(logits, uniform[step], sampling)
            answers[:, step] = torch.where(has_ended, end_token, next_token)
            has_ended |= next_token == end_token
            tokens = next_token[:, None]
            is_check = (step + 1) % STEPS_BETWEEN_END_CHECKS == 0
            if is_check and bool(has_ended.all()):
                break
    return answers


def draw_tokens(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw one token for each row of logits by inverse transform sampling.

    Args:
        logits: Shape [rows, vocabulary].
        uniform: Random numbers in [0, 1), shape [rows].
        sampling: Temperature, top-p and top-k.

    Returns:
        Token IDs, shape [rows], int64.
    """
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    best, token_ids = probabilities.topk(min(sampling.top_k, probabilities.shape[-1]))
    mass = best.cumsum(-1)
    cumulative = best.masked_fill(mass - best >= sampling.top_p, 0.0).cumsum(-1)
    position = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return token_ids.gather(1, position.clamp(max=best.shape[-1] - 1))[:, 0]


def _encode_prompts(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token IDs [prompts, tokens], padded on the left, and the number of padding tokens of each [prompts]."""
    rows = []
    for prompt in prompts:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    longest = max(map(len, rows))
    padding = [longest - len(row) for row in rows]
    padded = [[tokenizer.eos_token_id] * count + row for count, row in zip(padding, rows, strict=True)]
    return torch.tensor(padded, device=device), torch.tensor(padding, device=device)


def _next_token_logits(model: Any, tokens: torch.Tensor, padding: torch.Tensor, cache: _KeyValueCache) -> torch.Tensor:
    """Feed tokens [prompts, new] to the model and return the logits [prompts, vocabulary] after the last of them."""
    stop = cache.length + tokens.shape[1]
    keys = cache.positions[: _align(stop)]
    queries = cache.positions[cache.length : stop]
    is_hidden = (keys[None, None] > queries[None, :, None]) | (keys[None, None] < padding[:, None, None])
    bias = torch.zeros(is_hidden.shape, dtype=model.dtype, device=model.device).masked_fill(is_hidden, HIDDEN_SCORE)
    x = model.model.embed_tokens(tokens)
    rotary = model.model.rotary_emb(x, position_ids=(queries[None] - padding[:, None]).clamp(min=0))
    for layer in model.model.layers:
        x = layer(x, attention_mask=bias[:, None], position_embeddings=rotary, **{cache_argument(layer.forward): cache})
    cache.length = stop
    return model.lm_head(model.model.norm(x[:, -1]))


class _KeyValueCache:
    """Keys and values of every layer in buffers of fixed size, with the interface that transformers' layers call."""

    def __init__(self, model: Any, rows: int, capacity: int) -> None:
        config = model.config
        shape = (2, rows, config.num_key_value_heads, capacity, config.head_dim)
        self.layers = []
        for _ in range(config.num_hidden_layers):
            self.layers.append(torch.zeros(shape, dtype=model.dtype, device=model.device))
        self.positions = torch.arange(capacity, device=model.device)
        self.length = 0

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        stop = self.length + keys.shape[2]
        all_keys, all_values = self.layers[layer]
        all_keys[:, :, self.length : stop] = keys
        all_values[:, :, self.length : stop] = values
        return all_keys[:, :, : _align(stop)], all_values[:, :, : _align(stop)]


@contextmanager
def _grouped_query_attention(model: Any) -> Iterator[None]:
    AttentionInterface.register(ATTENTION_NAME, _attend)
    previous = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        model.config._attn_implementation = previous


def _attend(
    module: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """Compute grouped-query attention without repeating keys: the queries of one group become rows of one head."""
    rows, heads, queries, width = q.shape
    groups = k.shape[1]
    heads_per_group = heads // groups
    grouped = q.reshape(rows, groups, heads_per_group * queries, width)
    mask = mask.expand(rows, heads_per_group, queries, -1).reshape(rows, 1, heads_per_group * queries, -1)
    y = torch.nn.functional.scaled_dot_product_attention(grouped, k, v, attn_mask=mask, scale=scaling)
    return y.reshape(rows, heads, queries, width).transpose(1, 2), None


def _align(length: int) -> int:
    """Round a number of keys up to the next multiple of `ATTENTION_ALIGNMENT`."""
    return -(-length // ATTENTION_ALIGNMENT) * ATTENTION_ALIGNMENT
