"""Reading of YAML, in which a repeated key is an error. YAML libraries silently use its last value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from sparsedial.errors import SpecError
from sparsedial.study.dataclass_parsing import raise_problems


def load_yaml(text: str) -> Any:
    r"""Return the data of a YAML document. Anchors and merge keys (``<<``) are supported.

    Args:
        text: One YAML document. JSON is YAML as well.

    Returns:
        Dictionaries, lists, text, numbers, booleans, dates and None.

    Raises:
        SpecError: The text is not one YAML document, or a key is repeated.

    Example:
        >>> load_yaml("models: [a, b]")
        {'models': ['a', 'b']}
        >>> load_yaml("limit: 1\nlimit: 2")
        Traceback (most recent call last):
        sparsedial.errors.SpecError: key 'limit' in line 1 is repeated in line 2. Remove one of them.
    """
    problems: list[str] = []
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None:
            problems = _repeated_keys(node)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: an impossible date
        raise SpecError(f"not YAML: {error}{_tab_hint(error)}") from None
    raise_problems(problems)
    return data


def _repeated_keys(root: yaml.Node) -> list[str]:
    """Return a sentence for each key that a mapping has twice. Keys merged from another mapping do not count."""
    problems = []
    for mapping in _mappings(root):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                problems.append(f"key {key.value!r} in line {first} is repeated in line {line}. Remove one of them.")
            else:
                lines[key.tag, key.value] = line
    return problems


def _mappings(root: yaml.Node) -> Iterator[yaml.MappingNode]:
    """Yield each mapping of a document once, from the outside to the inside."""
    visited: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in visited or isinstance(node, yaml.ScalarNode):
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            for key, value in reversed(node.value):
                waiting += [value, key]
        else:
            waiting += reversed(node.value)


def _tab_hint(error: Exception) -> str:
    """Return advice about tabs, which YAML does not accept as indentation."""
    if r"'\t'" in str(error):
        return "\nIndent with spaces instead of tabs."
    return ""
