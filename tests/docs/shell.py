"""Command lines of the documentation: split, executed, or checked without being executed."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer.main

import sparsedial.measurement.measure as measure_module
import sparsedial.measurement.study_measurement as study_module
from sparsedial.cli.application import app
from sparsedial.cli.main import main
from sparsedial.errors import SparsedialError
from sparsedial.study.executors.base import ExecutorConfig
from tests.docs.blocks import ROOT

PARSED_ONLY = ("inspect", "report", "figures", "fsck")
PLACEHOLDER = re.compile(r"^([A-Z_]+|[A-Z]+\.yaml|DIR/study.json)$")
OTHER_PROGRAMS = ("pip", "srun", "head=$(scontrol", "ray", "sbatch", "cd", "git", "export")


class WrongCommandError(AssertionError):
    """A command line that would not run."""


class CheckedError(Exception):
    """Ends a command when all of its arguments have been checked."""


def split_commands(code: str) -> list[list[str]]:
    """Return the words of each command of a shell block."""
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        commands += split_at(shlex.split(line, comments=True), "&&")
    return [words for words in commands if words]


def split_at(words: list[str], separator: str) -> list[list[str]]:
    """Split a list of words at a separator."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def run_command(words: list[str], monkeypatch: Any) -> None:
    """Execute one command in the current folder."""
    if words[0] == "sparsedial":
        assert run_sparsedial(words, monkeypatch) in (0, None), shlex.join(words)
    elif words[0] == "pytest":
        process = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", *words[1:]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stdout + process.stderr
    else:
        raise WrongCommandError(f"{shlex.join(words)}: mark the block with `checked only` or use sparsedial and pytest")


def run_sparsedial(words: list[str], monkeypatch: Any) -> Any:
    """Run a sparsedial command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", words)
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


def check_command(words: list[str], monkeypatch: Any, files: set[str] = frozenset()) -> None:
    """Check the names, options and files of one command without running it.

    Args:
        words: The command.
        monkeypatch: The fixture.
        files: Names of files that earlier blocks of the page contain.

    Raises:
        WrongCommandError: The command would not run.
    """
    if "sparsedial" in words and words[0] in ("sparsedial", "srun"):
        check_sparsedial(words[words.index("sparsedial") :], monkeypatch, files)
    elif words[0] == "make":
        check_make(words)
    elif words[0] == "python":
        check_python(words)
    elif words[0] == "pytest":
        for word in words[1:]:
            if not word.startswith("-") and word not in files and not (ROOT / word).exists():
                raise WrongCommandError(f"{word} is not a file")
    elif words[0] not in OTHER_PROGRAMS:
        raise WrongCommandError(f"unknown program {words[0]}")


def check_option_names(words: list[str]) -> None:
    """Check that a sparsedial command and its options exist. The command may be incomplete.

    Raises:
        WrongCommandError: The command or an option does not exist.
    """
    if len(words) < 2 or words[1].startswith("-") or PLACEHOLDER.match(words[1]):
        return
    command = find_command(words[1])
    names = {"--help"}
    for parameter in command.params:
        names.update([*parameter.opts, *parameter.secondary_opts])
    for word in words[2:]:
        name = word.partition("=")[0]
        if name.startswith("--") and name not in names:
            raise WrongCommandError(f"sparsedial {words[1]} has no option {name}")


def find_command(name: str) -> Any:
    """Return a command of sparsedial.

    Raises:
        WrongCommandError: There is no such command.
    """
    group = typer.main.get_command(app)
    command = group.get_command(group.make_context("sparsedial", [], resilient_parsing=True), name)
    if command is None:
        raise WrongCommandError(f"sparsedial has no command {name}")
    return command


def check_sparsedial(words: list[str], monkeypatch: Any, files: set[str]) -> None:
    """Check a sparsedial command: its options, and for `run` and `study` the study that it describes."""
    name, arguments = words[1], words[2:]
    command = find_command(name)
    if name == "study":
        arguments = [choose_study_file(arguments[0], files), *arguments[1:]]
    try:
        command.make_context(name, list(arguments))
    except Exception as error:  # typer has its own copy of click's errors
        raise WrongCommandError(f"{shlex.join(words)}: {getattr(error, 'message', error)}") from error
    if name in PARSED_ONLY:
        return

    def end_checked(spec: Any, *others: Any, **named: Any) -> None:
        problems = find_problems(spec)
        for value in [*others, *named.values()]:
            if isinstance(value, ExecutorConfig):
                problems += value.problems()
        if problems:
            raise WrongCommandError(f"{shlex.join(words)}: {problems}")
        raise CheckedError

    monkeypatch.setattr(measure_module, "measure_study", end_checked)
    monkeypatch.setattr(study_module, "measure_study", end_checked)
    monkeypatch.setattr("sparsedial.cli.study_command._preview", end_checked)
    monkeypatch.chdir(ROOT)
    try:
        code = run_sparsedial(["sparsedial", name, *arguments], monkeypatch)
    except CheckedError:
        return
    raise WrongCommandError(f"{shlex.join(words)}: exit code {code}")


def find_problems(spec: Any) -> list[str]:
    """Return the problems of a study, except models, data and tasks that are not on this machine."""
    problems = spec.setting_problems("auto")
    include_path = spec.task_options.get("include_path")
    if include_path is None or Path(include_path).exists():
        try:
            spec.all_tasks()
        except SparsedialError as error:
            problems.append(str(error))
    return [problem for problem in problems if "dataset could not be loaded" not in problem]


def choose_study_file(name: str, files: set[str]) -> str:
    """Return a study file that takes the place of the one that a command names.

    Args:
        name: The file of the command.
        files: Names of files that earlier blocks of the page contain. Their content is checked there.

    Raises:
        WrongCommandError: The file does not exist.
    """
    if (ROOT / name).exists():
        return name
    if name in files or PLACEHOLDER.match(name) or name.startswith("/"):
        return "examples/scaling.yaml"
    found = [path for path in (ROOT / "examples").rglob("*.yaml") if path.name == Path(name).name]
    if not found:
        raise WrongCommandError(f"{name} is not a file")
    return str(found[0])


def check_make(words: list[str]) -> None:
    """Check that the targets exist."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words[1:]:
        if "=" not in word and word not in targets:
            raise WrongCommandError(f"make has no target {word}")


def check_python(words: list[str]) -> None:
    """Check that a script or module exists, and that its source contains each option."""
    if words[1] == "-m":
        specification = importlib.util.find_spec(words[2])
        if specification is None or specification.origin is None:
            raise WrongCommandError(f"no module {words[2]}")
        path = Path(specification.origin)
        if path.name == "__init__.py":
            path = path.with_name("__main__.py")
        options = words[3:]
    else:
        path, options = ROOT / words[1], words[2:]
    if not path.is_file():
        raise WrongCommandError(f"{words[1]} is not a file")
    if "lm_eval" in path.as_posix() or "site-packages" in path.as_posix():
        return
    source = path.read_text() + (ROOT / "benchmarks" / "environment.py").read_text()
    for option in options:
        name = option.partition("=")[0]
        is_known = f'"{name}"' in source or f'"{name.replace("--no-", "--")}"' in source
        if option.startswith("--") and not is_known:
            raise WrongCommandError(f"{path.name} has no option {name}")
