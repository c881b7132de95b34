"""``sparsedial run``: from the arguments to the study."""

import pytest
from typer.testing import CliRunner

from sparsedial.cli import run_command
from sparsedial.cli.application import app
from sparsedial.measurement import measure
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.spec import TaskSpec

EVERYTHING = StudySpec(
    models=("m",),
    sites=("input", "gate"),
    rules=("top_k",),
    tasks=(TaskSpec("piqa"), TaskSpec("arc_easy")),
    task_options={
        "include_path": "tasks", "limit": 9, "text": "a.txt", "num_fewshot": 2, "apply_chat_template": True,
        "max_gen_toks": 12, "do_sample": True,
        "metrics": {"piqa": "acc"}, "sequences": 4, "length": 5, "seed": 6, "batch": 7, "diffusion_steps": 8,
        "block_length": 9, "remasking": "random", "temperature": 0.5, "guidance": 1.5, "mc_samples": 10,
        "fraction": 0.25, "reuse_mask": 11, "thinking_markers": "<think>,</think>",
    },
    values=(0.9, 0.5),
    tolerance=0.02,
    precision=1.5,
    max_examples=512,
    retain=0.95,
    layers=(0, 2),
    phases=("generation",),
    modules={"up": "w1", "down": "w2"},
    dtype="float32",
    trust_remote_code=True,
    kind="masked-diffusion",
    mask_token=3,
)  # fmt: skip


@pytest.mark.parametrize("spec", [EVERYTHING, StudySpec(models=("m",))], ids=["everything", "defaults"])
def test_the_command_of_a_study_reproduces_it(monkeypatch, spec):
    specs = []
    monkeypatch.setattr(measure, "measure_study", lambda spec, *_args, **_options: specs.append(spec))
    monkeypatch.setattr(run_command, "print_measurement", lambda *_: None)
    result = CliRunner().invoke(app, spec.command()[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert specs == [spec]


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        (["--apply-chat-template"], True),
        (["--apply-chat-template", "on"], True),
        (["--apply-chat-template", "off"], False),
        (["--apply-chat-template", "auto"], "auto"),
        (["--apply-chat-template", "--limit", "3"], True),
        ([], None),
    ],
)
def test_the_chat_template_is_on_off_or_automatic(monkeypatch, words, choice):
    specs = []
    monkeypatch.setattr(measure, "measure_study", lambda spec, *_args, **_options: specs.append(spec))
    monkeypatch.setattr(run_command, "print_measurement", lambda *_: None)
    for command in (["run", "m", "--tasks", "piqa", *words], ["run", "--tasks", "piqa", *words, "m"]):
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert [spec.task_options.get("apply_chat_template") for spec in specs] == [choice, choice]
    assert specs[0].models == specs[1].models == ("m",)
