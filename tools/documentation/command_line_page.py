"""Write the reference of the command line from its own definition."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import typer.main

from sparsedial.cli.application import app

PLACEHOLDER = "<!-- commands -->"
OTHER_OPTIONS = "Options"
VALUE_NAMES = {bool: "", str: "text", int: "integer", float: "number", Path: "path"}


def add_commands(page: Path) -> None:
    """Replace the placeholder of a page by the description of all commands.

    Args:
        page: Markdown file with a line ``<!-- commands -->``.

    Raises:
        ValueError: The page has no placeholder.
    """
    text = page.read_text(encoding="utf-8")
    if PLACEHOLDER not in text:
        raise ValueError(f"{page} has no line {PLACEHOLDER}")
    page.write_text(text.replace(PLACEHOLDER, describe_commands()), encoding="utf-8")


def describe_commands() -> str:
    """Return a section in Markdown for each command."""
    group = typer.main.get_command(app)
    context = group.make_context("sparsedial", [], resilient_parsing=True)
    sections = []
    for name in group.list_commands(context):
        sections.append(describe_command(name, group.get_command(context, name)))
    return "\n\n".join(sections)


def describe_command(name: str, command: Any) -> str:
    """Return a section in Markdown for one command.

    Args:
        name: Name of the command.
        command: Command of typer.
    """
    arguments = [argument_name(parameter) for parameter in command.params if is_argument(parameter)]
    usage = " ".join(["sparsedial", name, *arguments, "[OPTIONS]"])
    lines = [f"## sparsedial {name}", "", (command.help or "").strip(), "", "```text", usage, "```"]
    annotations = typing.get_type_hints(command.callback)
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        panels.setdefault(panel_of(parameter), []).append(describe_parameter(parameter, annotations[parameter.name]))
    for panel, rows in panels.items():
        lines += ["", f"**{panel}**", "", "| name | value | meaning |", "| --- | --- | --- |", *rows]
    return "\n".join(lines)


def is_argument(parameter: Any) -> bool:
    """Return True for an argument and False for an option."""
    return parameter.param_type_name == "argument"


def argument_name(parameter: Any) -> str:
    """Return the name of an argument in a usage line."""
    return parameter.metavar or parameter.name.upper()


def panel_of(parameter: Any) -> str:
    """Return the heading under which ``--help`` shows a parameter."""
    if is_argument(parameter):
        return "Arguments"
    return parameter.rich_help_panel or OTHER_OPTIONS


def describe_parameter(parameter: Any, annotation: Any) -> str:
    """Return the row of a table for one argument or option.

    Args:
        parameter: Argument or option of a command.
        annotation: Type of the parameter of the Python function.
    """
    names = [argument_name(parameter)] if is_argument(parameter) else [*parameter.opts, *parameter.secondary_opts]
    meaning = escape(parameter.help or "")
    is_plain_default = isinstance(parameter.default, str | int | float) and not isinstance(parameter.default, bool)
    if is_plain_default and "Default" not in meaning:
        meaning += f" Default: `{parameter.default}`."
    if parameter.required:
        meaning += " Required."
    code = ", ".join(f"`{escape(name)}`" for name in names)
    return f"| {code} | {VALUE_NAMES[item_type(annotation)]} | {meaning.strip()} |"


def item_type(annotation: Any) -> type:
    """Return the type of one value of a parameter.

    Args:
        annotation: Type, possibly of a list or optional.

    Example:
        >>> item_type(list[str] | None)
        <class 'str'>
    """
    for argument in typing.get_args(annotation):
        if argument is not type(None):
            return item_type(argument)
    return annotation


def escape(text: str) -> str:
    """Return a text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
