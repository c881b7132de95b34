"""The main job as one call: by name or in memory, resumed, and readable later without the model."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sparsedial as sd
from sparsedial.cli.application import app
from sparsedial.errors import SpecError
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.integrity import find_problems
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from tests.measurement.conftest import count_trials


def test_a_model_in_memory_with_a_name_and_an_object_as_tasks(llama, small, task, tmp_path):
    result = sd.measure(llama, **small, tasks=["self_prediction", task], name="mine", out=tmp_path / "out")
    assert set(result.critical["task"]) == {"self_prediction", "confidence"}
    assert set(result.critical["model"]) == {"mine"}
    assert len(result.points) == 4 and len(result.layers) == 2 * llama.config.num_hidden_layers
    curve = result.curve("input", "confidence")
    assert sorted(curve.p) == [0.5, 0.9]
    with sd.sparsify(llama, site="input", rule=sd.TopP(0.5)):
        by_hand = task.score(result_model(llama), task.prepare(None)).mean
    assert curve.score[list(curve.p).index(0.5)] == pytest.approx(by_hand)


def result_model(model):
    from sparsedial.models.in_memory import ModelInMemory

    return ModelInMemory(model, None, "m").make_language_model()


def test_the_trials_are_those_of_the_model_loaded_by_its_name(small, tmp_path):
    model, tokenizer = sd.load_model("zoo:dense-0.4m", device="cpu", dtype="float32")
    tasks = ["self_prediction", {"name": "next_token", "limit": 4}]
    in_memory = sd.measure(model, tokenizer, **small, tasks=tasks, out=tmp_path / "memory")
    by_name = sd.measure("zoo:dense-0.4m", **small, tasks=tasks, device="cpu", dtype="float32", out=tmp_path / "name")
    numbers = ["site", "task", "p", "sparsity", "score", "dense_score"]
    assert in_memory.points[numbers].equals(by_name.points[numbers])
    assert in_memory.critical["model"].tolist() == by_name.critical["model"].tolist()


def test_the_same_call_runs_nothing_and_an_edited_model_is_measured_again(own_llama, small, tmp_path):
    sd.measure(own_llama, **small, out=tmp_path)
    first = count_trials(tmp_path)
    sd.measure(own_llama, **small, out=tmp_path)
    assert count_trials(tmp_path) == first == 3
    own_llama.lm_head.weight.data[0, 0] += 1.0
    result = sd.measure(own_llama, **small, out=tmp_path)
    assert count_trials(tmp_path) == 2 * first
    assert result.results.provenance["trials of other settings, not shown"] == first


def test_a_study_in_memory_is_readable_without_the_model(llama, small, task, tmp_path):
    out = tmp_path / "out"
    result = sd.measure(llama, **small, tasks=["self_prediction", task], out=out)
    assert StudySpec.from_json(Store(out).read_spec()).in_memory == ("LlamaForCausalLM", "confidence")
    assert find_problems(Store(out)) == []
    assert (out / "report.html").exists()
    runner = CliRunner()
    reported = runner.invoke(app, ["report", str(out)])
    assert reported.exit_code == 0 and "confidence" in reported.output
    assert "sparsedial.measure(model, tokenizer, name=" in (out / "report.html").read_text()
    for arguments in (["study", str(out / "study.json"), "--out", str(out)],
                      ["study", str(out / "study.json"), "--out", str(out), "--dry-run"]):  # fmt: skip
        with pytest.raises(SpecError, match=r"'LlamaForCausalLM', 'confidence': passed to sparsedial.measure as obj"):
            runner.invoke(app, arguments, catch_exceptions=False)
    again = sd.measure(llama, **small, tasks=["self_prediction", task], out=out)
    assert again.points.equals(result.points)


@pytest.mark.parametrize("executor", [ExecutorConfig(timeout=60), ExecutorConfig("ray")], ids=["timeout", "ray"])
def test_objects_cannot_be_sent_to_worker_processes(llama, small, executor):
    with pytest.raises(SpecError, match="objects in memory cannot be sent to worker processes"):
        sd.measure(llama, **small, executor=executor)


def test_grids_of_rules(llama, small):
    del small["p"]
    rules = [sd.TopK(0.25), sd.TopK(0.5)]
    grid = sd.measure(llama, **small, rule=rules)
    assert sorted(grid.curve(rule="top_k").p) == [0.25, 0.5]
    by_class = sd.measure(llama, **small, rule=sd.TopK, p=np.array([0.5, 0.25]))
    assert by_class.points.equals(grid.points)
    both = sd.measure(llama, **small, rule=["top_k", sd.MaxP], p=0.5)
    assert set(both.critical["rule"]) == {"top_k", "max_p"}


def test_without_a_directory_nothing_is_left(llama, small, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(tmp_path)
    result = sd.measure(llama, **small)
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []
    assert result.curve().p.tolist() == [0.9, 0.5]


def test_progress_false_prints_nothing(tmp_path):
    code = """
    import sparsedial as sd
    sd.measure("zoo:dense-0.4m", sites="input", p=0.5, sequences=4, length=4, progress=False, device="cpu")
    """
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path
    )
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_progress_is_plain_lines_without_a_terminal(llama, small, capsys):
    sd.measure(llama, **{**small, "progress": True})
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("LlamaForCausalLM, self_prediction, input top_p 0.5") for line in lines), lines


INTERRUPTED = """
import os, signal, sys, time
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import sparsedial as sd
from sparsedial.study.progress_listener import NullListener
from tests.conftest import DECODER

class Listener(NullListener):
    def set_current(self, description, finished, total):
        if finished == 0:
            print(description, flush=True)
        elif "input top_p 0.5" in description and "--interrupt" in sys.argv:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)  # is interrupted: the signal arrives here and not in a finalizer, which would ignore it

signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background may inherit that it is ignored
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**DECODER)).train()
forwards = {name: module.forward for name, module in model.named_modules()}
try:
    sd.measure(model, sites=["input", "gate"], p=[0.9, 0.5], sequences=4, length=6, batch=4, out="out",
               progress=Listener())
except KeyboardInterrupt:
    assert all(module.training for module in model.modules())
    assert all(module.forward == forwards[name] for name, module in model.named_modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    print("interrupted and restored")
"""


@pytest.mark.slow
def test_ctrl_c_restores_the_model_and_the_same_call_resumes(tmp_path):
    def run(*arguments):
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
        process = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return [line.removeprefix("LlamaForCausalLM, self_prediction, ") for line in process.stdout.splitlines()]

    lines = run("--interrupt")
    assert lines == ["dense", "input top_p 0.9", "input top_p 0.5", "interrupted and restored"]
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("trials/*/*.json")}
    assert len(finished) == 2
    assert run() == ["input top_p 0.5", "gate top_p 0.9", "gate top_p 0.5"]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert find_problems(Store(tmp_path / "out")) == []
