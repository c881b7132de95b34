"""Workers on Ray: one real cluster of this machine for all of these, real kills."""

import dataclasses
import os
from pathlib import Path

import pytest
import sabotage

from sparsedial.errors import SpecError, StoreError
from sparsedial.study.executors import Workers
from sparsedial.study.fsck import fsck
from sparsedial.study.on_ray import THREADS, OnRay, RemoteWorker, _room
from sparsedial.study.plan import Job
from sparsedial.study.run import run_study
from sparsedial.study.worker import Silent

ray = pytest.importorskip("ray")

TWO = Workers("ray", number=2, timeout=120.0)


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """The file of orders that every worker of the cluster reads."""
    return tmp_path_factory.mktemp("orders") / "orders.jsonl"


@pytest.fixture(scope="module", autouse=True)
def cluster(ordered):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # so that no token is written to the home of whoever runs the tests
        patch.setenv("RAY_worker_niceness", "0")  # otherwise they make way for all else on a busy machine
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={
                "env_vars": {"PYTHONPATH": path, "SABOTAGE": str(ordered)},
                "worker_process_setup_hook": "sabotage.install",
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
    return {r["key"]: (r["result"]["score"], r["result"]["dropped"], r["result"]["total"]) for r in store.trials()}


@pytest.mark.slow
def test_two_models_on_two_workers_give_the_same_numbers_through_deaths(spec, tmp_path, phi3, orders):
    """One run: a worker dies after its commit, one trial kills whoever takes it, and the rest goes on."""
    phi3.save_pretrained(tmp_path / "phi3")
    spec = dataclasses.replace(
        spec,
        models=(*spec.models, str(tmp_path / "phi3")),
        options=dataclasses.replace(spec.options, sequences=40, batch=8),
    )
    orders("kill", "self_prediction input 0.5", when="after")
    orders("kill", "self_prediction intermediate 0.9", times=3)
    store = run_study(spec, tmp_path / "ray", workers=TWO)
    struck = [orders.strikes(number) for number in range(2)]
    assert [len(pids) for pids in struck] == [1, 3]
    assert os.getpid() not in struck[0] + struck[1]
    problems = fsck(store)
    assert len(problems) <= 1  # the three kills may have struck one model's trial, or both models'
    assert all("intermediate top_p 0.9: killed in 3 attempt(s)" in problem.text for problem in problems)
    store = run_study(spec, tmp_path / "ray", retry_failed=True)  # and on in this process
    assert fsck(store) == []
    assert scores(store) == scores(run_study(spec, tmp_path / "alone"))


@pytest.mark.slow
def test_a_trial_that_hangs_is_ended(spec, tmp_path, orders):
    orders("hang", "self_prediction None")
    store = run_study(spec, tmp_path, workers=dataclasses.replace(TWO, number=1, timeout=8.0))
    assert len(orders.strikes()) == 1
    assert [f["kind"] for key in (tmp_path / "failed").iterdir() for f in store.failures(key.name)] == ["timeout"]
    assert fsck(store) == []


def test_what_can_never_be_placed_is_an_error_at_the_start(spec, tmp_path):
    for workers in (Workers("ray", gpus=1.0), Workers("ray", cpus=64.0), Workers("ray", number=9)):
        with pytest.raises(SpecError, match=r"never be placed.*2 CPUs, 0 GPUs"):
            run_study(spec, tmp_path, workers=workers)
    assert not (tmp_path / "trials").exists()


def test_a_worker_that_does_not_see_the_folder_says_so(spec, tmp_path):
    remote = RemoteWorker(spec.to_json(), str(tmp_path / "elsewhere"), "cpu", "0" * 64)
    outcome = remote.run(dataclasses.asdict(Job(spec.models[0])))
    assert outcome["kind"] == "stop"
    assert "shared" in outcome["message"]
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StoreError, match="models is missing"):
        run_study(spec, tmp_path, workers=TWO)


def test_workers_have_as_many_threads_as_slots(spec, tmp_path):
    executor = OnRay(Workers("ray", cpus=2.0), spec, tmp_path, "cpu", Silent())
    try:
        assert executor.number == 1
        (job,) = executor.take([Job(spec.models[0]), Job("another")])
        assert job == Job(spec.models[0])
        threads = ray.get(executor.slots[0].actor.threads.remote())
        assert threads == {"torch": 2, **dict.fromkeys(THREADS, "2")}
    finally:
        executor.close()


def test_room():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 64.0}]
    assert _room(nodes, 1, 1, None) == 2
    assert _room(nodes, 8, 0, None) == 10
    assert _room(nodes, 1, 0.5, 3) == 3
    with pytest.raises(SpecError, match="--gpus-per-worker"):
        _room(nodes, 1, 4, None)
    with pytest.raises(SpecError):
        _room([], 1, 0, None)
