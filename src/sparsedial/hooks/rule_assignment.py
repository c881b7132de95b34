"""Assignment of rules to the vectors of a model's FFNs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparsedial.errors import AttachError, SpecError
from sparsedial.ffn.feed_forward import VectorOwner
from sparsedial.hooks.site_attachment import SparsifiedVector, list_vectors
from sparsedial.rules import Rule, check_rule
from sparsedial.suggestions import suggest

RuleChoice = Rule | Mapping[str, Rule | None] | Mapping[int, Rule | None] | Callable[[Any], Rule | None]
"""Rule for all vectors, rules by site, rules by layer index, or a function that returns the rule of an FFN."""

RuleAssignment = tuple[Rule | None, ...]
"""Rule of each counter. None means that the vector stays dense and is not counted."""

EXPECTED = (
    "expected a rule such as TopP(0.9), a mapping from site or layer index to a rule, or a function that returns the "
    "rule of an FFN"
)
MAX_LISTED_RULES = 3  # rules that a representation names


def assign_rules(choice: RuleChoice, vectors: Sequence[SparsifiedVector], site: str) -> RuleAssignment:
    """Return the rule of each vector.

    A mapping need not name all sites or layers: a vector without a rule stays dense. In a mapping from site, the entry
    of a vector ("input") precedes that of the whole site ("all_inputs").

    Args:
        choice: What the user passed as ``rule``.
        vectors: The vectors of all FFNs that may be sparsified.
        site: Site that the vectors belong to.

    Returns:
        One rule per vector, at least one of them not None.

    Raises:
        SpecError: A site, a layer or a rule is unknown, or no vector has a rule.
        AttachError: Experts whose weights are stacked in one parameter have different rules.
    """
    if isinstance(choice, Rule):
        check_rule(choice)
        return (choice,) * len(vectors)
    if isinstance(choice, Mapping):
        rules = _read_mapping(choice, vectors, site)
    elif callable(choice) and not isinstance(choice, type):
        rules = _call_function(choice, vectors)
    else:
        raise SpecError(f"rule: {EXPECTED}, got {choice!r}.")
    if set(rules) == {None}:
        raise SpecError(
            "rule: no FFN was given a rule. Give at least one of them a rule, or leave the model dense with "
            "sparsifier.enabled = False."
        )
    _check_stacked_experts(vectors, rules)
    return rules


def choose_vectors(
    ffns: Sequence[VectorOwner], site: str, choice: RuleChoice
) -> tuple[list[SparsifiedVector], RuleAssignment]:
    """Return the vectors that are given a rule, and their rules.

    Args:
        ffns: FFNs that may be sparsified.
        site: Name of a site.
        choice: What the user passed as ``rule``.

    Returns:
        The vectors, numbered in order, and one rule for each.
    """
    candidates = list_vectors(ffns, site)
    vectors: list[SparsifiedVector] = []
    rules: list[Rule] = []
    for candidate, rule in zip(candidates, assign_rules(choice, candidates, site), strict=True):
        if rule is not None:
            vectors.append(replace(candidate, counter=len(vectors)))
            rules.append(rule)
    return vectors, tuple(rules)


def describe_rules(rules: Sequence[Rule | None]) -> str:
    """Return a short description of an assignment.

    Args:
        rules: Rule of each vector.

    Example:
        >>> from sparsedial.rules import TopP
        >>> describe_rules([TopP(0.9), TopP(0.9)]), describe_rules([TopP(0.9), None, TopP(0.5)])
        ('TopP(p=0.9)', '[TopP(p=0.9), None, TopP(p=0.5)]')
    """
    distinct = list(dict.fromkeys(rules))
    if len(distinct) == 1:
        return repr(distinct[0])
    listed = ", ".join(map(repr, distinct[:MAX_LISTED_RULES]))
    if len(distinct) > MAX_LISTED_RULES:
        listed += f" and {len(distinct) - MAX_LISTED_RULES} more"
    return f"[{listed}]"


def _read_mapping(choice: Mapping[Any, Any], vectors: Sequence[SparsifiedVector], site: str) -> RuleAssignment:
    for key, rule in choice.items():
        _check_rule(rule, f"rule[{key!r}]")
    if not choice:
        raise SpecError("rule: an empty mapping. Name at least one site or layer.")
    key_types = set(map(type, choice))
    if key_types == {str}:
        return _read_site_mapping(choice, vectors, site)
    if key_types == {int}:
        return _read_layer_mapping(choice, vectors)
    raise SpecError(f"rule: the keys of a mapping are either all sites or all layer indices, got {list(choice)}.")


def _read_site_mapping(choice: Mapping[str, Any], vectors: Sequence[SparsifiedVector], site: str) -> RuleAssignment:
    expected = list(dict.fromkeys([*(vector.name for vector in vectors), site]))
    for key in choice:
        if key not in expected:
            question = suggest(key, expected)
            hint = f" {question.capitalize()}" if question else ""
            raise SpecError(
                f"rule[{key!r}]: not a part of the site {site!r}. Expected one of {', '.join(expected)}.{hint}"
            )
    return tuple(choice.get(vector.name, choice.get(site)) for vector in vectors)


def _read_layer_mapping(choice: Mapping[int, Any], vectors: Sequence[SparsifiedVector]) -> RuleAssignment:
    known = {vector.ffn.layer for vector in vectors}
    unknown = sorted(set(choice) - known)
    if unknown:
        raise SpecError(f"rule: unknown layer(s) {unknown}. The selected FFNs are in layers {sorted(known)}.")
    return tuple(choice.get(vector.ffn.layer) for vector in vectors)


def _call_function(function: Callable[[Any], Any], vectors: Sequence[SparsifiedVector]) -> RuleAssignment:
    """Call a function once per FFN."""
    by_ffn: dict[int, Rule | None] = {}
    rules = []
    for vector in vectors:
        key = id(vector.ffn)
        if key not in by_ffn:
            rule = function(vector.ffn)
            _check_rule(rule, f"the function passed as rule, for {vector.ffn.name}")
            by_ffn[key] = rule
        rules.append(by_ffn[key])
    return tuple(rules)


def _check_rule(rule: object, source: str) -> None:
    if rule is not None and not isinstance(rule, Rule):
        raise SpecError(f"{source}: expected a rule such as TopP(0.9), or None for a dense FFN, got {rule!r}.")
    if rule is not None:
        check_rule(rule)


def _check_stacked_experts(vectors: Sequence[SparsifiedVector], rules: RuleAssignment) -> None:
    """Raise an error if the experts of one stack have different rules."""
    stacks: dict[tuple[int, str], set[Rule | None]] = defaultdict(set)
    for vector, rule in zip(vectors, rules, strict=True):
        stacked_module = vector.ffn.stacked_module
        if stacked_module is None:
            continue
        stack = stacks[id(stacked_module), vector.name]
        stack.add(rule)
        if len(stack) > 1:
            raise AttachError(
                f"{vector.ffn.moe_path}: its experts were given different rules ({describe_rules(list(stack))}). Their "
                "weights are stacked in one parameter, so they are sparsified together: give all of them the same rule."
            )
