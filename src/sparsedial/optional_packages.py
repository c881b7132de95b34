"""Packages that only some features need, and the extras of sparsedial that install them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from sparsedial.errors import SparsedialError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "eval": ("lm_eval", "datasets", "langdetect", "immutabledict", "nltk"),
    "report": ("altair", "vl_convert"),
    "gguf": ("gguf",),
    "ray": ("ray",),
}
"""The modules that each extra installs. ``pyproject.toml`` has the distributions and their versions."""

_USED_BY_FEW_TASKS = ("langdetect", "immutabledict", "nltk")
"""Modules that are missed only by the tasks of lm-eval that import them."""


def find_missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed and that every use of the extra needs.

    Args:
        extra: One of `EXTRAS`.

    Returns:
        The names. Nothing is imported.
    """
    missing = []
    for module in EXTRAS[extra]:
        if module not in _USED_BY_FEW_TASKS and find_spec(module) is None:
            missing.append(module)
    return missing


def describe_missing_extra(extra: str, purpose: str) -> str | None:
    """Return a sentence about an extra that is not installed, or None if it is.

    Args:
        extra: One of `EXTRAS`.
        purpose: What needs the extra, such as "the HTML report".

    Returns:
        The missing modules and the command that installs them.
    """
    missing = find_missing_modules(extra)
    if not missing:
        return None
    return f"{purpose}: {' and '.join(missing)} not installed: {install_command(extra)}"


def require_extra(extra: str, purpose: str, error: type[SparsedialError] = SparsedialError) -> None:
    """Raise an error if an extra is not installed.

    Args:
        extra: One of `EXTRAS`.
        purpose: What needs the extra, such as "the HTML report".
        error: Class of the error. Defaults to `SparsedialError`.

    Raises:
        error: A module of the extra is missing. The message has the command that installs it.
    """
    message = describe_missing_extra(extra, purpose)
    if message is not None:
        raise error(message)


def install_command(extra: str) -> str:
    """Return the command that installs an extra.

    Args:
        extra: One of `EXTRAS`.

    Example:
        >>> install_command("eval")
        "pip install 'sparsedial[eval]'"
    """
    return f"pip install 'sparsedial[{extra}]'"


def find_extra(module: str) -> str | None:
    """Return the extra that installs a module, or None if no extra does.

    Args:
        module: Name of a top-level module.

    Example:
        >>> find_extra("langdetect"), find_extra("emoji")
        ('eval', None)
    """
    for extra, modules in EXTRAS.items():
        if module in modules:
            return extra
    return None
