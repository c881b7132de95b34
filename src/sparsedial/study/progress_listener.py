"""Listeners that are notified while a study runs."""

from __future__ import annotations

from typing import Protocol


class ProgressListener(Protocol):
    """Interface of listeners, which receive messages and progress while a study runs."""

    def log(self, message: str) -> None:
        """Show one line.

        Args:
            message: Text without a trailing newline.
        """

    def set_total(self, finished: float, total: float) -> None:
        """Update the progress of the whole study.

        Args:
            finished: Number of finished trials.
            total: Number of trials. It is an estimate while a search is running.
        """

    def set_current(self, description: str, finished: int, total: int) -> None:
        """Update the progress of the current job.

        Args:
            description: Description of the job.
            finished: Number of finished steps of the job.
            total: Number of steps of the job.
        """


class NullListener:
    """Listener that ignores all messages and progress."""

    def log(self, message: str) -> None:
        """Do nothing.

        Args:
            message: Text without a trailing newline. It is not shown.
        """

    def set_total(self, finished: float, total: float) -> None:
        """Do nothing.

        Args:
            finished: Number of finished trials. It is ignored.
            total: Number of trials. It is ignored.
        """

    def set_current(self, description: str, finished: int, total: int) -> None:
        """Do nothing.

        Args:
            description: Description of the job. It is ignored.
            finished: Number of finished steps of the job. It is ignored.
            total: Number of steps of the job. It is ignored.
        """
