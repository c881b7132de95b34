"""The table of ``sparsedial inspect``."""

import io

import pytest
from rich.console import Console

import sparsedial as sd
from sparsedial.cli.inspect_command import COLUMNS, _ffn_table


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_name_is_cut_off(llama, width, terminal):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    ffns = sd.find_ffns(llama)
    console.print(_ffn_table(ffns))
    text = console.file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    columns = list(zip(*rows, strict=True))
    modules = "".join(cell.strip() for cell in columns[COLUMNS.index("module")])
    assert modules == "".join(ffn.name for ffn in ffns)
