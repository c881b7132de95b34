"""Records with their own SHA-256: damage is detected at every byte, and temporary files are removed."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.errors import StorageError
from sparsedial.files import make_temporary_path
from sparsedial.study.canonical_json import to_canonical_json
from sparsedial.study.store import Store
from sparsedial.study.verified_records import MAX_TEMPORARY_AGE, RecordFolder, decode_record, encode_record
from tests.support.trial_records import make_record


def test_a_record_cut_at_any_byte_is_quarantined(tmp_path):
    store = Store.create(tmp_path)
    store.write_trial(make_record(), np.array([0.5, 0.25, 1.0]))
    key = make_record().key
    path = store.trial_path(key)
    whole = path.read_bytes()
    assert decode_record(whole, key) is not None
    for length in range(len(whole)):
        assert decode_record(whole[:length], key) is None, length
    for damaged in (b"", whole[:-1], b"\x00" * 200, b"garbage", b"[]", b"null", whole.replace(b"made_up", b"made_uq")):
        path.write_bytes(damaged)
        assert store.trial(key) is None
        assert not path.exists()
    assert len(list((tmp_path / "quarantine").glob(f"{key}.json.*"))) == 7


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_detected_or_changes_nothing(data):
    whole = make_record().to_json()
    text = bytearray(encode_record(whole))
    byte = data.draw(st.integers(0, len(text) - 1))
    bit = data.draw(st.integers(0, 7))
    text[byte] ^= 1 << bit
    record = decode_record(bytes(text), whole["key"])
    assert record is None or record == json.loads(to_canonical_json(whole))


def make_old(path):
    os.utime(path, (time.time() - 2 * MAX_TEMPORARY_AGE,) * 2)


def test_old_temporary_files_are_removed(tmp_path):
    young = make_temporary_path(tmp_path / "trials" / "ab")
    old = [make_temporary_path(tmp_path / name) for name in (".", "samples", "failed/ab", "figures")]
    for path in (young, *old):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in old:
        make_old(path)
    RecordFolder.create(tmp_path)
    assert young.exists()
    assert not any(path.exists() for path in old)


THE_USERS = (".env.template", ".env.defaults", ".bashrc.original", ".a.json.0123abcd", "src/.settings.disabled",
             ".git/.info.previous", "trials/.labels.verified", "samples/.b.parquet.0123abcd")  # fmt: skip


def test_files_of_the_user_are_never_removed(tmp_path):
    paths = [tmp_path / name for name in THE_USERS]
    paths.append(make_temporary_path(tmp_path / "src"))  # a folder that no study has
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"the user's")
        make_old(path)
    RecordFolder.create(tmp_path)
    assert all(path.read_bytes() == b"the user's" for path in paths)


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="file"):
        RecordFolder.create(tmp_path / "file")
    with pytest.raises(StorageError, match="/proc/nowhere"):
        RecordFolder.create(Path("/proc/nowhere"))
