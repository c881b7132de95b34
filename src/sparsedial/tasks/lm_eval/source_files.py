"""Source files of a task's own code, and of the modules that it imports."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path

INSTALLED_FOLDERS = ("site-packages", "dist-packages")
TASK_FOLDERS = (("lm_eval", "tasks"), ("sparsedial_zoo", "tasks"))
"""Folders with the code of the tasks of lm-eval and of the model zoo, which counts as code of the task."""
VERSIONED_PACKAGES = ("sparsedial", "lm_eval")
"""Packages whose version is part of a task's identity, so that their files are not read even if they are editable."""
LOADERS = ("exec", "import_module", "__import__", "spec_from_file_location", "run_path", "run_module")
"""Functions that load code."""
EMPTY_CONTAINERS = ("dict", "list", "set", "defaultdict", "OrderedDict", "Counter", "deque")
"""Functions that create an empty container, which is used as a cache if it is a global variable."""
MAX_CACHED_FILES = 256


def is_task_file(path: str | Path | None) -> bool:
    """Return True if a file belongs to a task, False if it belongs to Python or to an installed package.

    Args:
        path: Python file. None, or a file that does not exist, belongs to no task.
    """
    if path is None or not Path(path).is_file():
        return False
    resolved = Path(path).resolve()
    parts = resolved.parts
    if any(pair in TASK_FOLDERS for pair in pairwise(parts)):
        return True
    if any(folder in parts for folder in INSTALLED_FOLDERS):
        return False
    if any(resolved.is_relative_to(_package_folder(name)) for name in VERSIONED_PACKAGES):
        return False
    return not resolved.is_relative_to(sysconfig.get_path("stdlib"))


def read_source(path: str | Path) -> SourceFile:
    """Return what is known about a Python file of a task.

    Args:
        path: The file.
    """
    resolved = Path(path).resolve()
    return _parse_source(resolved, resolved.read_bytes())


@cache
def _read_imported_source(path: Path) -> SourceFile:
    """Return what is known about an imported file. It is read once, because Python imports a module once."""
    return _parse_source(path, path.read_bytes())


def imported_sources(path: str | Path) -> list[SourceFile]:
    """Return a source file and all files of the task that it imports, directly or not.

    Imports are read from the text, so those inside of functions are included. Code that is loaded in another way, for
    example by `exec`, is not.

    Args:
        path: Python file of the task.

    Returns:
        The files, sorted by name and content.
    """
    resolved = Path(path).resolve()
    sources = {resolved: read_source(resolved)}
    remaining = list(sources[resolved].imports)
    while remaining:
        file = remaining.pop()
        if file not in sources:
            sources[file] = _read_imported_source(file)
            remaining += sources[file].imports
    return sorted(sources.values(), key=lambda source: (source.name, source.sha256))


@dataclass(frozen=True)
class SourceFile:
    """Python file of a task.

    Attributes:
        name: Name without the folder.
        sha256: SHA-256 of the content.
        imports: Files of the task that it imports.
        caches: Names of global variables that are empty containers at first, which functions fill while they run.
        loaders: Names of functions, such as `exec`, with which it loads code that its text does not name.
    """

    name: str
    sha256: str
    imports: tuple[Path, ...]
    caches: frozenset[str]
    loaders: tuple[str, ...]


@lru_cache(maxsize=MAX_CACHED_FILES)
def _parse_source(path: Path, content: bytes) -> SourceFile:
    tree: ast.Module
    try:
        tree = ast.parse(content)
    except SyntaxError:  # the file is not Python 3 code, although it has been loaded
        tree = ast.Module([], [])
    imports = []
    for file in _imported_files(tree, path):
        if is_task_file(file):
            imports.append(Path(str(file)).resolve())
    return SourceFile(
        name=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        imports=tuple(dict.fromkeys(imports)),
        caches=frozenset(_cache_names(tree)),
        loaders=tuple(sorted(set(_loader_names(tree)))),
    )


def _imported_files(tree: ast.Module, path: Path) -> Iterator[str | None]:
    """Yield the file of each imported module, or None for modules without a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:  # a name may be a module of a package
                yield _find_module(".".join(filter(None, (node.module, alias.name))), path, node.level)
            if node.module:
                yield _find_module(node.module, path, node.level)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield _find_module(alias.name, path)
        elif isinstance(node, ast.Call) and _called_name(node) in LOADERS and _is_text(node.args[:1]):
            yield _find_module(ast.literal_eval(node.args[0]), path)


def _find_module(name: str, path: Path, level: int = 0) -> str | None:
    """Return the file of a module, without importing it.

    Args:
        name: Dotted name of the module.
        path: File that imports it.
        level: Number of dots before the name, 0 for an absolute import.

    Returns:
        The file, or None if there is none.
    """
    search: Sequence[str] = [str(path.parent), *sys.path]
    if level:
        search = [str(path.parents[level - 1])]
    elif name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    file = None
    for part in name.split("."):
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            return None
        file = spec.origin
        search = spec.submodule_search_locations or []
    return file


def _cache_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of global variables to which an empty container is assigned."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and _is_empty_container(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id


def _is_empty_container(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Dict):
        return not node.keys
    if isinstance(node, ast.List):
        return not node.elts
    return isinstance(node, ast.Call) and _called_name(node) in EMPTY_CONTAINERS


def _loader_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names of functions with which code is loaded that the text does not name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called_name(node) in LOADERS:
            is_named = _is_text(node.args[:1]) and _called_name(node) != "exec"
            if not is_named:
                yield _called_name(node)


def _is_text(nodes: Sequence[ast.expr]) -> bool:
    """Return True if all nodes, and at least one, are text literals."""
    return bool(nodes) and all(isinstance(node, ast.Constant) and isinstance(node.value, str) for node in nodes)


def _called_name(node: ast.Call) -> str:
    """Return the last part of the name of a called function."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _package_folder(name: str) -> Path:
    """Return the folder of an installed package."""
    spec = PathFinder.find_spec(name)
    if spec is None or spec.origin is None:
        return Path(name)
    return Path(spec.origin).resolve().parent
