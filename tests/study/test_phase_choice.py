"""Studies that apply the rule in one phase only."""

import json
import shutil

import pytest

import sparsedial as sd
from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError
from sparsedial.models.kind import CAUSAL, MASKED_DIFFUSION
from sparsedial.report.terminal_table import render_terminal_table
from sparsedial.study.phase_choice import check_kind_has_phases
from sparsedial.study.records import TrialIdentity, TrialRecord
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.base import scored_phases
from tests.support.generation_tasks import write_solvable_task
from tests.support.lm_eval_tasks import load_task, write_tasks

ARGUMENTS = {
    "sites": "input", "p": [0.5], "device": "cpu", "dtype": "float32", "progress": False, "tasks": "tiny_solvable",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    write_solvable_task(folder, trained)
    return folder


@pytest.fixture(scope="module")
def studies(folder, tmp_path_factory):
    """One study per choice of phases."""
    stores = {}
    for phases in (None, "prefill", "generation"):
        out = tmp_path_factory.mktemp("study")
        sd.measure("zoo:dense-0.4m", **ARGUMENTS, include_path=str(folder), phases=phases, out=out)
        stores[phases] = Store(out)
    return stores


def sparse_trial(store):
    [trial] = [trial for trial in store.trials() if not trial.identity.is_dense]
    return trial


def sums(trial, phase):
    counts = [count for count in trial.counts if count.phase == phase]
    return sum(count.dropped for count in counts), sum(count.total for count in counts)


def test_only_the_chosen_phase_is_counted_and_enters_the_key(studies):
    both, prefill, generation = map(sparse_trial, studies.values())
    assert {count.phase for count in prefill.counts} == {"prefill"}
    assert {count.phase for count in generation.counts} == {"generation"}
    assert sums(prefill, "prefill") == sums(both, "prefill")  # the prompts are the same, and the rule sees them first
    assert len({both.key, prefill.key, generation.key}) == 3
    assert "phases" not in both.identity.to_json()
    assert TrialRecord.from_json(json.loads(json.dumps(prefill.to_json()))).identity == prefill.identity
    assert TrialIdentity.from_json(both.identity.to_json()) == both.identity


def test_all_phases_by_name_are_the_same_study(studies, folder):
    spec = StudySpec.from_json(studies[None].read_spec())
    assert StudySpec.from_json({**spec.to_json(), "phases": ["generation", "prefill"]}) == spec
    assert StudySpec.from_json({**spec.to_json(), "phases": "prefill"}).phases == ("prefill",)
    older = spec.to_json()
    del older["phases"]
    assert StudySpec.from_json(older) == spec


def test_a_joint_report_tells_the_phases_apart_and_compares_them(studies):
    results = compute_results(list(studies.values()))
    names = {"top_p", "top_p (prefill only)", "top_p (generation only)"}
    assert set(results.critical["rule"]) == names
    assert set(results.points["rule"]) == names
    assert not results.problems
    [note] = [note for note in results.notes if "only" in note]
    assert note.startswith("Some rules were applied in generation or prefill only.")
    single = compute_results(studies["prefill"])
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as capture:
        console.print(render_terminal_table(single))
    assert "prefill only" in capture.get()


def test_a_study_of_another_phase_in_the_same_directory_measures_again(studies, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(studies["prefill"].folder, out)
    result = sd.measure("zoo:dense-0.4m", **ARGUMENTS, include_path=str(folder), phases="generation", out=out)
    assert set(result.points["rule"]) == {"top_p (generation only)"}
    assert result.results.provenance["trials of other settings, not shown"] == 1
    expected = sparse_trial(studies["generation"]).result
    assert result.points["sparsity"].tolist() == [expected.sparsity]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phases": "generation", "tasks": "self_prediction"}, r"'self_prediction' would be dense.*all in prefill"),
        ({"phases": "generation", "tasks": "tiny_choice"}, r"'tiny_choice' would be dense.*generates text"),
        ({"phases": "prefill", "tasks": "restoration"}, r"'restoration' would be dense.*diffusion"),
        ({"phases": "decode"}, r"unknown phase 'decode': expected one or both of prefill, generation"),
        ({"phases": []}, "no phases: expected at least one"),
    ],
)
def test_phases_that_the_study_does_not_have_are_named_before_a_model_is_loaded(folder, options, message, monkeypatch):
    monkeypatch.setattr("sparsedial.study.worker.load_language_model", lambda *_, **__: pytest.fail("was loaded"))
    include = {"include_path": str(folder)} if "tiny" in options.get("tasks", "tiny") else {}
    with pytest.raises(SpecError, match=message) as error:
        sd.measure("zoo:dense-0.4m", **{**ARGUMENTS, **options}, **include)
    assert "problems:" not in str(error.value)  # each mistake is told once


def test_a_diffusion_model_has_no_phases(masked_llama, tmp_path):
    with pytest.raises(SpecError, match=r"masked-diffusion model.*no phases"):
        check_kind_has_phases(("prefill",), MASKED_DIFFUSION, "llada")
    check_kind_has_phases(("prefill",), CAUSAL, "llama")
    arguments = {"sites": "input", "p": [0.5], "sequences": 2, "length": 4, "progress": False}
    with pytest.raises(SpecError, match=r"phases prefill.*masked-diffusion model"):
        sd.measure(masked_llama, **arguments, phases="prefill", mask_token=95)


def test_tasks_name_the_phases_that_they_score(folder):
    assert scored_phases(load_task(folder, "tiny_write")) == ("prefill", "generation")
    assert scored_phases(load_task(folder, "tiny_choice")) == ("prefill",)
    assert scored_phases(object()) == ("prefill", "generation")
