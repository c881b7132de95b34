"""Detection and checks of the markers around the thoughts of a model."""

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from sparsedial.errors import SpecError
from sparsedial.inference.thinking_markers import ThinkingMarkers, find_markers, parse_markers

LETTERS = "abcdefghijklmnopqrstuvwxyz"
THINK = ThinkingMarkers("<think>", "</think>")


def make_tokenizer(characters=LETTERS, template=None, special=(), unknown=None):
    pieces = ["<pad>", *([unknown] if unknown else []), *characters]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], unk_token=unknown))
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token=unknown)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    return tokenizer


def test_markers_are_detected_in_the_template_or_the_special_tokens():
    template = "{{ messages[0].content.split('</think>')[-1] }}<think>\n"
    assert find_markers(make_tokenizer(LETTERS + "<>/", template)) == THINK
    assert find_markers(make_tokenizer(special=["</think>", "<think>"])) == THINK
    harmony = "<|start|>assistant<|channel|>analysis<|message|>...<|end|>"
    special = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]
    found = find_markers(make_tokenizer(template=harmony, special=special))
    assert found == ThinkingMarkers("<|channel|>analysis<|message|>", "<|end|>")
    both = make_tokenizer(LETTERS + "[]THINK/", "[THINK] [/THINK]", special=["<think>", "</think>"])
    assert find_markers(both) == ThinkingMarkers("[THINK]", "[/THINK]")  # what the template uses comes first
    several = make_tokenizer(LETTERS + "<>/", {"default": "", "tool_use": template})
    assert find_markers(several) == THINK


@pytest.mark.parametrize(
    ("template", "special"),
    [(None, ()), ("<think>", ()), (None, ["<think>"]), ("<think></think>", ())],
    ids=["nothing", "half in the template", "half in the vocabulary", "characters that it lacks"],
)
def test_a_model_without_markers_has_none(template, special):
    assert find_markers(make_tokenizer(template=template, special=special)) is None


def test_the_user_gives_or_turns_off_markers():
    tokenizer = make_tokenizer(LETTERS + "<>/", "<think></think>")
    assert find_markers(tokenizer, parse_markers("<a>,</a>")) == ThinkingMarkers("<a>", "</a>")
    assert find_markers(tokenizer, parse_markers(["<a>", "b"])) == ThinkingMarkers("<a>", "b")
    assert find_markers(tokenizer, parse_markers("none")) is None
    assert find_markers(tokenizer, parse_markers("auto")) == find_markers(tokenizer) == THINK


@pytest.mark.parametrize(
    ("tokenizer", "decoded"), [(make_tokenizer(), "think"), (make_tokenizer(unknown="?"), r"\?")], ids=["drops", "unk"]
)
def test_a_marker_that_is_not_in_the_vocabulary_is_an_error(tokenizer, decoded):
    with pytest.raises(SpecError, match=rf"cannot encode the marker '<think>'.*decoded as '\S*{decoded}.*Pass none"):
        find_markers(tokenizer, (THINK,))
    with pytest.raises(SpecError, match="marker '</think>'"):
        find_markers(tokenizer, (ThinkingMarkers("think", "</think>"),))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("<think>", r"1 marker\(s\): expected START,END"),
        (["a", "b", "c"], "3 marker"),
        ("a,", "empty"),
        ("a,a", "equal"),
    ],
)
def test_a_malformed_option_is_an_error(option, message):
    with pytest.raises(SpecError, match=message):
        parse_markers(option)
