"""Accelerated models on disk."""

import copy
import json
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import AutoModelForCausalLM

import sparsedial as sd
from sparsedial.acceleration.saved_settings import FILE_NAME
from sparsedial.errors import AttachError, ModelError, SpecError, StorageError


@pytest.fixture
def saved(make_model, tmp_path):
    """Return the directory of a saved model and its logits."""
    model = make_model()
    ids = torch.arange(1, 4)[None]
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6), layers=[1], prefill="sparse") as fast:
        fast.save_pretrained(tmp_path, evidence={"study": "runs/demo", "critical_sparsity": [0.2, 0.3]})
        return tmp_path, fast(ids).logits


def test_a_fresh_process_loads_the_accelerated_model(saved, tmp_path):
    folder, logits = saved
    torch.save(logits, tmp_path / "logits.pt")
    code = f"""
        import torch, sparsedial as sd
        fast, _ = sd.load_model({str(folder)!r}, device="cpu", dtype="float32")
        logits = fast(torch.arange(1, 4)[None]).logits
        assert torch.equal(logits, torch.load({str(tmp_path / "logits.pt")!r}))
        report = fast.report()
        assert set(report.table.layer) == {{1}} and report.prefill == "sparse" and report.calls == 2
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_from_pretrained_loads_the_dense_model(saved, make_model):
    folder, _ = saved
    dense = AutoModelForCausalLM.from_pretrained(folder)
    expected = make_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in dense.state_dict().items())
    loaded, _ = sd.load_model(str(folder), device="cpu", dtype="float32", accelerated=False)
    assert type(loaded) is type(dense)


def test_the_file_has_the_rules_the_machine_and_the_evidence(saved):
    data = json.loads((saved[0] / FILE_NAME).read_text())
    assert data["version"] == 1
    assert data["evidence"]["study"] == "runs/demo"
    assert data["machine"]
    assert data["rules"][0] == {
        "module": "model.layers.1.mlp",
        "vector": "input",
        "rule": {"rule": "top_p", "value": 0.6, "version": 1},
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(version=99), "version 99: expected 1"),
        (lambda data: data.pop("site"), "missing"),
        (lambda data: data.pop("version"), "cannot be read"),
        (lambda data: data.update(rules=[]), "rules is empty: expected the rule of at least one vector"),
        (lambda data: data["rules"][0].update(rule=None), "is None: expected an object"),
        (lambda data: data["rules"].append(data["rules"][0]), "two entries for input"),
        (lambda data: data.update(prefill="bogus"), 'prefill is \'bogus\': expected one of "dense", "sparse"'),
        (lambda data: data.update(when_slower="bogus"), "when_slower is 'bogus'"),
        (lambda data: data.update(linear_layers="no"), "linear_layers is 'no'"),
        (lambda data: data.update(dtype="float8"), 'dtype is .float8.: expected one of "float32"'),
        (lambda data: data.update(calibration=[1]), "calibration is .1.: expected an object or null"),
    ],
)
def test_a_damaged_file_raises_an_error(saved, change, message):
    path = saved[0] / FILE_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(StorageError, match=message):
        sd.load_model(str(saved[0]), device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_is_loaded_in_the_dtype_that_it_was_saved_in(make_model, tmp_path, dtype):
    model = make_model().to(getattr(torch, dtype))
    with sd.accelerate(model, "all_inputs", sd.TopP(0.6)) as fast:
        fast.save_pretrained(tmp_path)
    loaded, _ = sd.load_model(str(tmp_path), device="cpu")
    assert loaded.dtype is getattr(torch, dtype)
    other, _ = sd.load_model(str(tmp_path), device="cpu", dtype="float32")
    assert other.dtype is torch.float32


def test_a_file_without_a_dtype_can_be_loaded(saved):
    path = saved[0] / FILE_NAME
    data = json.loads(path.read_text())
    del data["dtype"]
    path.write_text(json.dumps(data))
    fast, _ = sd.load_model(str(saved[0]), device="cpu")
    assert fast.site == "all_inputs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evidence": {"score": float("nan")}}, "evidence: it is not plain JSON"),
        ({"evidence": {"score": torch.zeros(1)}}, "evidence: it is not plain JSON"),
        ({"evidence": [1]}, "evidence is .1.: expected the result of measure"),
        ({"state_dict": {}}, "state_dict is given: expected no weights"),
    ],
)
def test_nothing_is_written_if_an_argument_is_wrong(make_model, tmp_path, arguments, message):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.6)) as fast, pytest.raises(SpecError, match=message):
        fast.save_pretrained(tmp_path / "saved", **arguments)
    assert not (tmp_path / "saved").exists()


def test_a_file_is_no_directory(make_model, tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    fast = sd.accelerate(make_model(), "all_inputs", sd.TopP(0.6))
    with fast, pytest.raises(StorageError, match="file is a file: expected a directory"):
        fast.save_pretrained(path)
    assert path.read_text() == "text"


@pytest.mark.parametrize("copy_model", [pickle.dumps, copy.copy])
def test_a_pickle_names_the_other_way(make_model, copy_model):
    fast = sd.accelerate(make_model(), "all_inputs", sd.TopP(0.6))
    with fast, pytest.raises(AttachError, match="save_pretrained"):
        copy_model(fast)


def test_a_file_of_another_model_raises_an_error(saved):
    path = saved[0] / FILE_NAME
    path.write_text(path.read_text().replace("layers.1.", "layers.7."))
    with pytest.raises(ModelError, match=r"layers\.7\.mlp"):
        sd.load_model(str(saved[0]), device="cpu")
