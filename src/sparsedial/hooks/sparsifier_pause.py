"""Dense forward passes of a model while sparsifiers are attached to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sparsedial.tracing_state import tracing


@contextmanager
def pause_sparsifiers() -> Iterator[None]:
    """Run the forward passes inside the `with` block as if no sparsifier were attached. They are not counted.

    Yields:
        None: Nothing.

    Example:
        >>> import sparsedial as sd, torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...                                      num_attention_heads=2, vocab_size=64))
        >>> inputs = torch.arange(6)[None]
        >>> dense = model(inputs).logits
        >>> with sd.sparsify(model, site="input", rule=sd.TopK(0.5)), pause_sparsifiers():
        ...     torch.equal(model(inputs).logits, dense)
        True
    """
    with tracing():
        yield
