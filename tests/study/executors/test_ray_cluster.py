"""Workers on a real Ray cluster of this machine, which are really killed."""

import dataclasses
import importlib
import os
import sys
from pathlib import Path

import pytest

from sparsedial.errors import SpecError, StorageError
from sparsedial.study.executors.base import ExecutorConfig
from sparsedial.study.executors.ray_cluster import RayExecutor, count_workers
from sparsedial.study.executors.ray_worker import THREAD_VARIABLES, RemoteWorker
from sparsedial.study.integrity import find_problems
from sparsedial.study.job import Job
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.runner import run_study
from sparsedial.study.worker import WorkerSetup
from tests.support import sabotage
from tests.support.processes import is_running, wait_until

ray = pytest.importorskip("ray")

TWO = ExecutorConfig("ray", number=2, timeout=120.0)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """Return the file of orders that every worker of the cluster reads."""
    return tmp_path_factory.mktemp("orders") / "orders.jsonl"


@pytest.fixture(scope="module")
def cluster(ordered):
    path = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise a token is written to the home directory
        patch.setenv("RAY_worker_niceness", "0")  # otherwise workers starve on a busy machine
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": {"PYTHONPATH": path, "SABOTAGE": str(ordered)},
                "worker_process_setup_hook": "tests.support.sabotage.install",
            },
        )
        yield
        ray.shutdown()


@pytest.fixture
def orders(ordered):
    orders = sabotage.Orders(ordered)
    yield orders
    orders.withdraw()


def scores(store):
    return {r.key: (r.result.score, r.result.dropped, r.result.total) for r in store.trials()}


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_two_models_on_two_workers_give_the_same_numbers_through_deaths(spec, tmp_path, phi3, orders):
    """In one run, a worker dies after storing a trial, and one trial kills every worker that runs it."""
    phi3.save_pretrained(tmp_path / "phi3")
    spec = dataclasses.replace(
        spec,
        models=(*spec.models, str(tmp_path / "phi3")),
        task_options={**spec.task_options, "sequences": 40, "batch": 8},
    )
    orders("kill", "self_prediction input 0.5", when="after")
    orders("kill", "self_prediction intermediate 0.9", times=3)
    store = run_study(spec, tmp_path / "ray", executor=TWO)
    struck = [orders.strikes(number) for number in range(2)]
    assert [len(pids) for pids in struck] == [1, 3]
    assert os.getpid() not in struck[0] + struck[1]
    problems = find_problems(store)
    assert len(problems) <= 1  # the three kills may be spread over the trials of both models
    assert all("intermediate top_p 0.9: killed in 3 attempt(s)" in problem.text for problem in problems)
    store = run_study(spec, tmp_path / "ray", retry_failed=True)  # resume in this process
    assert find_problems(store) == []
    assert scores(store) == scores(run_study(spec, tmp_path / "local"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_trial_that_hangs_is_ended(spec, tmp_path, orders):
    orders("hang", "self_prediction None")
    store = run_study(spec, tmp_path, executor=dataclasses.replace(TWO, number=1, timeout=8.0))
    assert len(orders.strikes()) == 1
    assert [f.kind for key in (tmp_path / "failed").iterdir() for f in store.failures(key.name)] == ["timeout"]
    assert find_problems(store) == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_helper_of_a_trial_that_hangs_is_ended(spec, tmp_path, orders):
    orders("help", "self_prediction None")
    store = run_study(spec, tmp_path, executor=dataclasses.replace(TWO, number=1, timeout=8.0))
    (helper,) = orders.helpers()
    assert wait_until(lambda: not is_running(helper))
    assert find_problems(store) == []


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_that_can_never_be_placed_are_an_error(spec, tmp_path):
    for config in (ExecutorConfig("ray", gpus=1.0), ExecutorConfig("ray", cpus=64.0), ExecutorConfig("ray", number=9)):
        with pytest.raises(SpecError, match=r"never be placed.*2 CPUs, 0 GPUs"):
            run_study(spec, tmp_path, executor=config)
    assert not (tmp_path / "trials").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_does_not_see_the_directory_reports_it(spec, tmp_path):
    setup = WorkerSetup(spec, tmp_path / "elsewhere", "cpu")
    outcome = RemoteWorker(setup.to_json(), "0" * 64).run(Job(spec.models[0]).to_json())
    assert outcome["kind"] == "stop"
    assert "shared" in outcome["message"]
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StorageError, match="models is missing"):
        run_study(spec, tmp_path, executor=TWO)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_have_as_many_threads_as_cpus(spec, tmp_path):
    executor = RayExecutor(ExecutorConfig("ray", cpus=2.0), WorkerSetup(spec, tmp_path, "cpu"), NullListener())
    try:
        assert executor.number == 1
        (job,) = executor.take([Job(spec.models[0]), Job("another")])
        assert job == Job(spec.models[0])
        threads = ray.get(executor.slots[0].actor.threads.remote())
        assert threads == {"torch": 2, **dict.fromkeys(THREAD_VARIABLES, "2")}
    finally:
        executor.close()


def test_the_number_of_workers():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}]
    assert count_workers(nodes, 1, 1, None) == 2
    assert count_workers(nodes, 8, 0, None) == 10
    assert count_workers(nodes, 1, 0.5, 3) == 3
    with pytest.raises(SpecError, match="--gpus-per-worker"):
        count_workers(nodes, 1, 4, None)
    with pytest.raises(SpecError):
        count_workers([], 1, 0, None)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_workers_import_the_module_that_registers(spec, tmp_path, registrations, monkeypatch):
    module = "tests.support.registered_definitions"
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.import_module(module)
    own_spec = dataclasses.replace(spec, sites=("own_site",), rules=("own_rule",), values=(1.0,))
    store = run_study(own_spec, tmp_path, executor=TWO)
    assert find_problems(store) == []
    assert {record.identity.site for record in store.trials()} == {None, "own_site"}
