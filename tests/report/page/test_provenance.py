"""The page says what the model is and how the numbers were made."""

from sparsedial.report.page.provenance import render_model_line, render_provenance

ONE_MODEL = {"models": {"SmolLM2": {"origin": "hub org/SmolLM2, 4-bit weights <dequantised>"}}}
TWO_MODELS = {"models": {"a": {"origin": "zoo"}, "b": {"origin": ""}}}


def test_one_model_is_named_with_its_origin():
    expected = "Model: SmolLM2 (hub org/SmolLM2, 4-bit weights &lt;dequantised&gt;)"
    assert expected in render_model_line(ONE_MODEL)
    assert expected.removeprefix("Model: ") in render_provenance(ONE_MODEL)


def test_several_models_are_listed_in_the_provenance_only():
    assert render_model_line(TWO_MODELS) == ""
    assert "<li>a (zoo)</li><li>b</li>" in render_provenance(TWO_MODELS)


def test_provenance_without_models_has_no_model_line():
    assert render_model_line({}) == ""
    assert render_model_line({"models": ["a"]}) == ""
    assert "Models" not in render_provenance({})


def test_commands_are_quoted_for_a_shell():
    html = render_provenance({"commands": [["sparsedial", "run", "a b"], "make demo"]})
    assert "<h3>Command</h3><pre><code>sparsedial run &#x27;a b&#x27;<br>make demo</code></pre>" in html


def test_each_environment_has_one_line_of_versions():
    old = {"versions": {"torch": "2.12"}, "python": "3.11.7"}
    new = {"versions": {"torch": "2.13", "sparsedial": "0.1"}, "python": "3.12.1"}
    html = render_provenance({"made by": [old, new, {**old, "cores": 4}]})
    lines = "<li>torch 2.12, Python 3.11.7</li><li>torch 2.13, sparsedial 0.1, Python 3.12.1</li>"
    assert f"<h3>Versions</h3><ul>{lines}</ul>" in html
    assert "<li>torch 2.12, Python 3.11.7</li>" in render_provenance({"made by": old})
    assert "Versions" not in render_provenance({})


def test_every_leaf_of_the_record_has_its_path():
    html = render_provenance({"versions": {"torch": "2"}, "runs": [{"n": 1}, {"n": float("nan")}], "tags": []})
    for path, value in (("versions · torch", "2"), ("runs 1 · n", "1"), ("runs 2 · n", "none"), ("tags", "none")):
        assert f'<th scope="row">{path}</th><td>{value}</td>' in html
