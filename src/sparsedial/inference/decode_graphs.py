"""Fast path for decoding on a GPU: the forward pass of a step is captured in a CUDA graph.

A decoding step consists of many small kernels, and starting them takes longer than running them. A graph starts all of
them at once. It is used only if all of these hold. Otherwise the forward pass is run as usual:

1. the model is on one CUDA device, and no hook is registered on its modules except those of the sparsifier,
2. the model is dense, or the rules are built in and nothing wraps them, so that repeating the kernels repeats all that
   the Python code does: the counts are added up by kernels, too,
3. the capture succeeds. It fails for models that copy values to the host, such as some mixtures of experts.

The inputs, the cache and the counters keep their memory while a graph exists. The number of slots and of columns is
rounded up, so that a few graphs are enough.

Set SPARSEDIAL_CUDA_GRAPHS=0 to turn it off. Timings: docs/performance.md.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from sparsedial.hooks.foreign_hooks import has_foreign_hooks
from sparsedial.hooks.forward_context import Thinking
from sparsedial.inference.batch_size import is_memory_error
from sparsedial.inference.run_context import RunContext
from sparsedial.inference.slot_decoder import SlotDecoder

SWITCH = "SPARSEDIAL_CUDA_GRAPHS"
MIN_COLUMNS = 128
"""Smallest number of columns of a graph. The others are this times a power of 2."""
SLOT_FACTOR = 2
"""Ratio of the numbers of slots of two graphs."""
STEPS_BEFORE_CAPTURE = 4
"""Steps of a size that are run as usual first, because a capture takes as long as several of them."""


@dataclass(frozen=True)
class StepSize:
    """Size of a decoding step.

    Attributes:
        slots: Number of slots that are computed.
        columns: Number of columns that are attended to.
    """

    slots: int
    columns: int


class DecodeGraphs:
    """Decoding steps of one `SlotDecoder`, captured in CUDA graphs.

    Args:
        decoder: Model with its cache.
        run: Settings of the evaluation.
        slots: Number of slots of the cache.
        columns: Number of columns of the cache.
    """

    def __init__(self, decoder: SlotDecoder, run: RunContext, slots: int, columns: int) -> None:
        self._decoder = decoder
        self._run = run
        self._limits = StepSize(slots, columns)
        self._uses: dict[StepSize, int] = {}
        self._graphs: dict[StepSize, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool: Any = None
        self.is_enabled = can_capture(decoder.model, run)

    def choose_size(self, texts: int, columns: int) -> StepSize:
        """Return the size of a step: that of the smallest suitable graph, or what is needed if there are no graphs.

        Args:
            texts: Number of active texts.
            columns: Number of columns that are needed.
        """
        if not self.is_enabled:
            return StepSize(texts, columns)
        slots = 1
        while slots < texts:
            slots *= SLOT_FACTOR
        rounded = MIN_COLUMNS
        while rounded < columns:
            rounded *= 2
        return StepSize(min(slots, self._limits.slots), min(rounded, self._limits.columns))

    def decode(self, size: StepSize) -> torch.Tensor:
        """Return the logits of a step, shape [slots, vocabulary]. They are valid until the next step.

        Args:
            size: Size that `choose_size` returned.
        """
        if not self._has_graph(size):
            return run_step(self._decoder, self._run, size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits

    def _has_graph(self, size: StepSize) -> bool:
        """Return True if there is a graph of this size. It is captured when the size has been used a few times."""
        if not self.is_enabled or size in self._graphs:
            return size in self._graphs
        self._uses[size] = self._uses.get(size, 0) + 1
        if self._uses[size] <= STEPS_BEFORE_CAPTURE:
            return False
        try:
            self._graphs[size] = self._capture(size)
        except RuntimeError as error:
            if is_memory_error(error):
                raise
            self.is_enabled = False
            self._graphs.clear()
            warnings.warn(
                f"decoding without CUDA graphs, which is slower, because the capture failed: {error}", stacklevel=2
            )
        return self.is_enabled

    def _capture(self, size: StepSize) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Return a graph of a step of this size, and its output. Nothing is counted, because no text is active."""
        active = self._decoder.is_active.clone()
        self._decoder.is_active.zero_()
        try:
            self._forward_and_count(size)  # prepares what is kept between steps, outside of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                logits = self._forward_and_count(size)
        finally:
            self._decoder.is_active.copy_(active)
        self._pool = graph.pool()
        return graph, logits

    def _forward_and_count(self, size: StepSize) -> torch.Tensor:
        self._flush()
        real = self._decoder.is_active[: size.slots, None]
        thinking = self._decoder.thinking_tokens(size.slots)
        with self._run.observe(phase="generation", real=real, thinking=thinking):
            logits = self._decoder.decode(size.slots, size.columns)
        self._flush()
        return logits

    def _flush(self) -> None:
        if self._run.sparsifier is not None:
            self._run.sparsifier.flush()


def run_step(decoder: SlotDecoder, run: RunContext, size: StepSize) -> torch.Tensor:
    """Return the logits of a decoding step, shape [slots, vocabulary], without a graph.

    Args:
        decoder: Model with its cache.
        run: Settings of the evaluation.
        size: Size of the step.
    """
    real = decoder.is_active[: size.slots, None].clone()  # the counts are added up after the next steps
    thinking: Thinking | None = decoder.thinking_tokens(size.slots)
    if isinstance(thinking, torch.Tensor):
        thinking = thinking.clone()
        if thinking.numel() == 1 and thinking.is_cpu:
            thinking = bool(thinking)
    with run.observe(phase="generation", real=real, thinking=thinking):
        return decoder.decode(size.slots, size.columns)


def can_capture(model: Any, run: RunContext) -> bool:
    """Return True if the decoding steps of a model may be captured: see the conditions of this module.

    Args:
        model: Causal language model.
        run: Settings of the evaluation.
    """
    if os.environ.get(SWITCH) == "0" or model.device.type != "cuda":
        return False
    if {parameter.device for parameter in model.parameters()} != {model.device}:
        return False
    if run.sparsifier is None:
        return not any(map(has_foreign_hooks, model.modules()))
    return run.sparsifier.can_be_captured
