"""Layers and experts of a model, read from the paths of its projections.

Only the structure of the module tree is used. A numbered module is one whose name in its parent is an integer. A layer
is a numbered module that contains the projections of more than one FFN. An expert is a member of a list that contains
the projections of exactly one FFN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import accumulate

from torch import nn

from sparsedial.ffn.projections import named_projections


class LayerLocator:
    """Module tree of a model, which gives the layer and the expert that the projections of an FFN belong to.

    Args:
        model: The model, whose module tree must not change while this object is used.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._projection_counts: Counter[str] = Counter()  # Number of projections in the module at each path.
        for name, _ in named_projections(model):
            self._projection_counts.update(_path_and_ancestors(name))

    def layer_path(self, projections: Collection[str]) -> str:
        """Return the path of the layer that contains the projections of one FFN.

        The layer is the innermost numbered module that also contains other projections, because numbered modules that
        contain only these projections are experts or steps inside a layer. If no numbered module contains other
        projections, the layer is the outermost numbered module.

        Args:
            projections: Paths of the projections.

        Returns:
            The path, or an empty string if the projections are in no numbered module.
        """
        layer = ""
        for path in _path_and_ancestors(common_path(projections)):
            if not _last_component(path).isdigit():
                continue
            if layer == "" or self._has_other_projections(path, projections):
                layer = path
        return layer

    def expert_path(self, projections: Collection[str]) -> str | None:
        """Return the path of the list member inside a layer that contains these projections and no others.

        If lists are nested, the outermost such member is returned, because an expert may itself contain a list.

        Args:
            projections: Paths of the projections of one FFN.

        Returns:
            The path, or None if there is no such member.
        """
        layer = self.layer_path(projections)
        member = None
        for path in reversed(_path_and_ancestors(common_path(projections))):
            if path == layer or self._has_other_projections(path, projections):
                break
            if isinstance(self._model.get_submodule(parent_path(path)), nn.ModuleList | nn.ModuleDict):
                member = path
        return member

    def sibling_paths(self, member: str) -> list[str]:
        """Return the paths of all members of the list or dictionary that contains a member, in order.

        Args:
            member: Path of one member.

        Returns:
            The paths, including that of ``member``.
        """
        parent = parent_path(member)
        return [f"{parent}.{name}" for name, _ in self._model.get_submodule(parent).named_children()]

    def _has_other_projections(self, path: str, projections: Collection[str]) -> bool:
        return self._projection_counts[path] > len(set(projections))


def number_layers(layers: Iterable[str]) -> dict[str, int]:
    """Return an index for the path of every layer.

    The index is the number at the end of the path. If several layers have the same number, because the model has two
    stacks of layers, the index is the position of the layer in ``layers`` instead.

    Args:
        layers: Paths of the layers, in order. Repetitions are ignored.

    Returns:
        Layer indices by path.

    Example:
        >>> number_layers(["model.layers.4", "model.layers.6"])
        {'model.layers.4': 4, 'model.layers.6': 6}
        >>> number_layers(["low.layers.0", "low.layers.1", "high.layers.0"])
        {'low.layers.0': 0, 'low.layers.1': 1, 'high.layers.0': 2}
    """
    paths = list(dict.fromkeys(layers))
    indices = [int(_last_component(path) or 0) for path in paths]
    if len(set(indices)) < len(indices):
        indices = list(range(len(paths)))
    return dict(zip(paths, indices, strict=True))


def common_path(names: Collection[str]) -> str:
    """Return the longest path that contains all of the named modules.

    Args:
        names: Paths of modules, at least one.

    Returns:
        The path, or an empty string if it is the model itself.

    Example:
        >>> common_path(["layers.0.fc1", "layers.0.fc2"])
        'layers.0'
    """
    parents = [name.split(".")[:-1] for name in names]
    path = []
    for pieces in zip(*parents, strict=False):
        if len(set(pieces)) > 1:
            break
        path.append(pieces[0])
    return ".".join(path)


def parent_path(path: str) -> str:
    """Return the path of the module that directly contains a module.

    Args:
        path: Path of the inner module.

    Returns:
        The path, or an empty string if it is the model itself.

    Example:
        >>> parent_path("layers.0.mlp")
        'layers.0'
    """
    return path.rpartition(".")[0]


def _last_component(path: str) -> str:
    return path.rpartition(".")[2]


def _path_and_ancestors(path: str) -> list[str]:
    """Return a path and the paths of all modules that contain it, outermost first."""
    if not path:
        return []
    return list(accumulate(path.split("."), "{}.{}".format))
