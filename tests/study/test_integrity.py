"""Every fault of a directory is reported, and nothing in it is changed."""

import dataclasses
import json
import shutil

import pytest

from sparsedial.errors import StorageError
from sparsedial.files import make_temporary_path
from sparsedial.study.canonical_json import json_digest, to_canonical_json
from sparsedial.study.integrity import ProblemKind, find_problems
from sparsedial.study.job import FailureRecord, OutcomeKind
from sparsedial.study.runner import run_study
from sparsedial.study.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the directory of a finished study that tests copy. The first test that needs it runs the study."""
    return tmp_path_factory.mktemp("finished") / "study"


@pytest.fixture
def store(spec, tmp_path, finished):
    if not finished.exists():
        run_study(spec, finished)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return Store(tmp_path)


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def first_sparse_trial(store):
    return next(r for r in store.trials() if r.identity.site == "input")


def rewrite(store, record, key):
    """Write a record under a key that may not be its own, with a correct SHA-256."""
    text = {**record.to_json(), "key": key}
    store.trial_path(key).write_text(to_canonical_json({**text, "sha256": json_digest(text)}))


def lose(store):
    store.trial_path(first_sparse_trial(store).key).unlink()
    return "missing", "input top_p"


def truncate(store):
    path = store.trial_path(first_sparse_trial(store).key)
    path.write_bytes(path.read_bytes()[:-9])
    return "corrupt", path.name


def lose_scores(store):
    (store.folder / "samples" / f"{first_sparse_trial(store).key}.parquet").unlink()
    return "corrupt", "lost or damaged"


def garble_examples(store):
    next((store.folder / "prepared").iterdir()).write_text("{}")
    return "corrupt", "examples"


def contradict(store):
    record = first_sparse_trial(store)
    result = dataclasses.replace(record.result, dropped=record.result.total * 3 // 2)
    rewrite(store, dataclasses.replace(record, result=result), record.key)
    return "corrupt", "inconsistent"


def forge_identity(store):
    record = first_sparse_trial(store)
    identity = dataclasses.replace(record.identity, site="gate")
    rewrite(store, dataclasses.replace(record, identity=identity), record.key)
    return "corrupt", "written for another trial"


def finish_twice(store):
    record = first_sparse_trial(store)
    scores = store.samples(record)
    result = dataclasses.replace(record.result, score=record.result.score + 0.5)
    store.write_trial(dataclasses.replace(record, result=result), scores + 0.5)
    return "conflicting", "input top_p"


def fail(store):
    record = first_sparse_trial(store)
    store.trial_path(record.key).unlink()
    store.write_failure(FailureRecord(record.key, OutcomeKind.ERROR, "it broke\nat line 1"))
    return "failed", "it broke"


def leave_a_temporary_file(store):
    make_temporary_path(store.folder / "trials").write_text("half")
    return "stray", "temporary"


def leave_scores(store):
    (store.folder / "samples" / f"{'0' * 64}.parquet").write_text("unused scores")
    return "stray", "no finished trial"


def leave_something_else(store):
    (store.folder / "core").write_text("dumped")
    return "unknown", "core"


def leave_a_hidden_file(store):
    (store.folder / "trials" / ".labels.verified").write_text("the user's")
    return "unknown", ".labels.verified"


def leave_a_file_of_another_version(store):
    path = store.trial_path(first_sparse_trial(store).key)
    path.write_text(path.read_text().replace('"schema":4', '"schema":2'))
    return "corrupt", "schema version 2"


def lose_the_spec(store):
    (store.folder / "study.json").unlink()
    return "unusable", "Run the study again"


def damage_the_spec(store):
    (store.folder / "study.json").write_text("{")
    return "unusable", "study.json"


def ask_for_more(store):
    spec = store.read_spec()
    (store.folder / "study.json").write_text(json.dumps({**spec, "values": [*spec["values"], 0.7]}))
    return "missing", "input top_p 0.7"


def ask_for_another_model(store):
    spec = store.read_spec()
    (store.folder / "study.json").write_text(json.dumps({**spec, "models": [*spec["models"], "another"]}))
    return "missing", "another, loading"


FAULTS = [lose, truncate, lose_scores, garble_examples, contradict, forge_identity, finish_twice, fail,
          leave_a_temporary_file, leave_scores, leave_something_else, leave_a_hidden_file,
          leave_a_file_of_another_version, damage_the_spec, lose_the_spec, ask_for_more,
          ask_for_another_model]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_reported_and_nothing_is_changed(store, fault):
    assert find_problems(store) == []
    kind, word = fault(store)
    before = contents(store.folder)
    problems = find_problems(store)
    assert any(p.kind == kind and word in p.text for p in problems), problems
    assert all(p.kind in ProblemKind for p in problems)
    assert contents(store.folder) == before


REPAIRED = [lose, truncate, lose_scores, garble_examples, contradict, forge_identity, fail,
            leave_a_file_of_another_version, lose_the_spec]  # fmt: skip


@pytest.mark.parametrize("fault", REPAIRED, ids=lambda fault: fault.__name__)
def test_running_again_repairs_it(store, spec, fault, numbers):
    whole = numbers(store)
    fault(store)
    run_study(spec, store.folder, retry_failed=True)
    assert find_problems(store) == []
    assert numbers(store) == whole


def test_a_damaged_trial_that_the_study_no_longer_needs_is_set_aside(store, spec):
    record = first_sparse_trial(store)
    other = dataclasses.replace(spec, sites=("intermediate",))
    run_study(other, store.folder)
    (store.folder / "samples" / f"{record.key}.parquet").write_bytes(b"")
    assert [p.kind for p in find_problems(store)] == ["corrupt"]
    run_study(other, store.folder)
    assert {p.kind for p in find_problems(store)} == {"stray"}  # its scores
    assert not store.trial_path(record.key).exists()


def test_a_file_that_cannot_be_read_is_not_set_aside(store, spec):
    path = store.trial_path(first_sparse_trial(store).key)
    path.unlink()
    path.symlink_to(path.name)  # a loop
    problems = find_problems(store)
    assert any(p.kind == "unusable" and path.name in p.text for p in problems), problems
    with pytest.raises(StorageError, match=path.name):
        run_study(spec, store.folder)
    assert path.is_symlink()


def test_trials_that_were_removed_from_the_spec_are_no_problem(store, spec):
    key = first_sparse_trial(store).key
    store.trial_path(key).unlink()
    store.write_failure(FailureRecord(key, OutcomeKind.ERROR, "it broke"))
    run_study(dataclasses.replace(spec, sites=("intermediate",)), store.folder)
    assert {p.kind for p in find_problems(store)} == {"stray"}  # its scores


def test_a_study_of_another_schema_is_refused_and_both_versions_are_named(store, spec):
    old = {**store.read_spec(), "version": 2}
    (store.folder / "study.json").write_text(json.dumps(old))
    before = contents(store.folder)
    with pytest.raises(StorageError, match=r"version 2\b.*version 4\b"):
        run_study(spec, store.folder)
    (problem,) = find_problems(store)  # of the records, nothing is known
    assert problem.kind == "unusable" and "version 2" in problem.text
    assert contents(store.folder) == before


@pytest.mark.parametrize(
    "text", ["", "[]", '{"resolved_models": 3}', '{"resolved_models": [{"model": "m"}], "tasks": [], "models": []}']
)
def test_a_damaged_file_of_resolved_models_is_rebuilt(store, spec, text, numbers):
    whole = numbers(store)
    (store.folder / "resolved.json").write_text(text)
    assert {p.kind for p in find_problems(store)} == {"missing"}
    assert find_problems(run_study(spec, store.folder)) == []
    assert numbers(store) == whole


def test_an_empty_directory(tmp_path):
    assert [p.kind for p in find_problems(Store(tmp_path))] == ["unusable"]
    assert "Expected the output directory" in find_problems(Store(tmp_path))[0].text


def test_the_next_trials_of_an_unfinished_search_are_missing(spec, tmp_path):
    search = dataclasses.replace(spec, values=None, sites=("input",))
    store = run_study(search, tmp_path)
    assert find_problems(store) == []
    values = sorted(r.identity.rule.value for r in store.trials() if r.identity.rule)
    last = next(r for r in store.trials() if r.identity.rule and r.identity.rule.value == 0.8)
    store.trial_path(last.key).unlink()
    assert [p.text.split("top_p ")[1] for p in find_problems(store) if p.kind == "missing"] == ["0.8: not finished"]
    assert len(values) >= 3
