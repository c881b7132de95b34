"""Checks of the arguments of `sparsedial.measure` that are no part of the study, and of paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from sparsedial.errors import SpecError
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.progress_listener import ProgressListener

LISTENER_METHODS = ("log", "set_total", "set_current")


def check_path(value: Any, argument: str, expected: str) -> Path:
    """Return a path.

    Args:
        value: Text or a path.
        argument: Name of the argument, for the error message.
        expected: What the path has to be, for the error message.

    Returns:
        The path.

    Raises:
        SpecError: The value is neither text nor a path, or it is empty.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SpecError(f"{argument} {value!r}: expected {expected}")
    return Path(value)


def check_executor(executor: Any) -> None:
    """Check that an object says where trials are run.

    Args:
        executor: The argument ``executor`` of `sparsedial.measure`.

    Raises:
        SpecError: It is no `ExecutorConfig`.
    """
    if not isinstance(executor, ExecutorConfig):
        raise SpecError(
            f"executor {executor!r}: expected a configuration, such as ExecutorConfig('ray') of "
            "sparsedial.study.executors.base"
        )


def check_progress(progress: Any) -> bool | ProgressListener:
    """Return the argument ``progress`` of `sparsedial.measure` if it can be used.

    Args:
        progress: True, False, or an object with the methods of `ProgressListener`.

    Returns:
        The argument.

    Raises:
        SpecError: It is something else.
    """
    if isinstance(progress, bool):
        return progress
    missing = [name for name in LISTENER_METHODS if not callable(getattr(progress, name, None))]
    if missing or isinstance(progress, type):
        raise SpecError(
            f"progress {progress!r}: expected True, False, or an object with the methods {', '.join(LISTENER_METHODS)}"
        )
    listener: ProgressListener = progress
    return listener


def check_tokenizer(tokenizer: Any) -> None:
    """Check that an object may be a tokenizer. Only tasks that need one use it.

    Args:
        tokenizer: The argument ``tokenizer`` of `sparsedial.measure`.

    Raises:
        SpecError: It is no object that can be called with a text.
    """
    if tokenizer is None:
        return
    if not callable(tokenizer) or isinstance(tokenizer, type | nn.Module):
        raise SpecError(
            f"tokenizer: got {type(tokenizer).__name__} {tokenizer!r:.60}: expected the tokenizer that load_model or "
            "AutoTokenizer.from_pretrained returns, or None"
        )
