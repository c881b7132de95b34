"""The checks of code blocks find what is wrong."""

import pytest

from tests.docs.blocks import ROOT, inline_commands, read_blocks
from tests.docs.python_names import NameChecker, WrongNameError
from tests.docs.shell import WrongCommandError, check_command, check_option_names, run_command, split_commands


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sparsedial run zoo:dense-0.4m --sight input", "sight"),
        ("sparsedial run zoo:dense-0.4m --site inptu", "inptu"),
        ("sparsedial run zoo:dense-0.4m --rule 'top_p(r=2)'", "unknown option 'r'"),
        ("sparsedial run zoo:dense-0.4m --length many", "many"),
        ("sparsedial run zoo:dense-0.4m --tasks next_token --sequences 3", "unknown task option 'sequences'"),
        ("sparsedial measure zoo:dense-0.4m", "no command measure"),
        ("sparsedial study examples/none.yaml", "examples/none.yaml is not a file"),
        ("sparsedial study examples/scaling.yaml --workers rai", "rai"),
        ("sparsedial report runs/a --outt b", "outt"),
        ("make demos", "no target demos"),
        ("python -m benchmarks.bench_nothing", "no module"),
        ("python -m benchmarks.bench_rule --quik", "no option --quik"),
        ("python examples/none.py", "not a file"),
        ("frobnicate", "unknown program"),
    ],
)
def test_wrong_commands_are_found(command, message):
    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(WrongCommandError, match=message):
        check_command(split_commands(command)[0], monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "sparsedial run Qwen/Qwen2.5-0.5B --site input --rule 'top_p(q=2)' --retain 0.95 --precision 1",
        "sparsedial study examples/paper/size.yaml --workers ray --num-workers 2",
        "sparsedial figures docs/results/zoo-scaling --out figures --reference paper",
        "make bench-rule ARGS=--quick",
        "python -m benchmarks.bench_rule --quick",
    ],
)
def test_right_commands_pass(command):
    with pytest.MonkeyPatch.context() as monkeypatch:
        check_command(split_commands(command)[0], monkeypatch)


def test_options_in_the_text_are_checked():
    check_option_names(["sparsedial", "run", "--phases", "prefill"])
    with pytest.raises(WrongCommandError, match="no option --phase"):
        check_option_names(["sparsedial", "run", "--phase", "prefill"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sparsedial as sd\nsd.mesure('x')", "no attribute mesure"),
        ("import sparsedial as sd\nsd.measure('x', site='input')", "no argument site"),
        ("import sparsedial as sd\nsd.TopP(q=0.9, z=1)", "no argument z"),
        ("from sparsedial.hooks import Sparsify", "no attribute Sparsify"),
        ("from sparsedial.hoks import sparsify", "No module named"),
        ("print(model)", "name model is not defined"),
        ("def f():\n    return other", "name other is not defined"),
    ],
)
def test_wrong_names_are_found(code, message):
    with pytest.raises(WrongNameError, match=message):
        NameChecker().check(code)


def test_names_of_earlier_blocks_are_known():
    names = NameChecker()
    names.check("import sparsedial as sd\nmodel, tokenizer = sd.load_model('x')")
    names.check(
        "with sd.sparsify(model, 'input', sd.TopP(0.9)) as sparsifier:\n    print([a for a in sparsifier.stats()])"
    )


def test_blocks_and_markers_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\nRun `sparsedial run MODEL --p 0.9` or\n\n    sparsedial fsck DIR\n\n<!-- setup:\nx = 1\n-->\n"
        "```python\nprint(x)\n```\n\n<!-- checked only: needs a hub -->\n"
        "```sh\nsparsedial inspect \\\n  a/b && ls\n```\n\n"
        "- item\n\n  <!-- run with small instead of large -->\n\n  ```yaml\n  # a/b.yaml\n  models: [large]\n  ```\n"
    )
    setup, python, shell, data = read_blocks(page)
    assert (setup.code, setup.line, setup.reason) == ("x = 1\n", 8, None)
    assert (python.language, python.code, python.reason) == ("python", "print(x)\n", None)
    assert shell.reason == "needs a hub"
    assert split_commands(shell.code) == [["sparsedial", "inspect", "a/b"], ["ls"]]
    assert (data.file_name, data.executed_code) == ("a/b.yaml", "# a/b.yaml\nmodels: [small]\n")
    assert [command for _, command in inline_commands(page)] == ["sparsedial run MODEL --p 0.9", "sparsedial fsck DIR"]


def test_every_block_of_the_readme_is_found():
    text = (ROOT / "README.md").read_text()
    assert len(read_blocks(ROOT / "README.md")) == text.count("```") // 2


def test_only_known_programs_are_executed(monkeypatch):
    with pytest.raises(WrongCommandError, match="checked only"):
        run_command(["make", "test"], monkeypatch)
