"""Studies of tasks that generate texts: the chat template in the keys, and runs that are killed."""

import copy
import json
import signal
import subprocess
import sys
import textwrap

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.trial_evaluation import Trial
from sparsedial.tasks.spec import TaskSpec
from tests.support.generation_tasks import write_solvable_task
from tests.support.lm_eval_tasks import DOCUMENTS, TASKS, write_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("tasks")
    constant = {"function": "regex", "regex_pattern": "no text has this", "fallback": "same"}
    task = {
        **TASKS["tiny_write"],
        "doc_to_target": "same",
        "filter_list": [{"name": "constant", "filter": [constant, {"function": "take_first"}]}],
    }
    write_task(folder, "always_right", task, DOCUMENTS)
    write_solvable_task(folder, trained)
    return folder


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory, trained):
    """A copy of the smallest model of the zoo with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    trained.model.save_pretrained(folder)
    tokenizer = copy.deepcopy(trained.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}Q: {{ m.content }} A:{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def make_spec(folder, models, task="always_right", **options):
    return StudySpec(
        models=tuple(map(str, models)),
        sites=("input",),
        values=(0.8,),
        tasks=(TaskSpec(task),),
        task_options={"include_path": str(folder), "limit": 3, **options},
        dtype="float32",
    )


def keys(store):
    return {trial.key: trial.identity.task["apply_chat_template"] for trial in store.trials()}


def test_the_key_has_the_resolved_chat_template(folder, chat_model, tmp_path):
    models = ["zoo:dense-0.4m", chat_model]
    automatic = keys(run_study(make_spec(folder, models, apply_chat_template="auto"), tmp_path / "auto"))
    plain = keys(run_study(make_spec(folder, models[:1]), tmp_path / "plain"))  # the key of a study without the option
    chat = keys(run_study(make_spec(folder, models[1:], apply_chat_template=True), tmp_path / "chat"))
    assert set(plain.values()) == {False} and set(chat.values()) == {True}
    assert automatic == {**plain, **chat}


def test_a_second_run_of_auto_finds_its_trials(folder, chat_model, tmp_path, monkeypatch):
    spec = make_spec(folder, [chat_model], apply_chat_template="auto")
    first = keys(run_study(spec, tmp_path))
    monkeypatch.setattr(Trial, "run", None)  # no trial is run again
    assert keys(run_study(spec, tmp_path)) == first


def test_the_report_of_auto_has_the_trials_of_models_with_and_without_a_template(folder, chat_model, tmp_path):
    store = run_study(make_spec(folder, ["zoo:dense-0.4m", chat_model], apply_chat_template="auto"), tmp_path)
    results = compute_results(store)
    assert results.problems == []
    assert len(results.points) == len(keys(store)) // 2 == 2  # one sparse trial of each model
    run_study(make_spec(folder, [chat_model]), tmp_path)  # the template is off
    results = compute_results(store)
    assert len(results.points) == 1 and results.provenance["trials of other settings, not shown"] == 4


@pytest.mark.slow
def test_a_generation_trial_that_is_killed_is_run_again_with_the_same_numbers(folder, tmp_path, numbers):
    """A child process is killed in the middle of the sparse generation, then the same study is run again."""
    spec = make_spec(folder, ["zoo:dense-0.4m"], "tiny_solvable")
    spec_file = tmp_path / "spec.json"
    spec_file.write_text(json.dumps(spec.to_json()))
    script = textwrap.dedent(
        """
        import json, os, signal, sys
        from pathlib import Path
        from sparsedial.inference.slot_decoder import SlotDecoder
        from sparsedial.study.runner import run_study
        from sparsedial.study.spec import StudySpec
        from sparsedial.study.store import Store

        decode, write_trial = SlotDecoder.decode, Store.write_trial
        steps, trials = 0, 0

        def count_trials(self, *args):
            global trials
            write_trial(self, *args)
            trials += 1

        def count_steps(self, *args):
            global steps
            if trials == 1:
                steps += 1
            if steps == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return decode(self, *args)

        Store.write_trial, SlotDecoder.decode = count_trials, count_steps
        run_study(StudySpec.from_json(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]))
        """
    )
    killed = tmp_path / "killed"
    process = subprocess.run(
        [sys.executable, "-c", script, str(spec_file), str(killed)], capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(list(killed.glob("trials/*/*.json"))) == 1  # the dense trial
    resumed = numbers(run_study(spec, killed))
    assert len(resumed) == 2
    assert resumed == numbers(run_study(spec, tmp_path / "whole"))
