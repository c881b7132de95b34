"""Output to terminals and pipes that cannot show all characters, such as ASCII or cp1252.

Files are not affected. They are always written as UTF-8.
"""

from __future__ import annotations

import codecs
import io
import sys

ERROR_HANDLER = "sparsedial-ascii"
"""Name of the codec error handler that `make_output_encodable` installs."""

ASCII_EQUIVALENTS = {
    "≥": ">=",
    "≤": "<=",
    "±": "+/-",
    "×": "x",
    "·": "-",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "⚠": "!",
    "\N{REPLACEMENT CHARACTER}": "?",
}
"""ASCII text for characters of the tables, notes and errors."""

BOX_DRAWING = range(0x2500, 0x2580)
BRAILLE = range(0x2800, 0x2900)


def make_output_encodable() -> None:
    """Let stdout and stderr replace characters that their encoding does not have, instead of raising an error."""
    codecs.register_error(ERROR_HANDLER, _replace_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERROR_HANDLER)


def to_ascii(text: str) -> str:
    r"""Return text with an ASCII equivalent of each other character.

    Args:
        text: Any text.

    Returns:
        ASCII text. A character without an equivalent becomes an escape sequence.

    Example:
        >>> to_ascii("≥ 35%, 0.4–0.6, Größe")
        '>= 35%, 0.4-0.6, Gr\\xf6\\xdfe'
    """
    parts = []
    for character in text:
        if character.isascii():
            parts.append(character)
        elif ord(character) in BOX_DRAWING:
            parts.append("-")
        elif ord(character) in BRAILLE:
            parts.append("*")
        elif character in ASCII_EQUIVALENTS:
            parts.append(ASCII_EQUIVALENTS[character])
        else:
            parts.append(character.encode("ascii", "backslashreplace").decode("ascii"))
    return "".join(parts)


def _replace_characters(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded. The arguments and the result are those of `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return to_ascii(error.object[error.start : error.end]), error.end
