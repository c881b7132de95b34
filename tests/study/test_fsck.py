"""Everything that can be wrong with a directory is named, and nothing is touched."""

import dataclasses
import json
import shutil

import pytest

from sparsedial.study.fsck import KINDS, fsck
from sparsedial.study.run import run_study
from sparsedial.study.store import Store, canonical, digest


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where a finished study is kept, for copies: run by the first test that wants one."""
    return tmp_path_factory.mktemp("finished") / "study"


@pytest.fixture
def store(spec, tmp_path, finished):
    if not finished.exists():
        run_study(spec, finished)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Store(tmp_path)


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def a_trial(store):
    return next(r for r in store.trials() if r["identity"]["site"] == "input")


def rewrite(store, record):
    record = {k: v for k, v in record.items() if k != "sha256"}
    record["sha256"] = digest(record)
    store.trial_path(record["key"]).write_text(canonical(record))


def lose(store):
    store.trial_path(a_trial(store)["key"]).unlink()
    return "missing", "input top_p"


def truncate(store):
    path = store.trial_path(a_trial(store)["key"])
    path.write_bytes(path.read_bytes()[:-9])
    return "corrupt", path.name


def lose_scores(store):
    (store.folder / "samples" / f"{a_trial(store)['key']}.parquet").unlink()
    return "corrupt", "lost or damaged"


def garble_examples(store):
    next((store.folder / "prepared").iterdir()).write_text("{}")
    return "corrupt", "examples"


def contradict(store):
    record = a_trial(store)
    record["result"]["sparsity"] = 1.5
    rewrite(store, record)
    return "invalid", "contradict"


def forge_identity(store):
    record = a_trial(store)
    record["identity"]["site"] = "gate"
    rewrite(store, record)
    return "invalid", "gate"


def finish_twice(store):
    record = a_trial(store)
    scores = store.samples(record)
    record["result"]["score"] += 0.5
    store.write_trial(record, scores + 0.5)
    return "conflicting", "input top_p"


def fail(store):
    record = a_trial(store)
    store.trial_path(record["key"]).unlink()
    store.write_failure(record["key"], "error", "it broke\nat line 1", {})
    return "failed", "it broke"


def leave_a_temporary_file(store):
    (store.folder / "trials" / ".abc.json.0123abcd").write_text("half")
    return "stray", "temporary"


def leave_scores(store):
    (store.folder / "samples" / f"{'0' * 64}.parquet").write_text("of nobody")
    return "stray", "no finished trial"


def leave_something_else(store):
    (store.folder / "core").write_text("dumped")
    return "stray", "core"


def damage_the_spec(store):
    (store.folder / "study.json").write_text("{")
    return "corrupt", "study.json"


def ask_for_more(store):
    spec = store.read_spec()
    (store.folder / "study.json").write_text(json.dumps({**spec, "values": [*spec["values"], 0.7]}))
    return "missing", "input top_p 0.7"


def ask_for_another_model(store):
    spec = store.read_spec()
    (store.folder / "study.json").write_text(json.dumps({**spec, "models": [*spec["models"], "another"]}))
    return "missing", "another, loading"


FAULTS = [lose, truncate, lose_scores, garble_examples, contradict, forge_identity, finish_twice, fail,
          leave_a_temporary_file, leave_scores, leave_something_else, damage_the_spec, ask_for_more,
          ask_for_another_model]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_named_and_nothing_is_touched(store, fault):
    assert fsck(store) == []
    kind, word = fault(store)
    before = contents(store.folder)
    problems = fsck(store)
    assert any(p.kind == kind and word in p.text for p in problems), problems
    assert all(p.kind in KINDS for p in problems)
    assert contents(store.folder) == before


@pytest.mark.parametrize("fault", [lose, truncate, lose_scores, fail], ids=lambda fault: fault.__name__)
def test_running_again_repairs_it(store, spec, fault, numbers):
    whole = numbers(store)
    fault(store)
    run_study(spec, store.folder, retry_failed=True)
    assert fsck(store) == []
    assert numbers(store) == whole


def test_what_is_no_longer_asked_for_is_no_problem(store, spec):
    key = a_trial(store)["key"]
    store.trial_path(key).unlink()
    store.write_failure(key, "error", "it broke", {})
    run_study(dataclasses.replace(spec, sites=("intermediate",)), store.folder)
    assert {p.kind for p in fsck(store)} == {"stray"}  # its scores


def test_a_study_of_an_older_version_is_read(store, spec):
    old = {**store.read_spec(), "version": 1, "rule": "top_p"}
    del old["rules"]
    (store.folder / "study.json").write_text(json.dumps(old))
    resolved = store.read_resolved()
    del resolved["found"]
    (store.folder / "resolved.json").write_text(json.dumps(resolved))
    assert fsck(store) == []
    before = {p: p.read_bytes() for p in store.folder.glob("trials/*/*")}
    run_study(spec, store.folder)
    assert {p: p.read_bytes() for p in store.folder.glob("trials/*/*")} == before
    lose(store)
    assert [p.kind for p in fsck(store)] == ["missing", "stray"]


@pytest.mark.parametrize("text", ["", "[]", '{"found": 3}', '{"found": [{"model": "m"}], "tasks": [], "models": []}'])
def test_what_was_resolved_is_found_out_again(store, spec, text, numbers):
    whole = numbers(store)
    (store.folder / "resolved.json").write_text(text)
    assert {p.kind for p in fsck(store)} == {"missing"}
    assert fsck(run_study(spec, store.folder)) == []
    assert numbers(store) == whole


def test_a_directory_with_nothing_in_it(tmp_path):
    assert [p.kind for p in fsck(Store(tmp_path))] == ["corrupt"]
    assert "Expected a directory" in fsck(Store(tmp_path))[0].text


def test_a_search_that_has_not_ended_is_missing_its_next_trials(spec, tmp_path):
    search = dataclasses.replace(spec, values=None, sites=("input",))
    store = run_study(search, tmp_path)
    assert fsck(store) == []
    values = sorted(r["identity"]["rule"]["value"] for r in store.trials() if r["identity"]["rule"])
    last = next(r for r in store.trials() if r["identity"]["rule"] and r["identity"]["rule"]["value"] == 0.8)
    store.trial_path(last["key"]).unlink()
    assert [p.text.split("top_p ")[1] for p in fsck(store) if p.kind == "missing"] == ["0.8: not finished"]
    assert len(values) >= 3
