"""Arguments of module calls, as forward hooks receive them."""

from __future__ import annotations

from typing import Any


def first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first argument of a module call.

    Args:
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Returns:
        The first positional argument. If there is none, the first keyword argument, or None without any arguments.
    """
    if args:
        return args[0]
    return next(iter(kwargs.values()), None)
