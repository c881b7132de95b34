"""Messages between a driver and its child process: one JSON object per line."""

from __future__ import annotations

import json
from typing import IO, Any


def send_message(stream: IO[bytes] | None, message: dict[str, Any]) -> None:
    """Write one message and flush the stream.

    Args:
        stream: The stream. If it is None, nothing is written.
        message: A JSON object.
    """
    if stream is None:
        return
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive_message(stream: IO[bytes] | None) -> Any:
    """Read one message.

    Args:
        stream: The stream. None is treated as an ended stream.

    Returns:
        A JSON object. None at the end of the stream, even if its last line is incomplete.
    """
    line = b"" if stream is None else stream.readline()
    return json.loads(line) if line.endswith(b"\n") else None
