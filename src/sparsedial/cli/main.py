"""Start of the command line. It imports what takes seconds only inside of `main`, where Ctrl-C is handled."""

from __future__ import annotations

import sys

from sparsedial.cli.broken_pipe import end_with_broken_pipe
from sparsedial.cli.exit_codes import EXIT_INTERRUPTED


def main() -> None:
    """Run the command line. Ctrl-C during its imports ends it like a command that was interrupted."""
    try:
        from sparsedial.cli.application import run_application

        run_application()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            end_with_broken_pipe()
        raise
