"""Python blocks that are only checked: their syntax, names and arguments."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
from types import ModuleType
from typing import Any

import sparsedial as sd
from sparsedial.study.run_command_options import TASK_OPTIONS

OPTIONAL_LIBRARIES = {"peft", "bitsandbytes", "torchao", "optimum", "hqq"}
UNKNOWN = object()


class WrongNameError(AssertionError):
    """A name or an argument that does not exist."""


class NameChecker(ast.NodeVisitor):
    """Follows the names of the blocks of a page.

    Attributes:
        values: What is known about each name: a module, class or function, or `UNKNOWN`.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def check(self, code: str, first_line: int = 1) -> None:
        """Check a block, which may use the names of earlier ones.

        Raises:
            WrongNameError: A name or an argument does not exist.
        """
        tree = ast.parse("\n" * (first_line - 1) + code)
        for node in ast.walk(tree):
            self._add_names(node)
        self.visit(tree)

    def _add_names(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            self.values[node.id] = UNKNOWN
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.values[node.name] = UNKNOWN
        elif isinstance(node, ast.arg):
            self.values[node.arg] = UNKNOWN
        elif isinstance(node, ast.Import):
            for name in node.names:
                module = import_module(name.name)
                self.values[name.asname or name.name.partition(".")[0]] = module
        elif isinstance(node, ast.ImportFrom):
            module = import_module(node.module or "")
            for name in node.names:
                self.values[name.asname or name.name] = find_attribute(module, name.name)

    def visit_Name(self, node: ast.Name) -> None:
        """Check that a name is known."""
        if node.id not in self.values and not hasattr(builtins, node.id):
            raise WrongNameError(f"line {node.lineno}: the name {node.id} is not defined")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Check that an attribute of a module or class exists."""
        self.find_value(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Check that a function has the named arguments."""
        function = self.find_value(node.func)
        if function is not UNKNOWN and callable(function):
            check_arguments(function, node)
        self.generic_visit(node)

    def find_value(self, node: ast.AST) -> Any:
        """Return the object that an expression names, or `UNKNOWN`."""
        if isinstance(node, ast.Name):
            return self.values.get(node.id, getattr(builtins, node.id, UNKNOWN))
        if isinstance(node, ast.Attribute):
            return find_attribute(self.find_value(node.value), node.attr)
        return UNKNOWN


def import_module(name: str) -> Any:
    """Import a module, or return `UNKNOWN` for a library that is not required."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if name.partition(".")[0] in OPTIONAL_LIBRARIES:
            return UNKNOWN
        raise WrongNameError(str(error)) from error


def find_attribute(owner: Any, name: str) -> Any:
    """Return an attribute of a module or class, or `UNKNOWN` for that of another object."""
    if not isinstance(owner, ModuleType | type):
        return UNKNOWN
    if not hasattr(owner, name):
        try:
            return importlib.import_module(f"{owner.__name__}.{name}")
        except ImportError as error:
            raise WrongNameError(f"{owner.__name__} has no attribute {name}") from error
    return getattr(owner, name)


def check_arguments(function: Any, call: ast.Call) -> None:
    """Check the named arguments of a call, as far as the function names its parameters."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    known = set(parameters)
    if function is sd.measure:
        known |= set(TASK_OPTIONS)
        takes_any = False
    for keyword in call.keywords:
        if keyword.arg is not None and not takes_any and keyword.arg not in known:
            raise WrongNameError(f"line {call.lineno}: {function.__name__} has no argument {keyword.arg}")
