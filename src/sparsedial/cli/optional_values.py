"""Options of the command line whose value may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsedial.cli.empty_values import ValueCheckingCommand
from sparsedial.study.run_command_options import option_name
from sparsedial.tasks.chat_template import CHOICES, ON

CHAT_TEMPLATE_OPTION = option_name("apply_chat_template")
VALUES = (*CHOICES, "true", "false", "yes", "no")
"""Words that are taken for the value of the option. The last ones may be an error, but are no name of a model."""


class OptionalValueCommand(ValueCheckingCommand):
    """Command with an option that may be given without its value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, after the value that was left out has been added.

        Args:
            ctx: Context of the command.
            args: Words of the command line.

        Returns:
            The words that were not parsed.
        """
        return super().parse_args(ctx, complete_chat_template(args))


def complete_chat_template(words: Sequence[str]) -> list[str]:
    """Add the value ``on`` to the option for the chat template if it has no value.

    Args:
        words: Words of the command line.

    Returns:
        The words with the value.

    >>> complete_chat_template(["--apply-chat-template", "--limit", "3"])
    ['--apply-chat-template', 'on', '--limit', '3']
    >>> complete_chat_template(["--apply-chat-template", "auto"])
    ['--apply-chat-template', 'auto']
    """
    completed: list[str] = []
    for index, word in enumerate(words):
        completed.append(word)
        if word == CHAT_TEMPLATE_OPTION and (index + 1 == len(words) or words[index + 1].lower() not in VALUES):
            completed.append(ON)
    return completed
