"""Says which layer a feed-forward block belongs to, and which expert of it: by where its projections hang.

Only the shape of the module tree counts: a layer is a numbered module that holds more than one block's
projections, an expert is a member of a list that holds one block's projections and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from torch import nn

from sparsedial.trace import is_projection


class Places:
    """The module tree of one model, asked about the paths of projections."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._held = Counter(
            prefix for name, module in model.named_modules() if is_projection(module) for prefix in _prefixes(name)
        )

    def layer(self, projections: Collection[str]) -> str:
        """The path of the layer these projections belong to; empty where no module on their way is numbered.

        The innermost numbered module that holds other projections too, for a list of experts or of
        steps hangs in its layer; where none does, the outermost numbered one.
        """
        numbered = [p for p in _prefixes(common(projections)) if p.rpartition(".")[2].isdigit()]
        larger = [p for p in numbered if self._held[p] > len(set(projections))]
        return (larger[-1:] or numbered[:1] or [""])[0]

    def member(self, projections: Collection[str]) -> str | None:
        """The path of the list member that holds these projections and no other, if there is one inside their layer.

        The outermost one, for an expert may keep its own parts in a list or a dictionary.
        """
        layer, member = self.layer(projections), None
        for path in reversed(_prefixes(common(projections))):
            if path == layer or self._held[path] > len(set(projections)):
                break
            if isinstance(self._model.get_submodule(path.rpartition(".")[0]), nn.ModuleList | nn.ModuleDict):
                member = path
        return member

    def siblings(self, member: str) -> list[str]:
        """The paths of all members of the list (or dictionary) that holds ``member``, in its order."""
        parent = member.rpartition(".")[0]
        return [f"{parent}.{name}" for name, _ in self._model.get_submodule(parent).named_children()]


def numbered(layers: Iterable[str]) -> dict[str, int]:
    """A number for every layer's path: its own, or, where two stacks share numbers, its rank.

    >>> numbered(["model.layers.4", "model.layers.6"])
    {'model.layers.4': 4, 'model.layers.6': 6}
    >>> numbered(["low.layers.0", "low.layers.1", "high.layers.0"])
    {'low.layers.0': 0, 'low.layers.1': 1, 'high.layers.0': 2}
    """
    paths = list(dict.fromkeys(layers))
    own = [int(path.rpartition(".")[2] or 0) for path in paths]
    return dict(zip(paths, own if len(set(own)) == len(own) else range(len(own)), strict=True))


def common(names: Collection[str]) -> str:
    """The longest path that all names start with.

    >>> common(["layers.0.fc1", "layers.0.fc2"])
    'layers.0'
    """
    pieces = list(zip(*(name.split(".")[:-1] for name in names), strict=False))
    length = next((i for i, piece in enumerate(pieces) if len(set(piece)) > 1), len(pieces))
    return ".".join(next(iter(names)).split(".")[:length])


def _prefixes(name: str) -> list[str]:
    pieces = name.split(".") if name else []
    return [".".join(pieces[: i + 1]) for i in range(len(pieces))]
