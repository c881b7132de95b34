"""YAML with repeated keys, tabs and other mistakes is an error that names the place."""

import pytest
import yaml

from sparsedial.errors import SpecError
from sparsedial.study.spec import StudySpec
from sparsedial.study.strict_yaml import load_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [a]\nvalues: [0.9]\nsites: [input]\nvalues: [0.5]\n", "key 'values' in line 2 is repeated in line 4"),
        ("models: [a]\ntask_options:\n  limit: 1\n  'limit': 1\n", "key 'limit' in line 3 is repeated in line 4"),
        ("models: [a]\ntasks:\n- {name: a, limit: 1, limit: 2}\n", "key 'limit' in line 3 is repeated in line 3"),
        ('{"models": ["a"], "models": ["b"]}', "key 'models' in line 1 is repeated in line 1"),
        ("a: 1\na: 2\nb: 1\nb: 2\n", "2 problems"),
        ("x: &x {a: 1}\ny: {<<: *x, <<: *x}\n", "key '<<' in line 2"),
        ("models: [a]\n\tvalues: [1]\n", "line 2.*Indent with spaces"),
        ("models: [a]\n---\nmodels: [b]\n", "single document"),
        ("limit: 2024-99-99\n", "month must be in"),
        ("? [a]\n: b\n", "unhashable key"),
        (f"a: {'[' * 3000}", "not YAML"),
    ],
)
def test_mistakes_are_errors(tmp_path, text, words):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=rf"(?s)study\.yaml: .*{words}"):
        StudySpec.from_yaml(path)


@pytest.mark.parametrize("text", ["- a\n", "", "text", "a: &x [*x]\n"])
def test_what_is_no_mapping_of_plain_data_is_an_error(tmp_path, text):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"study\.yaml: .*(expected keys and values|not plain data|is missing)"):
        StudySpec.from_yaml(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {limit: 1, seed: 2}\nderived: &d {<<: *b, limit: 3}\nlast: {<<: *d, seed: 4}\n",
        "deep: [{x: &b {limit: 1}}]\nfirst: {<<: [*b, {limit: 2}], limit: 3}\nagain: *b\n",
        "a: &list [1, 2]\nb: *list\n? c\n: d\n",
        "1: x\n'1': y\n",
        "[]\n",
    ],
)
def test_anchors_and_merge_keys_work_as_in_yaml(text):
    assert load_yaml(text) == yaml.safe_load(text)


def test_a_file_in_another_encoding_is_an_error(tmp_path):
    (tmp_path / "study.yaml").write_bytes("models: [größe]".encode("latin-1"))
    with pytest.raises(SpecError, match=r"study\.yaml: not UTF-8.*Save it as UTF-8"):
        StudySpec.from_yaml(tmp_path / "study.yaml")
