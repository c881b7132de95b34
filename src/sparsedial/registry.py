"""Registries: definitions by name, from this package, from the running program and from other installed packages.

Other packages declare their definitions as entry points. The names of entry points are read from the metadata of the
installed packages when an unknown name is asked for, and the code of a package is imported only when one of its names
is asked for. So a broken package has no effect on programs that do not use it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from sparsedial.errors import SpecError
from sparsedial.suggestions import closest_names, describe_unknown

DefinitionT = TypeVar("DefinitionT")

MAX_CACHED_SEARCHES = 8

NAME_PATTERN = r"[A-Za-z0-9_][\w.-]*"
"""Names that can be given on the command line, where commas separate names."""


@dataclass(frozen=True)
class Registration(Generic[DefinitionT]):
    """A definition that was added by the running program, or by a package that it imported.

    Attributes:
        definition: The definition.
        module: Name of the module that contains the code of the definition.
        qualified_name: Qualified name of its class in that module.
    """

    definition: DefinitionT
    module: str
    qualified_name: str

    @property
    def source(self) -> str:
        """Module and class, for messages."""
        return f"{self.module}.{self.qualified_name}"


class Registry(Mapping[str, DefinitionT]):
    """Definitions of one kind, by name.

    Args:
        kind: What a name stands for, such as "rule", for messages.
        group: Group of entry points in which other packages declare such definitions.
        builtin: The definitions of this package.
        add_loaded: Function that registers what an entry point refers to. It is called if loading the entry point has
            not registered its name.

    Attributes:
        kind: What a name stands for.
        group: Group of entry points.

    Example:
        >>> colours = Registry("colour", "example.colours", {"red": "#ff0000"}, add_loaded=print)
        >>> colours.add("blue", "#0000ff", owner=str)
        >>> list(colours), colours["blue"]
        (['red', 'blue'], '#0000ff')
        >>> colours["bleu"]
        Traceback (most recent call last):
        sparsedial.errors.SpecError: unknown colour 'bleu': expected one of red, blue; did you mean 'blue'?
    """

    def __init__(
        self, kind: str, group: str, builtin: Mapping[str, DefinitionT], add_loaded: Callable[[Any], object]
    ) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)
        self._add_loaded = add_loaded
        self._registered: dict[str, Registration[DefinitionT]] = {}

    @property
    def builtin_names(self) -> tuple[str, ...]:
        """Names of the definitions of this package."""
        return tuple(self._builtin)

    def __iter__(self) -> Iterator[str]:
        """Yield all names: those of this package, registered ones, and those of entry points, which are not loaded."""
        return iter(dict.fromkeys([*self._builtin, *self._registered, *(point.name for point in self._entry_points())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        """Return True if a definition of this name exists. Entry points are not loaded."""
        return name in self._builtin or name in self._registered or self.is_entry_point(name)

    def __getitem__(self, name: str) -> DefinitionT:
        """Return a definition. An entry point of this name is loaded.

        Raises:
            SpecError: The name is unknown, or the package that declares it cannot be loaded.
        """
        definition = self.find(name)
        if definition is None:
            raise SpecError(self.describe_unknown(name))
        return definition

    def find(self, name: str) -> DefinitionT | None:
        """Return a definition, or None if there is none of this name. An entry point of this name is loaded.

        Args:
            name: The name.

        Raises:
            SpecError: The package that declares the name cannot be loaded, or several packages declare it.
        """
        if name in self._builtin:
            return self._builtin[name]
        if name not in self._registered:
            self._load_entry_point(name)
        registration = self._registered.get(name)
        if registration is None:
            return None
        return registration.definition

    def describe_unknown(self, name: str) -> str:
        """Return the error message for a name that has no definition.

        Args:
            name: The unknown name.
        """
        message = describe_unknown(self.kind, name, self)
        if closest_names(name, self):
            return message
        return (
            f"{message}. If a module of yours registers it, import that module first. A command finds definitions of "
            "installed packages that declare an entry point for them."
        )

    def find_registration(self, name: str) -> Registration[DefinitionT] | None:
        """Return how a definition was registered. None if it is built in, or if it is not registered or loaded yet.

        Args:
            name: The name.
        """
        return self._registered.get(name)

    def is_entry_point(self, name: object) -> bool:
        """Return True if an installed package declares the name as an entry point.

        Args:
            name: The name.
        """
        return any(point.name == name for point in self._entry_points())

    def add(self, name: object, definition: DefinitionT, owner: type[Any]) -> None:
        """Add a definition.

        A definition replaces an earlier one of the same name if their classes have the same module and qualified name,
        because then the module was reloaded or the cell of a notebook was run again.

        Args:
            name: The name.
            definition: The definition.
            owner: The class whose code defines it.

        Raises:
            SpecError: The name is not valid, or another definition has it.
        """
        source = Registration(definition, owner.__module__, owner.__qualname__)
        if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            raise SpecError(
                f"{source.source}: name {name!r}: expected text of letters, digits, dots, hyphens and underscores as "
                f"the name of the {self.kind}"
            )
        other = self._find_conflict(name, source)
        if other is not None:
            raise SpecError(
                f"{source.source}: the {self.kind} {name!r} exists already, in {other}. Choose another name."
            )
        self._registered[name] = source

    def _find_conflict(self, name: str, source: Registration[DefinitionT]) -> str | None:
        """Return where another definition of a name comes from, or None if there is none."""
        if name in self._builtin:
            return "sparsedial"
        previous = self._registered.get(name)
        if previous is not None:
            return None if previous.source == source.source else previous.source
        for point in self._entry_points():
            if point.name == name and _top_package(point.module) != _top_package(source.module):
                return f"the package {_distribution(point)}"
        return None

    def _entry_points(self) -> tuple[EntryPoint, ...]:
        return _find_entry_points(self.group, tuple(map(_describe_folder, sys.path)))

    def _load_entry_point(self, name: str) -> None:
        """Load the entry point of a name, if there is one, so that the name is registered."""
        points: dict[str, EntryPoint] = {}
        for point in self._entry_points():
            if point.name == name:
                points[point.value] = point
        if not points:
            return
        if len(points) > 1:
            packages = " and ".join(sorted(map(_distribution, points.values())))
            raise SpecError(
                f"{self.kind} {name!r}: several packages declare it: {packages}. Uninstall all but one of them."
            )
        [point] = points.values()
        try:
            loaded = point.load()
            if name not in self._registered:
                self._add_loaded(loaded)
        except Exception as error:  # the code of a package can raise any exception
            raise SpecError(self._describe_broken(point, f"{type(error).__name__}: {error}")) from error
        if name not in self._registered:
            raise SpecError(self._describe_broken(point, f"it defines no {self.kind} of this name"))

    def _describe_broken(self, point: EntryPoint, reason: str) -> str:
        return (
            f"{self.kind} {point.name!r}: the package {_distribution(point)} declares it as {point.value}, which "
            f"cannot be loaded ({reason}). Repair, update or uninstall that package."
        )


@lru_cache(maxsize=MAX_CACHED_SEARCHES)
def _find_entry_points(group: str, folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group. They are searched again if a package was installed or removed."""
    return tuple(entry_points(group=group))


def _describe_folder(path: str) -> tuple[str, int]:
    """Return a folder of the module search path, and when its content was changed, in nanoseconds."""
    try:
        return path, os.stat(path).st_mtime_ns  # noqa: PTH116  # the path may be empty, which means the current folder
    except OSError:
        return path, 0


def _distribution(point: EntryPoint) -> str:
    """Return name and version of the package that declares an entry point."""
    if point.dist is None:
        return point.module
    return f"{point.dist.name} {point.dist.version}"


def _top_package(module: str) -> str:
    return module.partition(".")[0]
