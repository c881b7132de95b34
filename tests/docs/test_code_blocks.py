"""Every code block of the README and of docs/ runs or, where a marker says so, is checked."""

import doctest
import json
import tomllib
from dataclasses import fields

import pytest
import yaml

from sparsedial.study.spec import StudySpec
from tests.docs.blocks import PAGES, ROOT, SHELL, inline_commands, read_blocks
from tests.docs.python_names import NameChecker
from tests.docs.shell import (
    WrongCommandError,
    check_command,
    check_option_names,
    find_problems,
    run_command,
    split_commands,
)

FIELDS = {field.name for field in fields(StudySpec)}
WITH_BLOCKS = [page for page in PAGES if read_blocks(page)]


def page_id(page):
    return page.relative_to(ROOT).as_posix()


@pytest.mark.timeout(150)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=page_id)
def test_the_blocks_run(page, page_folder, monkeypatch):
    """The blocks of a page run one after the other, in one namespace and one folder."""
    namespace = {"__name__": "page"}
    names = NameChecker()
    files = set()
    for block in read_blocks(page):
        if block.file_name is not None:
            files.add(block.file_name)
            (page_folder / block.file_name).parent.mkdir(parents=True, exist_ok=True)
            (page_folder / block.file_name).write_text(block.executed_code, encoding="utf-8")
        if block.language == "python":
            use_python(block, namespace, names)
        elif block.language in SHELL:
            use_shell(block, page_folder, files)
        else:
            use_data(block)


def use_python(block, namespace, names):
    """Execute or check a block of Python."""
    if block.code.startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(block.executed_code, {}, block.place, str(block.page), block.line)
        failed, _ = doctest.DocTestRunner(verbose=False).run(test)
        assert not failed, block.place
        return
    if block.reason is None and block.file_name is None:
        code = compile("\n" * (block.line - 1) + block.executed_code, str(block.page), "exec", dont_inherit=True)
        exec(code, namespace)
    names.check(block.executed_code, block.line)  # also what is defined but not called


def use_shell(block, folder, files):
    """Execute or check the commands of a shell block."""
    for words in split_commands(block.executed_code):
        with pytest.MonkeyPatch.context() as monkeypatch:
            if block.reason is None:
                monkeypatch.chdir(folder)
                run_command(words, monkeypatch)
            else:
                check_command(words, monkeypatch, files)


def use_data(block):
    """Parse a block of YAML, TOML or JSON. A study file is checked as one."""
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "yaml":
        content = yaml.safe_load(block.code)
        if isinstance(content, dict) and set(content) <= FIELDS:
            spec = StudySpec.from_json({"models": ["zoo:dense-0.4m"], **content}, block.place)
            assert not find_problems(spec), block.place
    else:
        assert block.language in ("", "text", "html", "markdown"), f"{block.place}: unknown language {block.language}"


@pytest.mark.parametrize("page", [page for page in PAGES if inline_commands(page)], ids=page_id)
def test_the_commands_in_the_text_exist(page):
    for line, command in inline_commands(page):
        try:
            check_option_names(split_commands(command)[0])
        except WrongCommandError as error:
            raise AssertionError(f"{page_id(page)}:{line}: {error}") from error
