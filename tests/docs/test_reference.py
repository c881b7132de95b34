"""The reference pages: every public name, no warning about a docstring, and the command line as it is."""

import importlib
import logging
import re

import griffe
import pytest
import typer.main

import sparsedial as sd
from sparsedial.cli.application import app
from tests.docs.blocks import ROOT
from tools.documentation.command_line_page import describe_commands

PAGES = sorted((ROOT / "docs" / "reference").glob("*.md"))
SUBPACKAGES = ("tasks", "testing", "curves")


def documented_names():
    names = []
    for page in PAGES:
        names += re.findall(r"^::: (sparsedial\.[\w.]+)$", page.read_text(), re.MULTILINE)
    return names


def find_object(path):
    owner, _, name = path.rpartition(".")
    return getattr(importlib.import_module(owner), name)


def test_every_public_name_is_documented_once():
    names = documented_names()
    assert len(names) == len(set(names))
    assert {f"sparsedial.{name}" for name in sd.__all__} <= set(names)


@pytest.mark.parametrize("package", SUBPACKAGES)
def test_every_name_of_a_subpackage_is_documented(package):
    documented = [find_object(path) for path in documented_names()]
    module = importlib.import_module(f"sparsedial.{package}")
    for name in module.__all__:
        value = getattr(module, name)
        assert any(value is other for other in documented) or f"sparsedial.{package}.{name}" in documented_names(), name


def test_what_the_other_pages_import_is_documented():
    documented = [find_object(path) for path in documented_names()]
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")]:
        for module, names in re.findall(
            r"^from (sparsedial\.[\w.]+) import ([\w, ]+)$", page.read_text(), re.MULTILINE
        ):
            for name in names.split(", "):
                value = find_object(f"{module}.{name}")
                assert any(value is other for other in documented), f"{page.name}: {module}.{name}"


def test_the_docstrings_have_no_warnings(caplog):
    """The site generator drops these warnings, so they are looked for here."""
    package = griffe.load("sparsedial", search_paths=[ROOT / "src"], resolve_aliases=True)
    with caplog.at_level(logging.WARNING):
        for path in documented_names():
            parse_docstrings(package[path.removeprefix("sparsedial.")])
    assert not [record.getMessage() for record in caplog.records]


def parse_docstrings(documented):
    """Parse the docstring of an object and those of its public members."""
    target = documented.final_target if documented.is_alias else documented
    if target.docstring:
        target.docstring.parse("google")
    for member in target.members.values():
        is_public_code = not member.is_alias and not member.name.startswith("_") and not member.is_module
        if is_public_code:
            parse_docstrings(member)


def test_the_page_of_the_command_line_has_every_command_and_option():
    text = describe_commands()
    for name, command in typer.main.get_command(app).commands.items():
        section = text.partition(f"## sparsedial {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            for option in parameter.opts:
                assert f"`{option}`" in section or parameter.param_type_name == "argument", (name, option)
            assert parameter.help.split()[0] in section
