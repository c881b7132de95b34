"""The memory that weights take, compared with that of a device."""

import pytest

from sparsedial.errors import ModelError
from sparsedial.models import device_memory
from sparsedial.models.checkpoint_size import count_stored_parameters
from sparsedial.models.device_memory import check_weights_fit, count_device_memory
from sparsedial.models.parameter_count import count_parameters
from sparsedial.models.sources import resolve_source


def test_the_stored_parameters_are_those_of_the_loaded_model(trained):
    assert count_stored_parameters(trained.source.path) == count_parameters(trained.model)


def test_a_sharded_checkpoint_counts_all_of_its_files(llama, tmp_path):
    llama.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert count_stored_parameters(tmp_path) == count_parameters(llama)


@pytest.mark.parametrize("max_shard_size", ["30KB", "1GB"])
def test_weights_that_a_folder_holds_twice_count_once(llama, tmp_path, max_shard_size):
    llama.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    first = min(tmp_path.glob("*.safetensors"))
    (tmp_path / "consolidated.safetensors").write_bytes(first.read_bytes())
    assert count_stored_parameters(tmp_path) == count_parameters(llama)


@pytest.mark.parametrize(("dtype", "fits"), [("float32", False), ("bfloat16", True)])
def test_weights_are_counted_in_the_dtype_in_which_they_are_loaded(monkeypatch, dtype, fits):
    source = resolve_source("zoo:dense-0.4m")
    memory = 3 * count_stored_parameters(source.path)  # bytes, between those of the two dtypes
    monkeypatch.setattr(device_memory, "count_device_memory", lambda device: memory)
    if fits:
        check_weights_fit(source, "cpu", dtype)
        return
    with pytest.raises(ModelError, match=r"zoo:dense-0.4m.*in float32.*--device spread"):
        check_weights_fit(source, "cpu", dtype)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    whole = count_device_memory("cpu")
    monkeypatch.setattr(device_memory, "CONTROL_GROUP_LIMITS", (tmp_path / "missing", limit))
    assert count_device_memory("cpu") == min(whole, 1 << 30)
    limit.write_text("max\n")
    assert count_device_memory("cpu") >= 1 << 30
