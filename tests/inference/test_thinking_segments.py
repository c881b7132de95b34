"""Segments of generated texts on a model that writes given texts."""

import pytest

import sparsedial as sd
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import SWITCH, generate
from sparsedial.inference.run_context import RunContext
from sparsedial.inference.thinking_markers import ThinkingMarkers
from sparsedial.inference.thinking_segments import SegmentDivider, TextSegments
from tests.support.scripted_model import ScriptTokenizer, make_scripted_model

LIMIT = 14
START = ("<", "think", ">\n")
STOP = ("</", "think", ">")
SCRIPTS = {
    "markers of three tokens": (["Q", "1"], [*START, "a", "b", "c", *STOP, "x", "y", None]),
    "begun in the prompt": (["Q", "2 <think>"], ["a", "b", "c </think> x", "y", None]),
    "never closes": (["Q"], ["<think>", *"abcdefghijklmnop"]),
    "stops at once": (["Q", "4", "?"], [None]),
    "stops at once while thinking": (["Q", *START], [None]),
    "does not think": (["Q", "<think></think>"], ["x", "y", "z", None]),
    "thinks twice": (["Q", "7"], ["<think>", "a", "</think>", "x", "<think>", "b", "</think>", None]),
    "almost a marker": (["Q", "8"], ["<", "thin", ">", "x", "<", "think", "er>", None]),
}  # fmt: skip
EXPECTED = {
    "markers of three tokens": TextSegments(9, 3, has_thinking=True, is_closed=True),
    "begun in the prompt": TextSegments(3, 2, has_thinking=True, is_closed=True),
    "never closes": TextSegments(LIMIT, 0, has_thinking=True, is_closed=False),
    "stops at once": TextSegments(0, 1, has_thinking=False, is_closed=True),
    "stops at once while thinking": TextSegments(1, 0, has_thinking=True, is_closed=False),
    "does not think": TextSegments(0, 4, has_thinking=False, is_closed=True),
    "thinks twice": TextSegments(6, 2, has_thinking=True, is_closed=True),
    "almost a marker": TextSegments(0, 8, has_thinking=False, is_closed=True),
}
# The last token of a text is never read, and the first two tokens of a start marker of three count as answer.
READ = {
    "markers of three tokens": (7, 4),
    "begun in the prompt": (3, 1),
    "never closes": (LIMIT - 1, 0),
    "stops at once": (0, 0),
    "stops at once while thinking": (0, 0),
    "does not think": (0, 3),
    "thinks twice": (6, 1),
    "almost a marker": (0, 7),
}
NAMES = list(SCRIPTS)


@pytest.fixture(scope="module")
def tokenizer():
    return ScriptTokenizer(SCRIPTS.values())


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_scripted_model(tokenizer)


@pytest.fixture(scope="module")
def divider(tokenizer):
    return SegmentDivider(tokenizer, ThinkingMarkers("<think>", "</think>"))


def run(model, tokenizer, divider, names, batch_tokens=4096):
    """Return the texts, and the number of tokens that were counted in each segment."""
    prompts = [Prompt(tokenizer.prompts[NAMES.index(name)], (), LIMIT, {"do_sample": False}) for name in names]
    with sd.sparsify(model, "input", sd.TopK(0.5)) as sparsifier:
        texts = generate(model, tokenizer, prompts, RunContext(sparsifier, batch_tokens=batch_tokens, divider=divider))
    table = sparsifier.stats()
    if "segment" not in table:
        table["segment"] = None
    generated = table[(table["phase"] == "generation") & (table["layer"] == 0)]
    return texts, generated.groupby("segment")["tokens"].sum().to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_divided_by_its_markers(model, tokenizer, divider, name, monkeypatch):
    index = NAMES.index(name)
    for continuous in ("1", "0"):
        monkeypatch.setenv(SWITCH, continuous)
        [text], counted = run(model, tokenizer, divider, [name])
        assert text.tokens == tokenizer.texts[index][:LIMIT]
        assert text.stopped == (name != "never closes")
        assert divider.divide(tokenizer.prompts[index], text.tokens) == EXPECTED[name]
        thinking, answer = READ[name]
        assert (counted.get("thinking", 0), counted.get("answer", 0)) == (thinking, answer)


@pytest.mark.parametrize("continuous", ["1", "0"], ids=["continuous batching", "generate"])
@pytest.mark.parametrize("batch_tokens", [4096, 50], ids=["one batch", "several batches"])
def test_batches_and_their_order_change_nothing(model, tokenizer, divider, continuous, batch_tokens, monkeypatch):
    """Prompts of different lengths are padded, and texts end at different times."""
    monkeypatch.setenv(SWITCH, continuous)
    expected = {segment: sum(counts[i] for counts in READ.values()) for i, segment in enumerate(("thinking", "answer"))}
    for names in (NAMES, NAMES[::-1]):
        texts, counted = run(model, tokenizer, divider, names, batch_tokens)
        for name, text in zip(names, texts, strict=True):
            prompt = tokenizer.prompts[NAMES.index(name)]
            assert divider.divide(prompt, text.tokens) == EXPECTED[name]
        assert counted == expected


def test_without_markers_nothing_is_divided(model, tokenizer):
    texts, counted = run(model, tokenizer, None, NAMES)
    assert counted == {}
    assert len(texts) == len(NAMES)


def test_a_dense_run_reads_no_segments(divider):
    assert RunContext(divider=divider).read_segments([2]) is None
