"""The markers between which a thinking model writes its thoughts, such as ``<think>`` and ``</think>``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedial.errors import SpecError

NO_MARKERS = "none"
"""Value of the option that turns the detection of markers off."""
DETECTED_MARKERS = "auto"
"""Value of the option that detects the markers. It is the default."""

EXPECTED = "expected START,END such as <think>,</think>, or auto, or none"


@dataclass(frozen=True)
class ThinkingMarkers:
    """Texts that begin and end the thinking of a model.

    Attributes:
        start: Text before the thoughts. It may be a part of the prompt.
        end: Text after the thoughts.
    """

    start: str
    end: str


KNOWN_MARKERS = (
    ThinkingMarkers("<think>", "</think>"),
    ThinkingMarkers("<thinking>", "</thinking>"),
    ThinkingMarkers("<thought>", "</thought>"),
    ThinkingMarkers("<reasoning>", "</reasoning>"),
    ThinkingMarkers("<seed:think>", "</seed:think>"),
    ThinkingMarkers("[THINK]", "[/THINK]"),
    ThinkingMarkers("◁think▷", "◁/think▷"),
    ThinkingMarkers("<|START_THINKING|>", "<|END_THINKING|>"),
    ThinkingMarkers("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingMarkers("<|channel|>analysis<|message|>", "<|end|>"),
)
"""Markers that are detected, in the order in which they are looked for."""

MarkerChoice = tuple[ThinkingMarkers, ...] | None
"""Markers that the user gave, or none of them. None means that they are detected."""


def parse_markers(option: str | Sequence[str] | None) -> MarkerChoice:
    """Return the markers that an option of a task describes.

    Args:
        option: "auto", "none", the two markers separated by a comma, or a list of the two. None means "auto".

    Returns:
        The markers. Empty if texts are not divided, None if the markers are detected.

    Raises:
        SpecError: There are not two markers, one of them is empty, or they are equal.

    Example:
        >>> parse_markers("<think>,</think>"), parse_markers("none"), parse_markers("auto")
        ((ThinkingMarkers(start='<think>', end='</think>'),), (), None)
    """
    if option is None or option == DETECTED_MARKERS:
        return None
    if option == NO_MARKERS:
        return ()
    markers = option.split(",") if isinstance(option, str) else list(option)
    if len(markers) != 2:
        raise SpecError(f"thinking_markers {option!r}: {len(markers)} marker(s): {EXPECTED}")
    start, end = markers
    if not start.strip() or not end.strip():
        raise SpecError(f"thinking_markers {option!r}: a marker is empty: {EXPECTED}")
    if start == end:
        raise SpecError(f"thinking_markers {option!r}: the two markers are equal, so they cannot be told apart")
    return (ThinkingMarkers(start, end),)


def find_markers(tokenizer: Any, choice: MarkerChoice = None) -> ThinkingMarkers | None:
    """Return the markers of a model.

    Markers are detected if the chat template contains both, or if both are special tokens of the tokenizer.

    Args:
        tokenizer: Tokenizer of the model.
        choice: Markers that the user gave. Defaults to None: they are detected.

    Returns:
        The markers. None if the model has none, or if the user turned them off.

    Raises:
        SpecError: The tokenizer cannot encode a marker that the user gave.
    """
    if choice is not None:
        for markers in choice:
            check_markers(tokenizer, markers)
            return markers
        return None
    for markers in _detect_markers(tokenizer):
        if not list(_undecodable(tokenizer, markers)):
            return markers
    return None


def check_markers(tokenizer: Any, markers: ThinkingMarkers) -> None:
    """Check that a model can write markers.

    Args:
        tokenizer: Tokenizer of the model.
        markers: The markers.

    Raises:
        SpecError: The tokenizer cannot encode one of them.
    """
    for marker, decoded in _undecodable(tokenizer, markers):
        raise SpecError(
            f"thinking_markers: the tokenizer cannot encode the marker {marker!r}: its tokens are decoded as "
            f"{decoded!r}, so the model cannot write it. Expected two texts that the model writes around its thoughts, "
            f"such as <think>,</think>. Pass {NO_MARKERS} if it does not think"
        )


def _undecodable(tokenizer: Any, markers: ThinkingMarkers) -> Iterator[tuple[str, str]]:
    """Yield the markers that the tokenizer cannot encode, and what it decodes instead."""
    for marker in (markers.start, markers.end):
        tokens = tokenizer.encode(marker, add_special_tokens=False)
        decoded = tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if marker not in decoded or getattr(tokenizer, "unk_token_id", None) in tokens:
            yield marker, decoded


def _detect_markers(tokenizer: Any) -> Iterator[ThinkingMarkers]:
    template = getattr(tokenizer, "chat_template", None) or ""
    if isinstance(template, Mapping):
        template = "\n".join(map(str, template.values()))
    added = tokenizer.get_added_vocab()
    for markers in KNOWN_MARKERS:
        if markers.start in template and markers.end in template:
            yield markers
    for markers in KNOWN_MARKERS:
        if markers.start in added and markers.end in added:
            yield markers
