"""What the terminal shows: at any width, without a terminal, and in any encoding."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.support.command_line import run_sparsedial
from tests.support.made_up_studies import Model, study

SHOW_PROGRESS = """
from sparsedial.measurement.progress_display import ProgressDisplay
from sparsedial.study.output_encoding import make_output_encodable
make_output_encodable()
with ProgressDisplay() as display:
    display.set_total(21, 148)
    display.set_current("an-organization/a-model-with-a-long-name, arc_easy, intermediate top_p 0.9625", 5, 75)
    display.set_current("an-organization/a-model-with-a-long-name, arc_easy, intermediate top_p 0.9625", 75, 75)
"""


def run_in_terminal(command, width, **variables):
    """Run a command whose output is a terminal of a width, and return the lines that it shows."""
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    driver, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, width, 0, 0))
    environment |= {"TERM": "xterm", **variables}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    output = b""
    while True:
        try:
            output += os.read(driver, 1 << 16)
        except OSError:  # the terminal is closed
            break
    os.close(driver)
    assert process.wait(60) == 0, output
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


@pytest.mark.parametrize("width", [60, 72, 80, 100, 200])
def test_the_progress_fits_and_its_numbers_are_never_cut(width):
    lines = run_in_terminal([sys.executable, "-c", SHOW_PROGRESS], width)
    assert max(map(len, lines)) <= width
    last = lines[-2:]
    assert re.search(r"trials +[━╸╺]+ +21/148 .*left +[-\d]+:[-\d]+", last[0]), last
    assert re.search(r"top_p 0.9625 ━+ +75/75 .*left 0:00:00", last[1]), last
    assert width < 80 or re.search(r"75/75 +0:00:\d\d left", last[1]), last


def test_without_a_terminal_there_are_plain_lines():
    process = subprocess.run([sys.executable, "-c", SHOW_PROGRESS], capture_output=True, text=True, timeout=60)
    (line,) = process.stderr.splitlines()
    assert line.endswith("intermediate top_p 0.9625 (21 of 148 trials finished)")


@pytest.fixture(scope="module")
def uncertain(tmp_path_factory):
    """A study whose table has the marks ≥ and ⚠, and a name that is not ASCII."""
    folder = tmp_path_factory.mktemp("uncertain") / "größe"
    study(folder, [Model("größe-✓-100m", 100_000_000)], ("piqa",), ("input",))
    return folder


@pytest.mark.parametrize(
    ("command", "encoding"),
    [("report", "ascii"), ("report", "cp1252"), ("report", "utf-8"), ("inspect", "ascii"), ("--help", "ascii")],
)
def test_output_in_any_encoding(uncertain, command, encoding):
    arguments = {"report": [str(uncertain)], "inspect": ["zoo:dense-0.4m"]}
    process = run_sparsedial(command, *arguments.get(command, []), columns=100, encoding=encoding)
    output = process.stdout + process.stderr
    assert process.returncode in (0, 1), output
    if command == "report":
        page = (uncertain / "report.html").read_bytes().decode("utf-8")
        assert "größe-✓-100m" in page
        assert ("größe-✓" if encoding == "utf-8" else r"-\u2713-") in output


def test_an_ascii_terminal_has_progress_in_ascii():
    lines = run_in_terminal([sys.executable, "-c", SHOW_PROGRESS], 80, PYTHONIOENCODING="ascii")
    assert all(line.isascii() for line in lines)
    assert "75/75" in lines[-1]


def test_errors_about_names_in_the_c_locale(tmp_path):
    path = tmp_path / Path(os.fsdecode("größe".encode() + b"\xff"))
    process = subprocess.run(
        [sys.executable, "-m", "sparsedial", "fsck", str(path)],
        capture_output=True, timeout=120,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert process.returncode == 2
    assert b"no such directory" in process.stderr
    assert b"Traceback" not in process.stderr
