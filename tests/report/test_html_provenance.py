"""The page says what the model is and how the numbers were made."""

from sparsedial.report.html_provenance import render_model_line, render_provenance

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


def test_every_leaf_of_the_record_has_its_path():
    html = render_provenance({"versions": {"torch": "2"}, "runs": [{"n": 1}, {"n": float("nan")}], "tags": []})
    for path, value in (("versions · torch", "2"), ("runs 1 · n", "1"), ("runs 2 · n", "none"), ("tags", "none")):
        assert f'<th scope="row">{path}</th><td>{value}</td>' in html
