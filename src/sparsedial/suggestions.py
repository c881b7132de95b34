"""Suggestions for names that are not known, for error messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MIN_SIMILARITY = 0.6
"""Minimum similarity of a suggestion, from 0 to 1, as defined by `difflib.SequenceMatcher.ratio`."""
MIN_SIMILARITY_OF_OTHERS = 0.75
"""Minimum similarity of a suggestion that is not among the preferred names. They can be thousands."""
MAX_SUGGESTIONS = 3


def closest_names(name: str, known: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Return the known names that are most similar to a name. Case, hyphens, underscores and dots do not matter.

    Args:
        name: The unknown name.
        known: The names to prefer.
        others: Further valid names. They are suggested after the preferred ones, if they are more similar.

    Returns:
        At most `MAX_SUGGESTIONS` names, the best one first. If a name differs only in case or punctuation, it is the
        only one.

    Example:
        >>> closest_names("Self-Prediction", ["restoration", "self_prediction"], ["persona_self-replication"])
        ['self_prediction']
        >>> closest_names("arc_esy", ["self_prediction"], ["arc_easy", "piqa"])
        ['arc_easy']
        >>> closest_names("quicksort", ["restoration"])
        []
    """
    preferred = _by_normalized_name(known)
    further = _by_normalized_name(others)
    normalized = _normalize(name)
    for names in (preferred, further):
        if normalized in names:
            return [names[normalized]]
    matches = _find_matches(normalized, preferred, MIN_SIMILARITY) + _find_matches(
        normalized, further, MIN_SIMILARITY_OF_OTHERS
    )
    return list(dict.fromkeys(matches))[:MAX_SUGGESTIONS]


def suggest(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """Return a question that suggests the most similar known names, or an empty string if none is similar.

    Args:
        name: The unknown name.
        known: The names to prefer.
        others: Further valid names.

    Example:
        >>> suggest("inptu", ["input", "up", "gate"]), suggest("x", ["input", "up", "gate"])
        ("did you mean 'input'?", '')
    """
    matches = closest_names(name, known, others)
    if not matches:
        return ""
    return f"did you mean {' or '.join(map(repr, matches))}?"


def describe_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error message for a name that is not one of a few known names.

    Args:
        kind: What the name stands for, such as "site".
        name: The unknown name.
        known: All valid names.

    Example:
        >>> describe_unknown("site", "inptu", ["input", "up"])
        "unknown site 'inptu': expected one of input, up; did you mean 'input'?"
    """
    return f"unknown {kind} {name!r}: expected one of {list_known(name, known)}"


def list_known(name: str, known: Iterable[str]) -> str:
    """Return the known names, separated by commas, with a suggestion at the end if one is similar to a name.

    Args:
        name: The unknown name.
        known: All valid names.

    Example:
        >>> list_known("inptu", ["input", "up"])
        "input, up; did you mean 'input'?"
    """
    names = list(known)
    listed = ", ".join(names)
    question = suggest(name, names)
    if question:
        listed += f"; {question}"
    return listed


def _normalize(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _by_normalized_name(names: Iterable[str]) -> dict[str, str]:
    by_normalized_name: dict[str, str] = {}
    for name in names:
        by_normalized_name.setdefault(_normalize(name), name)
    return by_normalized_name


def _find_matches(normalized: str, names: dict[str, str], min_similarity: float) -> list[str]:
    return [names[match] for match in difflib.get_close_matches(normalized, names, MAX_SUGGESTIONS, min_similarity)]
