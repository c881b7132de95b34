"""File systems that lack an operation, as seen by `sparsedial.files`."""

import errno
import os

import pytest

from sparsedial import files
from sparsedial.files import ExclusiveMove

LINK_ERRORS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP)


def refuse(error):
    """Return a function that fails as an operation that the file system does not support."""

    def unsupported(source, target):
        raise OSError(error, os.strerror(error), str(source), None, str(target))

    return unsupported


def allow_only(move, error=errno.EPERM, patch=None):
    """Let the file system move files into place in one way, and in no better one.

    Args:
        move: A value of `ExclusiveMove`.
        error: What a hard link fails with.
        patch: A `pytest.MonkeyPatch`. Defaults to one that is never undone, for a child process.
    """
    patch = patch or pytest.MonkeyPatch()
    if move != ExclusiveMove.HARD_LINK:
        patch.setattr(os, "link", refuse(error))
    if move == ExclusiveMove.LOCK:
        patch.setattr(files, "rename_exclusively", refuse(errno.EINVAL))
