"""The end of a command whose output nobody reads any more, as in ``sparsedial report runs/a | head -1``."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from sparsedial.cli.exit_codes import EXIT_BROKEN_PIPE


def end_with_broken_pipe() -> NoReturn:
    """End the process quietly, with the exit code of one that SIGPIPE ended."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout once more at its end
    sys.exit(EXIT_BROKEN_PIPE)
