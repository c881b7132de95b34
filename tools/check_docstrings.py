"""Check with pydoclint that public functions document their parameters, return values and errors.

    python -m tools.check_docstrings src/sparsedial

Some findings of pydoclint do not count:

- those of private functions and classes, of special methods, and of functions that are nested in others;
- a missing section ``Returns`` (DOC201) if the summary starts with "Return", and in properties;
- a missing section ``Yields`` (DOC402, DOC404) if the summary starts with "Yield";
- an error in the section ``Raises`` that a called function raises (DOC502, DOC503), because callers want to know about
  it as well;
- the parameters and errors of the commands in ``cli``, whose docstrings are their help texts and whose parameters are
  documented in the option declarations;
- the parameters of what numba and Triton compile.

The settings of pydoclint are in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

FINDING = re.compile(r"^\s+\d+: (?P<code>DOC\d+): (?:Function|Method|Class) `(?P<name>[\w.]+)`")
RAISES = re.compile(r"in the docstring: \[(?P<docstring>.*?)\]\. Raised exceptions in the body: \[(?P<body>.*?)\]")
PROPERTIES = {"property", "cached_property"}
PARAMETERS = {"DOC101", "DOC103", "DOC106", "DOC107"}
RAISES_SECTION = {"DOC501", "DOC503"}
DOCUMENTED_BY_SUMMARY = {"DOC201": "Return", "DOC402": "Yield", "DOC404": "Yield"}
COMMANDS = "/cli/"
DECLARED_ELSEWHERE = (
    COMMANDS,
    "/acceleration/cuda_kernels.py",
    "/kernels/cpu_numba.py",
    "/kernels/triton_kernel.py",
)


def is_violation(path: str, line: str) -> bool:
    """Return True if a line of pydoclint's output is a finding that counts.

    Args:
        path: File that the finding is about.
        line: One line of the output.

    Example:
        >>> is_violation(__file__, "    12: DOC101: Function `main`: Docstring contains fewer arguments")
        True
        >>> is_violation(__file__, "    12: DOC101: Function `_names`: Docstring contains fewer arguments")
        False
        >>> is_violation(__file__, "    12: DOC201: Function `is_violation` does not have a return section")
        False
    """
    finding = FINDING.match(line)
    if finding is None:
        return False
    code = finding["code"]
    function = read_functions(path).get(finding["name"])
    if function is None or code == "DOC502":
        return False
    if code in DOCUMENTED_BY_SUMMARY:
        summary = ast.get_docstring(function) or ""
        return not summary.startswith(DOCUMENTED_BY_SUMMARY[code]) and not _is_property(function)
    if code in PARAMETERS:
        return not any(part in path for part in DECLARED_ELSEWHERE)
    if code in RAISES_SECTION and COMMANDS in path:
        return False
    if code == "DOC503":
        exceptions = RAISES.search(line)
        return exceptions is None or not _names(exceptions["body"]) <= _names(exceptions["docstring"])
    return True


@cache
def read_functions(path: str) -> dict[str, ast.FunctionDef | ast.ClassDef]:
    """Return the public functions, methods and classes of a file.

    Args:
        path: A Python file.

    Returns:
        Their definitions by name. The name of a method contains that of its class.
    """
    functions: dict[str, ast.FunctionDef | ast.ClassDef] = {}
    module = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        functions[node.name] = node
        for child in node.body:
            is_method = isinstance(node, ast.ClassDef) and isinstance(child, ast.FunctionDef)
            if is_method and not child.name.startswith("_"):
                functions[f"{node.name}.{child.name}"] = child
    return functions


def main(paths: list[str]) -> int:
    """Run pydoclint and print the findings that count.

    Args:
        paths: Files or folders.

    Returns:
        Exit status: 0 if there are none.
    """
    command = [sys.executable, "-m", "pydoclint.main", *paths]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    violations = 0
    path = ""
    for line in (output.stdout + output.stderr).splitlines():
        if line.endswith(".py"):
            path = line
        elif is_violation(path, line):
            print(f"{path}:{line.strip()}")
            violations += 1
    print(f"pydoclint: {violations} findings")
    return int(violations > 0)


def _is_property(function: ast.FunctionDef | ast.ClassDef) -> bool:
    return any(isinstance(decorator, ast.Name) and decorator.id in PROPERTIES for decorator in function.decorator_list)


def _names(listed: str) -> set[str]:
    return {name.strip(" '") for name in listed.split(",") if name.strip(" '")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
