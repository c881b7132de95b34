"""The command line: exit codes, streams and signals. Signals and full disks need a child process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from transformers import RwkvConfig, RwkvForCausalLM

from sparsedial.ffn import OUTER_SITES, SITES
from tests.support.command_line import run_sparsedial
from tests.support.made_up_studies import SMALL as SMALL_MODEL
from tests.support.made_up_studies import study
from tests.support.processes import wait_until


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, llama):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    llama.save_pretrained(folder)
    return folder


SMALL = ("--sequences", 40, "--length", 10, "--dtype", "float32")


def test_run_then_report(tiny, tmp_path):
    out = tmp_path / "out"
    process = run_sparsedial("run", tiny, "--site", "input", "--p", "0.9,0.5", "--out", out, *SMALL)
    assert process.returncode == 0, process.stderr
    assert "input" in process.stdout
    assert "report.html" in process.stdout
    for name in ("report.html", "critical.csv", "points.csv", "layers.csv", "results.json"):
        assert (out / name).stat().st_size > 0
    assert json.loads((out / "results.json").read_text())["critical"]
    before = {p: p.read_bytes() for p in out.glob("trials/*/*.json")}
    assert run_sparsedial("run", tiny, "--site", "input", "--p", "0.9,0.5", "--out", out, *SMALL).returncode == 0
    assert {p: p.read_bytes() for p in out.glob("trials/*/*.json")} == before
    assert run_sparsedial("report", out).returncode == 0


def test_inspect(tiny):
    process = run_sparsedial("inspect", tiny)
    assert process.returncode == 0, process.stderr
    for word in ("layers 0–2: model.layers.*.mlp", "gated", "gate_proj", "D 32, F 80"):
        assert word in process.stdout, word


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("run", "no/where", "--site", "inptu", "--p", "2,x", "--rule", "top-q", "--tasks", "no_such_task"),
         ["no/where", "inptu", "'x'", "top-q", "no_such_task", "problems"]),
        (("run", "smollm2-135m", "--p", "nan"), ["TopP(p=nan)", "[0, 1]"]),
        (("run", "smollm2-135m", "--p", ""), ["--p ''"]),
        (("run", "smollm2-135m", "--out", "/proc/nowhere"), ["/proc/nowhere", "cannot be written"]),
        (("run", "smollm2-135m", "--layers", "a-b"), ["--layers", "0,3,5-9"]),
        (("run", "smollm2-135m", "--ffn", "up"), ["NAME=VALUE"]),
        (("run", "zoo:diffusion-1.3m", "--tasks", "denoising", "--kind", "both", "--diffusion-steps", "0"),
         ["unknown kind 'both'", "masked-diffusion", "denoising steps 0: expected at least 1"]),
        (("run", "zoo:diffusion-1.3m", "--tasks", "denoising", "--block-length", "5"), ["does not divide 96 tokens"]),
        (("run", "missing.gguf"), ["missing.gguf", "no such file"]),
        (("inspect", "missing.gguf"), ["missing.gguf", "no such file"]),
        (("report", "/nowhere"), ["/nowhere", "study.json"]),
    ],
)  # fmt: skip
def test_bad_input_exits_with_2_and_without_a_traceback(args, words):
    process = run_sparsedial(*args)
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in process.stderr, process.stderr


def test_a_site_the_model_does_not_have(tmp_path, gpt2):
    gpt2.save_pretrained(tmp_path / "gpt2")
    process = run_sparsedial(
        "run", tmp_path / "gpt2", "--site", "gate", "--p", "0.9", "--out", tmp_path / "out", *SMALL
    )
    assert process.returncode == 2
    assert "no gate" in process.stderr
    assert "input, up, intermediate" in process.stderr


def interruptible():
    """Let Ctrl-C interrupt the child, even if the test run is in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_and_signal(command, out, by):
    """Send a signal to a run once three trials are finished, and return its exit code and stderr."""
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=interruptible
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("trials/*/*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(by)
    _, stderr = child.communicate(timeout=60)
    return child.returncode, stderr


def test_finished_trials_stay_after_an_interruption(tiny, tmp_path):
    out = tmp_path / "out"
    grid = ",".join(f"{i / 1000}" for i in range(1, 400))
    command = [sys.executable, "-m", "sparsedial", "run", str(tiny), "--p", grid, "--out", str(out), *map(str, SMALL)]
    returncode, stderr = run_and_signal(command, out, signal.SIGINT)
    assert returncode == 130, stderr
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr
    assert len(list(out.glob("trials/*/*.json"))) >= 3


def test_terminal_control_codes_in_names_are_inert():
    process = run_sparsedial("run", "evil\x1b[31m\x07name")
    assert process.returncode == 2
    assert "\x1b[31m" not in process.stderr
    assert "\x07" not in process.stderr


def spec_file(tmp_path, models, **more):
    path = tmp_path / "study.yaml"
    spec = {"models": [str(model) for model in models], "sites": ["input"], "values": [0.9, 0.5], "dtype": "float32",
            "task_options": {"sequences": 40, "length": 10}, **more}  # fmt: skip
    path.write_text(json.dumps(spec))  # JSON is YAML
    return path


def test_a_study_is_previewed_run_checked_and_extended(tiny, tmp_path):
    path, out = spec_file(tmp_path, [tiny]), tmp_path / "out"
    ahead = run_sparsedial("study", path, "--out", out, "--dry-run")
    assert ahead.returncode == 0, ahead.stderr
    assert "0 trials finished, 3 to run" in ahead.stdout
    assert "disk: " in ahead.stdout
    assert "as fast as in the finished trials" not in ahead.stdout  # there are none yet
    assert not out.exists()
    process = run_sparsedial("study", path, "--out", out)
    assert process.returncode == 0, process.stderr
    assert "report.html" in process.stdout
    assert run_sparsedial("fsck", out).stdout.strip() == "no problems"
    before = {p: p.read_bytes() for p in out.glob("trials/*/*.json")}
    spec_file(tmp_path, [tiny], values=[0.9, 0.5, 0.7])
    ahead = run_sparsedial("study", path, "--out", out, "--dry-run")
    assert "3 trials finished, 1 to run" in ahead.stdout
    assert "top_p 0.7" in ahead.stdout
    assert "as fast as in the finished trials" in ahead.stdout
    missing = next(iter(before))
    missing.unlink()
    checked = run_sparsedial("fsck", out)
    assert checked.returncode == 1
    assert "missing (1): run the study again" in checked.stdout


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ("model: m\nsites: input\n", (), ["'model', perhaps 'models'", "sites: expected a list", "3 problems"]),
        ("models: [no/where/]\nrules: [top-q]\n", (), ["no/where/", "top-q"]),
        ("models: [smollm2-135m]", ("--timeout", -1, "--num-workers", 3), ["timeout -1", "--workers ray"]),
        ("models: [smollm2-135m]", ("--workers", "slurm"), ["'slurm'", "local or ray"]),
        ("version: 9\nmodels: [smollm2-135m]", (), ["version 9", "reads version 4"]),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_exits_with_2(tmp_path, text, args, words):
    (tmp_path / "study.yaml").write_text(text)
    process = run_sparsedial("study", tmp_path / "study.yaml", "--out", tmp_path / "out", *args)
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    for word in words:
        assert word in process.stderr, process.stderr


@pytest.mark.slow
def test_sigterm(tiny, tmp_path):
    out = tmp_path / "out"
    grid = [i / 1000 for i in range(1, 400)]
    command = [sys.executable, "-m", "sparsedial", "study", str(spec_file(tmp_path, [tiny], values=grid)), "--out", out]
    returncode, stderr = run_and_signal(command, out, signal.SIGTERM)
    assert returncode == 143, stderr
    assert "run the same command again" in stderr
    assert run_sparsedial("fsck", out).returncode == 1


FULL = """
mount -t tmpfs -o size=56k none "$1" || exit 99
"$2" -m sparsedial study "$3" --out "$1"
echo "full: $?"
find "$1" -name '*.json' -path '*/trials/*' -size +0 | wc -l
mount -o remount,size=10m "$1"
"$2" -m sparsedial study "$3" --out "$1" > /dev/null
echo "then: $?"
"$2" -m sparsedial fsck "$1"
mount -o remount,ro "$1"
"$2" -m sparsedial study "$3" --out "$1" > /dev/null
echo "read-only: $?"
"""


@pytest.mark.slow
def test_a_full_disk_and_a_read_only_one(tiny, tmp_path):
    """The disk has 56 KiB in a namespace of its own. It is then enlarged, and then made read-only."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here: see test_store for a full disk by RLIMIT_FSIZE")
    out = tmp_path / "out"
    out.mkdir()
    path = spec_file(tmp_path, [tiny], values=[i / 20 for i in range(20)])
    process = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", FULL, "sh", str(out), sys.executable, str(path)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    full, kept, then, problems, read_only = process.stdout.splitlines()
    assert full == "full: 2", process.stderr
    assert f"{out}/" in process.stderr
    assert "could not be written: No space left on device" in process.stderr
    assert 0 < int(kept) < 21
    assert (then, problems) == ("then: 0", "no problems")
    assert read_only == "read-only: 2"
    assert f"{out}' cannot be written: Read-only file system" in process.stderr
    assert "Traceback" not in process.stderr


def test_hostile_names_stay_names(tiny, tmp_path):
    hostile = tmp_path / "<script>alert(1)</script>\x1b[31m..%2f"
    shutil.copytree(tiny, hostile)
    out = tmp_path / "out"
    process = run_sparsedial("study", spec_file(tmp_path, [hostile]), "--out", out)
    assert process.returncode == 0, process.stderr
    assert "\x1b" not in process.stdout + process.stderr
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in out.rglob("*"))
    assert "<script>alert(1)" not in (out / "report.html").read_text()


def test_inspect_states_the_share_of_all_weights_of_each_site(tiny):
    lines = run_sparsedial("inspect", tiny).stdout.splitlines()
    shares = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 4:
            shares[cells[0]] = cells[1:]
    sites = [*SITES, *OUTER_SITES]
    assert list(shares) == [*sites, "all_inputs and all others"]
    assert shares["all_inputs"][:2] == ["6", "100%"]
    assert shares["attention_input"][:2] == ["3", "100%"]
    together = sum(int(shares[site][2].rstrip("%")) for site in ("all_inputs", *OUTER_SITES))
    assert abs(int(shares["all_inputs and all others"][2].rstrip("%")) - together) <= 2


def test_a_site_that_the_model_lacks_is_an_error_without_a_traceback(tmp_path):
    config = RwkvConfig(
        vocab_size=64, context_length=32, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16,
        intermediate_size=32, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    RwkvForCausalLM(config).save_pretrained(tmp_path / "rwkv")
    out = tmp_path / "out"
    process = run_sparsedial("run", tmp_path / "rwkv", "--site", "attention_output", "--p", "0.5", "--out", out)
    assert process.returncode == 2
    assert "no site 'attention_output': no product of softmax-normalised scores" in process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    assert not list(out.glob("trials/*/*.json"))


def test_ctrl_c_during_the_imports_is_one_line(tmp_path):
    """The module that loads slowly is in the place of a real one, so that the signal arrives during its import."""
    (tmp_path / "torch.py").write_text("import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
         "from sparsedial.cli.main import main\nsys.argv = ['sparsedial', 'fsck', 'x']\nmain()"],
        stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    wait_until(lambda: (tmp_path / "started").exists())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")


@pytest.mark.parametrize("options", [(), ("--json", "--quiet")], ids=["table", "json"])
def test_output_that_nobody_reads_ends_a_command_quietly(tmp_path, options):
    study(tmp_path / "a", [SMALL_MODEL], ("piqa",), ("input",))
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-m", "sparsedial", "report", str(tmp_path / "a"), *options],
        stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (process.returncode, process.stderr) == (141, "")
    assert (tmp_path / "a" / "report.html").exists()
