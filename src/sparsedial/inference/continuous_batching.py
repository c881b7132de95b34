"""Text generation in which a new prompt takes the place of each text that has ended.

The model's own `generate` continues a batch until its longest text has ended, and computes the other rows for nothing.
Here, every text has a slot of a `SlotCache`. When it ends, the last text moves into its slot, and the next prompts of
the queue get the slots that are free. The tokens are those of `generate` except for rounding errors, and the same ones
are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sparsedial.inference.batch_size import count_free_bytes
from sparsedial.inference.decode_graphs import DecodeGraphs
from sparsedial.inference.generation import GeneratedTokens, Prompt
from sparsedial.inference.generation_job import GenerationJob
from sparsedial.inference.sampling import RandomNumbers
from sparsedial.inference.slot_decoder import SlotDecoder
from sparsedial.inference.stop_detection import StopDetector
from sparsedial.inference.thinking_segments import SegmentReader
from sparsedial.inference.token_choice import TokenChooser

MAX_SLOTS = 64
COLUMN_MULTIPLE = 64
"""The number of columns of the cache is a multiple of this, because attention kernels need aligned rows."""
CPU_TOKENS_PER_SLOT = 64
TOKENS_PER_SLOT = 512
"""Tokens of the budget of a forward pass that one slot takes at most, on devices other than a CPU. With the default
budget of a device, there are `MAX_SLOTS` slots, because a decoding step reads one token of each."""
MAX_MEMORY_SHARE = 0.5
"""Share of the free memory that the cache may take."""
MAX_PADDING = 1 / 4
"""Maximum share of padding among the prompts that are read together."""
SLOTS_PER_REFILL = 1 / 8
"""Share of the slots that must be free before prompts are read on a GPU, where reading one takes as long as several."""


@dataclass
class _Text:
    """A text that is being generated.

    Attributes:
        index: Index of its prompt.
        prompt: The prompt.
        numbers: Random numbers of its tokens.
        tokens: Tokens generated so far.
        reader: Reader of its segments. None if they are not counted.
        is_thinking: Whether its last token belongs to the thinking. None if this is not counted.
    """

    index: int
    prompt: Prompt
    numbers: RandomNumbers
    tokens: list[int] = field(default_factory=list)
    reader: SegmentReader | None = None
    is_thinking: bool | None = None

    @property
    def length(self) -> int:
        """Number of tokens of the prompt and of the text."""
        return len(self.prompt.tokens) + len(self.tokens)


def generate_continuously(
    job: GenerationJob, prompts: Sequence[Prompt], seeds: Sequence[int], bytes_per_token: int
) -> dict[int, GeneratedTokens]:
    """Continue prompts that have equal decoding keys.

    Args:
        job: Model in which `check_slot_support` found no obstacle, and settings.
        prompts: Prompts to continue.
        seeds: Random seed of each text.
        bytes_per_token: Size of the keys and values of one token.

    Returns:
        The continuation of each prompt, by its index.

    Raises:
        NonFiniteTextError: The logits of a text are NaN or infinite.
    """
    longest = max(prompt.max_length for prompt in prompts)
    columns = -(-longest // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
    slots = count_slots(job.model.device, len(prompts), longest, job.run.batch_tokens, bytes_per_token)
    return _ContinuousBatch(job, slots, columns, prompts[0].until).generate(prompts, seeds)


def count_slots(device: torch.device, prompts: int, longest: int, batch_tokens: int, bytes_per_token: int) -> int:
    """Return the number of texts that are generated at the same time, at least 1.

    Args:
        device: Device of the model.
        prompts: Number of prompts.
        longest: Maximum number of tokens of a prompt and its continuation.
        batch_tokens: Maximum number of tokens per forward pass.
        bytes_per_token: Size of the keys and values of one token.

    >>> count_slots(torch.device("cpu"), 100, 300, 4096, 1), count_slots(torch.device("cpu"), 100, 9000, 512, 1)
    (64, 8)
    """
    tokens_per_slot = CPU_TOKENS_PER_SLOT if device.type == "cpu" else TOKENS_PER_SLOT
    slots = min(MAX_SLOTS, prompts, batch_tokens // min(longest, tokens_per_slot))
    free = count_free_bytes(device)
    if free is not None:
        slots = min(slots, int(MAX_MEMORY_SHARE * free / max(1, bytes_per_token * longest)))
    return max(1, slots)


class NonFiniteTextError(Exception):
    """The logits of a text are NaN or infinite.

    Attributes:
        index: Index of its prompt.
    """

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class _ContinuousBatch:
    """Texts that are generated at the same time, in the first slots of a cache, and the queue of prompts."""

    def __init__(self, job: GenerationJob, slots: int, columns: int, until: Sequence[str]) -> None:
        self._job = job
        self._run = job.run
        self._slots = slots
        self._chooser = TokenChooser(job.settings)
        self._stops = StopDetector(job.model, job.tokenizer, until)
        self._decoder = SlotDecoder(job.model, slots, columns)
        self._graphs = DecodeGraphs(self._decoder, job.run, slots, columns)
        self._slots_per_refill = 1
        if self._graphs.is_enabled:
            self._slots_per_refill = max(1, int(slots * SLOTS_PER_REFILL))
        self._queue: deque[_Text] = deque()
        self._active: list[_Text] = []  # in the order of their slots
        self._finished: dict[int, GeneratedTokens] = {}

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> dict[int, GeneratedTokens]:
        """Return the continuation of each prompt, by its index."""
        order = sorted(range(len(prompts)), key=lambda index: (-prompts[index].limit, -len(prompts[index].tokens)))
        for index in order:
            prompt = prompts[index]
            reader = self._run.read_segments(prompt.tokens)
            self._queue.append(_Text(index, prompt, RandomNumbers(seeds[index]), reader=reader))
        while self._queue or self._active:
            while self._should_read_prompts():
                self._read_prompts()
            if self._active:
                self._decode()
        return self._finished

    def _should_read_prompts(self) -> bool:
        free = self._slots - len(self._active)
        return bool(self._queue) and (free >= min(self._slots_per_refill, len(self._queue)) or not self._active)

    def _read_prompts(self) -> None:
        """Read the next prompts of the queue, as many as fit into the free slots and into one forward pass."""
        texts = [self._queue.popleft()]
        lengths = [texts[0].length]
        while self._queue and len(self._active) + len(texts) < self._slots:
            following = [*lengths, self._queue[0].length]
            padded = len(following) * max(following)
            if padded > self._run.batch_tokens or sum(following) < (1 - MAX_PADDING) * padded:
                break
            texts.append(self._queue.popleft())
            lengths = following
        prompts = [text.prompt.tokens for text in texts]
        logits = self._decoder.read_prompts(prompts, len(self._active), self._run)
        self._active += texts
        self._append_tokens(texts, logits)

    def _decode(self) -> None:
        """Generate one token of every active text."""
        count = len(self._active)
        columns = max(text.length for text in self._active)
        size = self._graphs.choose_size(count, columns)
        tokens = [text.tokens[-1] for text in self._active]
        positions = [text.length - 1 for text in self._active]
        self._decoder.set_tokens(tokens, positions, size.slots)
        self._decoder.set_thinking([text.is_thinking for text in self._active])
        self._append_tokens(self._active, self._graphs.decode(size)[:count])

    def _append_tokens(self, texts: Sequence[_Text], logits: torch.Tensor) -> None:
        """Choose the next token of each text, and remove the texts that have ended."""
        history = None
        if self._job.settings.needs_history:
            history = self._history(texts)
        tokens, finite = self._chooser.choose(logits, history, [text.numbers for text in texts])
        for text, token, is_finite in zip(texts, tokens, finite, strict=True):
            if not is_finite:
                raise NonFiniteTextError(text.index)
            text.tokens.append(token)
            if text.reader is not None:
                text.is_thinking = text.reader.append(token)
        ended = self._stops.find_ended([text.tokens for text in texts])
        self._job.progress.add_tokens(len(texts))
        for text, has_stopped in zip(list(texts), ended, strict=True):
            if has_stopped or len(text.tokens) >= text.prompt.limit:
                self._finished[text.index] = GeneratedTokens(text.tokens, has_stopped)
                self._remove(text)
                self._job.progress.finish_texts(1)

    def _remove(self, text: _Text) -> None:
        """Free the slot of a text, and move the last text into it."""
        slot = next(slot for slot, active in enumerate(self._active) if active is text)
        last = self._active.pop()
        if last is not text:
            self._decoder.cache.move(len(self._active), slot, last.length)
            self._active[slot] = last

    def _history(self, texts: Sequence[_Text]) -> torch.Tensor:
        """Return the tokens of each text, shape [texts, tokens], filled up with its first token."""
        longest = max(text.length for text in texts)
        rows = []
        for text in texts:
            filling = [text.prompt.tokens[0]] * (longest - text.length)
            rows.append([*text.prompt.tokens, *text.tokens, *filling])
        return torch.tensor(rows, device=self._decoder.model.device)
