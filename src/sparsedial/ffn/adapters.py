"""Description of bottleneck adapters, which are not among the FFNs of a model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_DESCRIBED_KINDS = 3


@dataclass(frozen=True)
class Adapter:
    """A bottleneck adapter, which computes what a plain FFN does but is not one of the FFNs of the model.

    Attributes:
        name: Path of the module that contains its projections, or of its down projection if the layer contains them.
        names: Paths of the projections, by role ("up", "down" and, if gated, "gate").
        hidden: Width of its input vector.
        width: Width of its intermediate vector.
        ffn_name: Path of the FFN of the same layer.
    """

    name: str
    names: Mapping[str, str]
    hidden: int
    width: int
    ffn_name: str


def describe_adapters(adapters: Sequence[Adapter]) -> Iterator[str]:
    """Yield a sentence per kind of adapter that says why it was left out and how to select it.

    Args:
        adapters: The adapters of a model. Those that differ only in numbers in their paths, such as the layer, are of
            one kind.

    Yields:
        str: The sentence.
    """
    counts: dict[str, int] = defaultdict(int)
    examples: dict[str, Adapter] = {}
    for adapter in adapters:
        pattern = _replace_numbers(adapter.name)
        counts[pattern] += 1
        examples.setdefault(pattern, adapter)
    for pattern, adapter in list(examples.items())[:MAX_DESCRIBED_KINDS]:
        roles = " ".join(f"--ffn '{role}={_replace_numbers(path)}'" for role, path in adapter.names.items())
        yield (
            f"{pattern} × {counts[pattern]}: seems to be an adapter, because its width of {adapter.width} is smaller "
            f"than that of its input ({adapter.hidden}) and that of {_replace_numbers(adapter.ffn_name)}. "
            f"To select it instead: {roles}"
        )
    if len(examples) > MAX_DESCRIBED_KINDS:
        yield f"Other kinds of adapters that are not listed here: {len(examples) - MAX_DESCRIBED_KINDS}"


def _replace_numbers(path: str) -> str:
    """Return a path with ``*`` in place of each number."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", path)
