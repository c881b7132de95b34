"""Other processes: whether they run, and waiting for them."""

import time
from pathlib import Path

MAX_SECONDS = 60


def is_running(number):
    """Return True if a process exists and is no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition):
    """Wait until a function returns a true value, for at most a minute, and return that value."""
    deadline = time.monotonic() + MAX_SECONDS
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(0.02)
