"""Progress of one job: its description, the completed work, and the speed of text generation."""

from __future__ import annotations

import time

from sparsedial.study.progress_listener import ProgressListener

SECONDS_BETWEEN_SPEEDS = 10.0
"""Minimum time between two speeds, because every speed is a line of the log where no bars are shown."""


class JobProgress:
    """Callback of a task, which passes the progress on to a listener.

    Args:
        listener: Receives the progress.
        description: Description of the job.
    """

    def __init__(self, listener: ProgressListener, description: str) -> None:
        self._listener = listener
        self._description = description
        self._text = description
        self._last_speed = time.monotonic()
        self._completed = (0, 1)

    def __call__(self, completed: int, total: int) -> None:
        """Report completed work.

        Args:
            completed: Number of completed units of work.
            total: Number of all units of work.
        """
        self._completed = (completed, total)
        self._listener.set_current(self._text, completed, total)

    def report_speed(self, tokens_per_second: float) -> None:
        """Report the speed of text generation, unless it was reported a short time ago.

        Args:
            tokens_per_second: Number of tokens that were generated per second so far.
        """
        now = time.monotonic()
        if now - self._last_speed < SECONDS_BETWEEN_SPEEDS:
            return
        self._last_speed = now
        self._text = f"{self._description}, {tokens_per_second:,.0f} tokens/s"
        self._listener.set_current(self._text, *self._completed)
