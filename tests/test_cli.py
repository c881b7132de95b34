"""The command line, as a child process where exit codes and streams matter."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sparsedial.cli import _layers, _numbers


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, llama):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    llama.save_pretrained(folder)
    return folder


def sparsedial(*args, **kwargs):
    command = [sys.executable, "-m", "sparsedial", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"}, **kwargs
    )


SMALL = ("--sequences", 40, "--length", 10, "--dtype", "float32")


def test_run_then_report(tiny, tmp_path):
    out = tmp_path / "out"
    done = sparsedial("run", tiny, "--site", "input", "--p", "0.9,0.5", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "input" in done.stdout
    assert "report.html" in done.stdout
    for name in ("report.html", "critical.csv", "points.csv", "layers.csv", "results.json"):
        assert (out / name).stat().st_size > 0
    assert json.loads((out / "results.json").read_text())["critical"]
    before = {p: p.read_bytes() for p in out.glob("trials/*/*.json")}
    assert sparsedial("run", tiny, "--site", "input", "--p", "0.9,0.5", "--out", out, *SMALL).returncode == 0
    assert {p: p.read_bytes() for p in out.glob("trials/*/*.json")} == before
    assert sparsedial("report", out).returncode == 0


def test_inspect(tiny):
    done = sparsedial("inspect", tiny)
    assert done.returncode == 0, done.stderr
    for word in ("model.layers.2.mlp", "gated", "gate_proj", "32", "80", "all_inputs 100%"):
        assert word in done.stdout, word


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "no/where", "--site", "inptu", "--p", "2,x", "--rule", "top-q", "--tasks", "no_such_task"),
         ["no/where", "inptu", "'x'", "top-q", "no_such_task", "problems"]),
        (("run", "smollm2-135m", "--p", "nan"), ["TopP(p=nan)", "[0, 1]"]),
        (("run", "smollm2-135m", "--p", ""), ["no values"]),
        (("run", "smollm2-135m", "--out", "/proc/nowhere"), ["/proc/nowhere", "cannot be written"]),
        (("run", "smollm2-135m", "--layers", "a-b"), ["--layers", "0,3,5-9"]),
        (("run", "smollm2-135m", "--ffn", "up"), ["NAME=VALUE"]),
        (("run", "missing.gguf"), ["missing.gguf", "no such file"]),
        (("inspect", "missing.gguf"), ["missing.gguf", "no such file"]),
        (("report", "/nowhere"), ["/nowhere", "study.json"]),
    ],
)  # fmt: skip
def test_bad_input_is_said_without_a_traceback_and_exits_with_2(args, words):
    done = sparsedial(*args)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_site_the_model_does_not_have(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "gpt2")
    done = sparsedial("run", tmp_path / "gpt2", "--site", "gate", "--p", "0.9", "--out", tmp_path / "out", *SMALL)
    assert done.returncode == 2
    assert "no gate" in done.stderr
    assert "input, up, intermediate" in done.stderr


def test_interrupting_keeps_what_is_finished(tiny, tmp_path):
    out = tmp_path / "out"
    grid = ",".join(f"{i / 1000}" for i in range(1, 400))
    command = [sys.executable, "-m", "sparsedial", "run", str(tiny), "--p", grid, "--out", str(out), *map(str, SMALL)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(list(out.glob("trials/*/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, stderr = child.communicate(timeout=60)
    assert child.returncode == 130, stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert len(list(out.glob("trials/*/*.json"))) >= 3


def test_terminal_control_codes_in_names_are_inert():
    done = sparsedial("run", "evil\x1b[31m\x07name")
    assert done.returncode == 2
    assert "\x1b[31m" not in done.stderr
    assert "\x07" not in done.stderr


def test_option_texts():
    assert _layers("0,3,5-7", []) == (0, 3, 5, 6, 7)
    problems = []
    assert _numbers(["0.5, 0.6", "1"], problems) == (0.5, 0.6, 1.0)
    assert problems == []
