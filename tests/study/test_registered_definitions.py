"""Registered rules, sites and tasks in studies: their names, their keys, and workers in other processes."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest

import sparsedial as sd
from sparsedial.analysis.results import compute_results
from sparsedial.errors import SpecError
from sparsedial.ffn.sites import site_registry
from sparsedial.rules import RULES, RecordedRule
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.integrity import find_problems
from sparsedial.study.planner import Planner
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.study.task_plan import TaskPlan
from sparsedial.study.worker import WorkerSetup
from sparsedial.study.worker_registrations import import_registrations
from sparsedial.tasks.spec import TaskSpec

MODULE = "tests.support.registered_definitions"


@pytest.fixture
def definitions(registrations):
    """Register the definitions of a module, as if it were imported for the first time."""
    sys.modules.pop(MODULE, None)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def own_spec(model_dir):
    return StudySpec(
        models=(str(model_dir),),
        sites=("own_site", "input"),
        rules=("own_rule",),
        tasks=(TaskSpec("own_task", {"rows": 2}),),
        values=(0.0, 1.0),
        dtype="float32",
    )


def sparse_trials(store):
    return [record for record in store.trials() if record.identity.rule is not None]


def test_a_study_of_registered_names(definitions, own_spec, tmp_path):
    store = run_study(own_spec, tmp_path, device="cpu")
    assert find_problems(store) == []
    records = sparse_trials(store)
    assert len(records) == 4
    for record in records:
        identity = json.loads(json.dumps(record.identity.to_json()))
        assert identity["rule"] == {
            "rule": "own_rule", "value": record.p, "version": 1, "options": {"offset": 0.0}
        }  # fmt: skip
        assert identity.get("site_version") == (1 if identity["site"] == "own_site" else None)
        assert "calibration" not in identity
        assert identity["task"] == {"task": "own_task", "version": 1, "rows": 2}
        assert len(record.counts) == (1 if identity["site"] == "own_site" else 3)
    assert set(compute_results(Store(tmp_path)).points["site"]) == {"own_site", "input"}


def test_the_calibration_is_in_the_key(definitions, own_spec, tmp_path, monkeypatch):
    spec = dataclasses.replace(own_spec, rules=("own_calibrated_rule",), sites=("input",), values=(0.5,))
    store = run_study(spec, tmp_path / "first", device="cpu")
    [record] = sparse_trials(store)
    assert len(record.identity.calibration) == 64
    assert 0 < record.result.sparsity < 1
    calls = []
    monkeypatch.setattr(
        definitions.OwnCalibratedRule, "calibrate", classmethod(lambda *_: calls.append(1) or {"scales": [9.0] * 3})
    )
    run_study(spec, tmp_path / "first", device="cpu")  # a finished calibration is read, not computed again
    assert calls == []
    [other] = sparse_trials(run_study(spec, tmp_path / "second", device="cpu"))
    assert calls == [1]
    assert other.identity.calibration != record.identity.calibration
    assert other.key != record.key
    assert other.result.sparsity > record.result.sparsity


@pytest.mark.parametrize("values", [{"scales": [float("nan")]}, {"scales": {1, 2}}])
def test_a_calibration_is_plain_json(definitions, own_spec, tmp_path, monkeypatch, values):
    monkeypatch.setattr(definitions.OwnCalibratedRule, "calibrate", classmethod(lambda *_: values))
    spec = dataclasses.replace(own_spec, rules=("own_calibrated_rule",))
    with pytest.raises(SpecError, match="'own_calibrated_rule': calibrate must return finite plain JSON"):
        run_study(spec, tmp_path, device="cpu")


def test_a_new_version_is_measured_again_and_the_report_shows_it_alone(definitions, own_spec, tmp_path):
    store = run_study(own_spec, tmp_path, device="cpu")
    keys = {record.key for record in sparse_trials(store)}
    definitions.OwnRule.version = 2
    store = run_study(own_spec, tmp_path, device="cpu")
    records = sparse_trials(store)
    assert len(records) == 8
    assert {record.key for record in records if isinstance(record.identity.rule, RecordedRule)} == keys
    assert len(compute_results(Store(tmp_path)).points) == 4
    type(site_registry()["own_site"]).version = 5
    store = run_study(own_spec, tmp_path, device="cpu")
    assert len(sparse_trials(store)) == 10
    assert len(compute_results(Store(tmp_path)).points) == 4
    assert not (tmp_path / "quarantine").exists()


def test_without_the_definitions_nothing_is_lost_and_the_error_names_the_rule(definitions, own_spec, tmp_path):
    store = run_study(own_spec, tmp_path, device="cpu")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    RULES._registered.clear()
    reopened = Store(tmp_path)
    assert {record.key for record in reopened.trials()} == {record.key for record in store.trials()}
    assert {type(record.identity.rule) for record in sparse_trials(reopened)} == {RecordedRule}
    with pytest.raises(SpecError, match="unknown rule 'own_rule'"):
        compute_results(Store(tmp_path))
    with pytest.raises(SpecError, match="unknown rule 'own_rule'"):
        run_study(own_spec, tmp_path, device="cpu")
    run_study(
        dataclasses.replace(own_spec, rules=("top_p",), sites=("input",), values=(0.9,)), tmp_path, device="cpu"
    )  # checks every file of the directory
    assert set(files) <= {path for path in tmp_path.rglob("*") if path.is_file()}


def test_a_recorded_rule_cannot_be_applied(llama):
    rule = RecordedRule(json.dumps({"rule": "gone", "value": 0.5, "version": 3}))
    assert (rule.name, rule.value, rule.version) == ("gone", 0.5, 3)
    with pytest.raises(SpecError, match="neither keep_mask nor bind"):
        sd.sparsify(llama, "input", rule)


def test_the_adaptive_search_follows_the_distance_that_a_rule_declares(definitions, own_spec, tmp_path):
    spec = dataclasses.replace(own_spec, values=None, sites=("input",))
    planner = Planner(spec, {"own_task": TaskPlan(({},), 1)}, Store(tmp_path), {})
    jobs = planner.jobs(assume_dense=True)
    assert [job.rule.value for job in jobs if job.rule is not None] == [0.4, 0.12, 0.8]
    definitions.OwnRule.value_at = classmethod(lambda cls, distance: 4 * distance**2)
    definitions.OwnRule.distance_from_dense = classmethod(lambda cls, value: (value / 4) ** 0.5)
    definitions.OwnRule.search_digits = 2
    jobs = planner.jobs(assume_dense=True)
    assert [job.rule.value for job in jobs if job.rule is not None] == [0.04, 0.0, 0.16]
    definitions.OwnRule.search_digits = 0  # only 0, 1, 2, 3 and 4 are left
    store = run_study(dataclasses.replace(spec, tolerance=0.001), tmp_path, device="cpu")
    values = [record.p for record in sparse_trials(store)]
    assert len(set(values)) == len(values)
    assert set(values) <= {1.0, 2.0, 3.0, 4.0}


def test_the_parameter_of_a_rule_has_its_own_range(definitions, own_spec):
    problems = dataclasses.replace(own_spec, values=(-1.0, 4.5)).problems("cpu")
    assert problems == [
        "OwnRule(factor=-1.0): expected a number in [0, 4]",
        "OwnRule(factor=4.5): expected a number in [0, 4]",
    ]


def test_studies_that_do_not_name_their_sites_measure_the_builtin_ones(definitions, own_spec, tmp_path):
    spec = dataclasses.replace(own_spec, sites=None, values=(1.0,))
    store = run_study(spec, tmp_path, device="cpu")
    assert {record.identity.site for record in sparse_trials(store)} == set(sd.SITES)


@pytest.mark.slow
def test_a_child_process_imports_the_module_that_registers(definitions, own_spec, tmp_path):
    store = run_study(own_spec, tmp_path, device="cpu", executor=ExecutorConfig(timeout=100.0))
    assert find_problems(store) == []
    assert len(sparse_trials(store)) == 4


def test_what_a_notebook_registers_cannot_be_found_by_other_processes(registrations, own_spec, tmp_path):
    sd.register_site(type("Own", (sd.Site,), {"name": "own_site", "vectors": ("input",), "__module__": "__main__"}))
    spec = dataclasses.replace(own_spec, rules=("top_p",), tasks=(TaskSpec("self_prediction"),))
    assert spec.problems("cpu") == []
    for config in (ExecutorConfig(timeout=100.0), ExecutorConfig("ray", number=1)):
        with pytest.raises(SpecError, match=r"site 'own_site' was registered in the module __main__.*sparsedial.sites"):
            run_study(spec, tmp_path / config.kind, device="cpu", executor=config)


@pytest.mark.parametrize("module", ["sparsedial.rules.builtin", "no_such_module"])
def test_a_module_that_does_not_register_is_an_error(registrations, module):
    with pytest.raises(SpecError, match=f"rule 'own_rule' was registered in the module {module}, which a worker"):
        import_registrations([{"kind": "rule", "name": "own_rule", "module": module}])


def test_a_child_process_that_lacks_a_definition_stops_the_study(registrations, own_spec, tmp_path):
    """A class in a function is registered only where the function is called."""

    @sd.register_site
    class Own(sd.Site):
        name = "own_site"
        vectors = ("input",)

    spec = dataclasses.replace(own_spec, rules=("top_p",), tasks=(TaskSpec("self_prediction"),), values=(0.5,))
    with pytest.raises(SpecError, match=r"site 'own_site' was registered in the module tests.study.test_registered"):
        run_study(spec, tmp_path, device="cpu", executor=ExecutorConfig(timeout=100.0))


def test_the_setup_of_a_worker_names_the_modules(definitions, own_spec, tmp_path):
    data = WorkerSetup(own_spec, tmp_path, "cpu").to_json()
    assert data["registrations"] == [
        {"kind": "rule", "name": "own_rule", "module": MODULE},
        {"kind": "site", "name": "own_site", "module": MODULE},
        {"kind": "task", "name": "own_task", "module": MODULE},
    ]
    assert WorkerSetup.from_json(json.loads(json.dumps(data))).spec == own_spec


def test_a_task_that_is_calibration_data_is_registered_in_workers(definitions, own_spec):
    spec = dataclasses.replace(own_spec, rules=("threshold(data=own_task)",), tasks=(TaskSpec("self_prediction"),))
    entries = WorkerSetup(spec, Path("out"), "cpu").to_json()["registrations"]
    assert {"kind": "task", "name": "own_task", "module": MODULE} in entries
