"""Empty values on the command line, such as that of an unset shell variable, which would mean something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

from sparsedial.study.dataclass_parsing import raise_problems


class ValueCheckingCommand(TyperCommand):
    """Command that refuses empty arguments and options. An empty path would mean the current directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments. A `SpecError` is raised if one of them is empty.

        Args:
            ctx: Context of the command.
            args: Words of the command line.

        Returns:
            The words that were not parsed.
        """
        raise_problems(list(describe_empty_values(args)))
        return super().parse_args(ctx, args)


def describe_empty_values(words: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each empty value.

    Args:
        words: Words of the command line.

    Yields:
        str: The option, if there is one, and what to do.

    >>> list(describe_empty_values(["m", "--out", ""])), list(describe_empty_values(["--site=", ""]))[1:]
    (["--out '': expected a value. Leave out the option for its default."], ["'': expected an argument"])
    """
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if not word.strip():
            option = words[index - 1] if index else ""
        elif not (word.startswith("--") and equals and not value.strip()):
            continue
        if option.startswith("-") and "=" not in option:
            yield f"{option} '': expected a value. Leave out the option for its default."
        else:
            yield "'': expected an argument"
