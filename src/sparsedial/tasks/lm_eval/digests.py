"""Hashes of a task's configuration, code and data, so that the identity of a trial depends on their content."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import types
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedial.tasks.lm_eval.source_files import imported_sources, is_task_file, read_source

UNHASHED_FIELDS = ("num_fewshot", "tag", "task_alias")
"""Fields of lm-eval's configuration that are separate entries of a task's identity, or that change no score."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
CONTAINERS = (list, tuple, set, frozenset, Mapping)
PLAIN_TYPES = (str, int, float, bool, type(None))


def config_digest(config: Any) -> str:
    """Return a SHA-256 of the configuration of an lm-eval task.

    Args:
        config: lm-eval's ``TaskConfig``.

    Returns:
        The digest, which does not depend on the location of the configuration file.
    """
    content = _omit_keys(vars(config), UNHASHED_FIELDS)
    content["metadata"] = _omit_keys(content.get("metadata") or {}, ("config_source",))
    return digest(content)


def code_digest(lm_eval_task: Any) -> str:
    """Return a SHA-256 of the code that an lm-eval task is made of, apart from its configuration.

    Args:
        lm_eval_task: Task of lm-eval, which has not run yet. Its class, metrics, aggregations and filters count.

    Returns:
        The digest.
    """
    return digest(_code(lm_eval_task))


def unread_code(lm_eval_task: Any) -> list[str]:
    """Return the places at which the code of a task loads code whose changes are not noticed.

    Args:
        lm_eval_task: Task of lm-eval.

    Returns:
        Sorted descriptions such as ``utils.py: exec``.
    """
    return Description([_code(lm_eval_task), vars(lm_eval_task.config)]).unread_code


def _code(lm_eval_task: Any) -> list[Any]:
    return [
        type(lm_eval_task),
        getattr(lm_eval_task, "_metric_fn_list", None),
        getattr(lm_eval_task, "_metric_fn_kwargs", None),
        lm_eval_task.aggregation(),
        lm_eval_task._filters,
    ]


def digest(value: Any) -> str:
    """Return a SHA-256 of data and code.

    Args:
        value: Nested dictionaries and lists, functions, classes and objects, see `Description`. The order of keys does
            not matter.

    Returns:
        The digest as 64 hexadecimal digits.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
        >>> digest(functools.partial(max, 1)) == digest(functools.partial(max, 2))
        False
    """
    return hashlib.sha256(json.dumps(Description(value).content, sort_keys=True).encode()).hexdigest()


def _omit_keys(mapping: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


class Description:
    """Description of data and code as JSON, which is the same in every process as long as the content is.

    A function counts as its name, the source files of the task that define it and that these import, its defaults, the
    values of its closure, and the global variables that it reads. A class counts as its source files, its bases and its
    methods, and an object as its class and its attributes. Functions and classes of installed packages count as their
    names, and their objects as their classes. The code of the task that creates such objects counts.

    Args:
        value: Value to describe.

    Attributes:
        content: JSON data.
    """

    def __init__(self, value: Any) -> None:
        self._numbers: dict[int, int] = {}  # by the ID of an object that has been described
        self._objects: list[Any] = []  # keeps these objects alive, so that no ID is used twice
        self._containers: set[int] = set()  # IDs of the containers around the value that is being described
        self._unread_code: set[str] = set()
        self.content = self._describe(value)

    @property
    def unread_code(self) -> list[str]:
        """Sorted places at which code is loaded that is not described, such as ``utils.py: exec``."""
        return sorted(self._unread_code)

    def _describe(self, value: Any) -> Any:
        if isinstance(value, PLAIN_TYPES):
            return value
        if isinstance(value, Path | complex):
            return str(value)
        if isinstance(value, bytes):
            return ["bytes", hashlib.sha256(value).hexdigest()]
        if isinstance(value, CONTAINERS):
            return self._describe_container(value)
        if id(value) in self._numbers:
            return ["repeated", self._numbers[id(value)]]
        self._numbers[id(value)] = len(self._numbers)
        self._objects.append(value)
        if isinstance(value, np.ndarray | np.generic | torch.Tensor):
            return self._describe_array(value)
        if isinstance(value, re.Pattern):
            return ["pattern", value.pattern, value.flags]
        if callable(value):
            return self._describe_callable(value)
        return self._describe_object(value)

    def _describe_container(self, value: Any) -> Any:
        if id(value) in self._containers:
            return ["cycle"]
        self._containers.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._describe_mapping(value)
            items = list(map(self._describe, value))
            if isinstance(value, set | frozenset):
                return ["set", sorted(items, key=json.dumps)]
            return items
        finally:
            self._containers.remove(id(value))

    def _describe_mapping(self, value: Mapping[Any, Any]) -> Any:
        if all(isinstance(key, str) for key in value):
            return dict(zip(value, map(self._describe, value.values()), strict=True))
        pairs = zip(map(self._describe, value), map(self._describe, value.values()), strict=True)
        return ["mapping", sorted(pairs, key=json.dumps)]

    def _describe_array(self, value: Any) -> Any:
        array = value
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu().double().numpy()
        if array.dtype.hasobject:
            return ["array", self._describe(array.tolist())]
        return ["array", str(value.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]

    def _describe_callable(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return ["partial", self._describe(value.func), self._describe(value.args), self._describe(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self._describe(value.__func__), self._describe(value.__self__)]
        if isinstance(value, types.FunctionType):
            return self._describe_function(value)
        if isinstance(value, type):
            return self._describe_class(value)
        if isinstance(value, types.BuiltinFunctionType):
            return ["builtin", value.__module__, value.__qualname__]
        if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):  # by a decorator such as lru_cache
            return ["wrapped", type(value).__qualname__, self._describe(value.__wrapped__)]
        return self._describe_object(value)

    def _describe_function(self, function: types.FunctionType) -> Any:
        file = function.__code__.co_filename
        if not is_task_file(file) and Path(file).is_file():
            return ["function", function.__module__, function.__qualname__]
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self._describe(cell.cell_contents))
            except ValueError:  # the cell is empty
                cells.append(None)
        defaults = [self._describe(function.__defaults__), self._describe(function.__kwdefaults__)]
        source: Any = self._describe_code(function.__code__)
        caches: frozenset[str] = frozenset()
        if is_task_file(file):
            source = self._describe_sources(file)
            caches = read_source(file).caches
        variables = {}
        for name in sorted({*_global_names(function.__code__)} - caches):
            if not isinstance(function.__globals__.get(name), types.ModuleType | None):
                variables[name] = self._describe(function.__globals__[name])
        line = function.__code__.co_firstlineno  # two lambda functions of one file have the same name
        return ["function", function.__qualname__, line, source, defaults, cells, variables]

    def _describe_sources(self, file: str) -> list[list[str]]:
        """Describe a file of the task, and the files that it imports."""
        sources = imported_sources(file)
        for source in sources:
            self._unread_code.update(f"{source.name}: {loader}" for loader in source.loaders)
        return [[source.name, source.sha256] for source in sources]

    def _describe_code(self, code: types.CodeType) -> Any:
        """Describe a function without a source file, for example one that `exec` has made."""
        constants = []
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                constants.append(self._describe_code(constant))
            else:
                constants.append(repr(constant))
        return ["code", hashlib.sha256(code.co_code).hexdigest(), constants, list(code.co_names)]

    def _describe_class(self, value: type) -> Any:
        file = _source_file(value)
        if not is_task_file(file):
            return ["class", value.__module__, value.__qualname__]
        functions = {}
        for name, attribute in sorted(vars(value).items()):
            function = getattr(attribute, "__func__", attribute)  # of a class method or static method
            if isinstance(function, types.FunctionType):
                functions[name] = self._describe(function)
        sources = self._describe_sources(str(file))
        return ["class", value.__qualname__, sources, self._describe(value.__bases__), functions]

    def _describe_object(self, value: Any) -> Any:
        """Describe an object by its class and, if a task or a dataclass defines them, by its attributes."""
        names: Iterable[str] = ()
        text = ""
        if is_dataclass(value):
            names = map(attrgetter("name"), fields(value))
        elif is_task_file(_source_file(type(value))):
            names = sorted({*getattr(value, "__dict__", ()), *_slots(type(value))})
        elif not hasattr(value, "__dict__") or isinstance(value, Enum):
            text = ADDRESS.sub("", repr(value))
        # The attributes of other objects of installed packages may be caches, paths and times.
        attributes = []
        for name in names:
            attributes.append([name, self._describe(getattr(value, name, None))])
        return ["object", self._describe(type(value)), attributes, text]


def _global_names(code: types.CodeType) -> Iterable[str]:
    """Yield the names that a function and the functions inside of it look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _slots(value: type) -> Iterable[str]:
    """Yield the names of the slots of a class and its bases."""
    for base in value.__mro__:
        slots = vars(base).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _source_file(value: type) -> str | None:
    """Return the file that defines a class, or None."""
    try:
        return inspect.getsourcefile(value)
    except TypeError:
        return None
