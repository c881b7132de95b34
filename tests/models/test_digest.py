"""The digest of a model follows every file that can change a number."""

import hashlib

from sparsedial.models.digest import digest_folders, model_file_sha256


def test_the_digest_follows_the_weights(saved_llama):
    first = digest_folders([saved_llama])
    assert digest_folders([saved_llama]) == first
    file = saved_llama / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert digest_folders([saved_llama]) != first


def test_the_digest_follows_the_files_beside_the_weights(saved_llama):
    first = digest_folders([saved_llama])
    (saved_llama / "chat_template.jinja").write_text("{{ messages }}")
    assert digest_folders([saved_llama]) != first


def test_the_digest_does_not_depend_on_the_folder(saved_llama, tmp_path):
    first = digest_folders([saved_llama])
    assert digest_folders([saved_llama.rename(tmp_path / "elsewhere")]) == first


def test_a_file_in_the_hub_cache_is_not_read(tmp_path):
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / digest).write_bytes(b"not read")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / digest)
    assert model_file_sha256(tmp_path / "model.safetensors") == digest
    (tmp_path / "config.json").write_bytes(content)
    assert model_file_sha256(tmp_path / "config.json") == digest
