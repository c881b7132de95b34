"""A model that does not exist, cannot be loaded or is too large does not stop the others, and is named."""

import dataclasses

import pytest
from safetensors.torch import load_file, save_file

from sparsedial.analysis.results import compute_results
from sparsedial.errors import ModelError, SpecError
from sparsedial.models import device_memory
from sparsedial.models.loading import load_language_model
from sparsedial.study import worker
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.integrity import find_problems
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study


class Log(NullListener):
    """Listener that keeps the messages."""

    def __init__(self):
        self.lines = []

    def log(self, message):
        self.lines.append(message)


@pytest.mark.parametrize(
    "executor",
    [
        pytest.param(ExecutorConfig(), id="here"),
        pytest.param(ExecutorConfig(timeout=60.0), id="in a child", marks=pytest.mark.slow),
    ],
)
def test_the_other_models_are_run_and_the_missing_one_is_named(spec, tmp_path, numbers, executor):
    alone = run_study(spec, tmp_path / "alone")
    log = Log()
    both = dataclasses.replace(spec, models=("some-org/gated-model", *spec.models))
    store = run_study(both, tmp_path / "both", executor=executor, listener=log)
    assert numbers(store) == numbers(alone)
    assert log.lines[0].startswith("model 'some-org/gated-model'") and log.lines[0].endswith(
        "The other models are run."
    )
    [problem] = find_problems(store)
    assert problem.kind == "invalid" and problem.text.startswith("some-org/gated-model, loading: ")
    assert any("some-org/gated-model" in line for line in compute_results(store).problems)


def test_a_model_that_appears_later_is_run_by_the_same_command(spec, model_dir, tmp_path):
    late = tmp_path / "late"
    both = dataclasses.replace(spec, models=(*spec.models, str(late)))
    assert len(find_problems(run_study(both, tmp_path / "out"))) == 1
    late.symlink_to(model_dir)
    assert find_problems(run_study(both, tmp_path / "out")) == []


def test_an_incomplete_checkpoint_does_not_stop_the_other_models(spec, llama, tmp_path):
    llama.save_pretrained(tmp_path / "incomplete")
    file = tmp_path / "incomplete" / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    store = run_study(dataclasses.replace(spec, models=(str(file.parent), *spec.models)), tmp_path / "out")
    [problem] = find_problems(store)
    assert "1 weights are missing" in problem.text
    assert len(list(store.trials())) == 5


def test_nothing_is_run_if_no_model_exists_or_something_else_is_wrong(spec, tmp_path):
    with pytest.raises(SpecError, match=r"(?s)org/one.*org/two"):
        run_study(dataclasses.replace(spec, models=("org/one", "org/two")), tmp_path / "out")
    wrong = dataclasses.replace(spec, models=("org/one", *spec.models), sites=("inptu",))
    with pytest.raises(SpecError, match=r"(?s)org/one.*inptu"):
        run_study(wrong, tmp_path / "out")


def test_a_model_larger_than_the_device_is_refused_before_it_is_loaded(spec, tmp_path, monkeypatch):
    loaded = []

    def load(source, **options):
        loaded.append(source.name)
        return load_language_model(source, **options)

    monkeypatch.setattr(worker, "load_language_model", load)
    monkeypatch.setattr(device_memory, "count_device_memory", lambda device: 1 << 20)
    both = dataclasses.replace(spec, models=("zoo:dense-5m", *spec.models))
    store = run_study(both, tmp_path / "out")
    assert loaded == list(spec.models)
    [problem] = find_problems(store)
    assert "invalid in 1 attempt(s)" in problem.text
    assert "its weights take 0.0 GiB in float32" in problem.text and "--device spread" in problem.text
    with pytest.raises(ModelError, match="its weights take"):
        run_study(dataclasses.replace(spec, models=("zoo:dense-5m",)), tmp_path / "alone")
