"""Generation in which the next prompts take the place of texts that have ended."""

import itertools
import warnings

import pytest
import torch
from transformers import GPT2LMHeadModel, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

import sparsedial as sd
from benchmarks.countdown_model import NumberTokenizer, make_countdown_model
from sparsedial.inference.batch_size import CPU_ROWS, count_free_bytes
from sparsedial.inference.continuous_batching import count_slots
from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import SWITCH, generate
from sparsedial.inference.run_context import RunContext
from tests.conftest import DECODER, SIZES

LIMIT = 12
# The last token of a prompt is the length of its text. 30 never stops, and 1 stops at once.
PROMPTS = ([600, 5], [601, 602, 603, 30], [604, 1], [605, 606, 12], [607, 608, 609, 610, 611, 7], [2], [612, 11])


SHAPE = {name: value for name, value in DECODER.items() if name not in SIZES}


@pytest.fixture(scope="module")
def countdown():
    return make_countdown_model("cpu", torch.float32, vocab_size=700, **SHAPE)


class OneTokenTokenizer(NumberTokenizer):
    """Tokenizer that has one token for every stop string, although the model writes it as several."""

    def encode(self, text, **_):
        return [699]


@pytest.fixture(params=["continuous", "fixed"])
def engine(request, monkeypatch):
    """Run a test with both engines."""
    if request.param == "fixed":
        monkeypatch.setenv(SWITCH, "0")
    return request.param


def count_tokens(model, prompts, until=(), batch_tokens=4096, tokenizer=None):
    """Return the texts, and the number of tokens that were counted in each phase."""
    requests = [Prompt(prompt, until, LIMIT) for prompt in prompts]
    with sd.sparsify(model, "input", sd.TopP(0.8)) as sparsifier:
        texts = generate(
            model, tokenizer or NumberTokenizer(), requests, RunContext(sparsifier, batch_tokens=batch_tokens)
        )
    table = sparsifier.stats()
    tokens = {}
    for phase, rows in table.groupby("phase"):
        [tokens[phase]] = set(rows["tokens"])
    return texts, tokens, table


def expected_text(prompt, until=()):
    """Return the text that the countdown model writes, and whether it stops."""
    tokens = []
    following = prompt[-1]
    while len(tokens) < LIMIT:
        following -= 1
        tokens.append(following)
        if following == 0 or any(stop in NumberTokenizer().decode(tokens) for stop in until):
            return tokens, True
    return tokens, False


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
@pytest.mark.parametrize("until", [(), ("4 3 ",), ("9 8 7 6 5 4 ", "1 0 x")])
def test_texts_and_counts_are_exact(countdown, engine, until, batch_tokens):
    texts, tokens, _ = count_tokens(countdown, PROMPTS, until, batch_tokens)
    expected = [expected_text(prompt, until) for prompt in PROMPTS]
    assert [(text.tokens, text.stopped) for text in texts] == expected
    assert not all(stopped for _, stopped in expected)
    fed_back = sum(len(text) - 1 for text, _ in expected)  # the last token of a text is not fed back
    assert tokens == {"prefill": sum(map(len, PROMPTS)), "generation": fed_back}


def test_the_order_of_the_prompts_changes_nothing(countdown, engine):
    texts, tokens, table = count_tokens(countdown, PROMPTS, batch_tokens=40)
    for order in itertools.islice(itertools.permutations(range(len(PROMPTS))), 5, 5000, 1700):
        other_texts, other_tokens, other = count_tokens(countdown, [PROMPTS[index] for index in order], batch_tokens=40)
        assert other_texts == [texts[index] for index in order]
        assert other_tokens == tokens
        assert (other["dropped"] - table["dropped"]).abs().max() <= 2  # rounding moves a boundary


def test_both_engines_count_the_same(countdown, monkeypatch):
    _, _, table = count_tokens(countdown, PROMPTS)
    monkeypatch.setenv(SWITCH, "0")
    _, _, plain = count_tokens(countdown, PROMPTS)
    assert table["total"].equals(plain["total"])
    assert (table["dropped"] - plain["dropped"]).abs().max() <= 2


def test_a_stop_string_may_have_more_tokens_than_the_tokenizer_has_for_it(countdown, engine):
    stop = "9 8 7 6 5 4 "
    texts, tokens, _ = count_tokens(countdown, [[600, 30], [601, 12]], (stop,), tokenizer=OneTokenTokenizer())
    assert [text.tokens[-1] for text in texts] == [18, 4]
    assert [text.stopped for text in texts] == [False, True]
    assert tokens["generation"] == 11 + 7


def test_a_prompt_takes_the_place_of_a_text_that_has_ended(countdown):
    """Count the rows of the forward passes: none of them is idle, and none is empty before the queue is."""
    rows = []
    hook = countdown.model.register_forward_pre_hook(
        lambda _, __, arguments: rows.append(tuple(arguments["input_ids"].shape)), with_kwargs=True
    )
    prompts = [Prompt([600, length], (), LIMIT) for length in (2, 9, 3, 4, 8)]
    slots = 2
    try:
        generate(countdown, NumberTokenizer(), prompts, RunContext(batch_tokens=slots * (2 + LIMIT)))
    finally:
        hook.remove()
    decoded = [count for count, tokens in rows if tokens == 1]
    assert sum(decoded) == sum(length - 1 for length in (2, 9, 3, 4, 8))
    assert set(decoded[:-8]) == {slots}


def test_equal_to_the_models_own_generate(trained, llama, gpt2, phi3):
    generator = torch.Generator().manual_seed(0)
    for model in (trained.model, llama, gpt2, phi3):
        requests = []
        for length, limit in ((12, 6), (3, 9), (7, 3), (20, 12), (5, 1), (1, 5)):
            requests.append(Prompt(torch.randint(3, 90, (length,), generator=generator).tolist(), (), limit))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            texts = generate(model, trained.tokenizer, requests, RunContext(batch_tokens=70))
        for request, text in zip(requests, texts, strict=True):
            assert text.tokens == own_generate(model, request.tokens, request.limit)


def own_generate(model, tokens, limit, **options):
    """Return the tokens that the model's own `generate` appends to one prompt."""
    prompt = torch.tensor([tokens])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, do_sample=False, pad_token_id=0, **options
    )
    return output[0, len(tokens) :].tolist()


def test_a_penalty_for_repetitions_sees_the_tokens_of_its_own_text_only(trained):
    options = {"do_sample": False, "repetition_penalty": 3.0}
    requests = [Prompt(list(range(5, 5 + length)), (), 9, options) for length in (9, 2, 5)]
    texts = generate(trained.model, trained.tokenizer, requests)
    for request, text in zip(requests, texts, strict=True):
        expected = own_generate(trained.model, request.tokens, request.limit, repetition_penalty=3.0)
        assert text.tokens == expected
    assert texts != generate(trained.model, trained.tokenizer, [Prompt(request.tokens, (), 9) for request in requests])


def test_both_engines_draw_the_same_texts(trained, monkeypatch):
    options = {"do_sample": True, "temperature": 1.5, "top_k": 20}
    requests = [Prompt([5, 6, 7][:length], ("e",), 9, options) for length in (1, 2, 3, 3, 1)]
    texts = generate(trained.model, trained.tokenizer, requests, RunContext(seed=3, batch_tokens=24))
    monkeypatch.setenv(SWITCH, "0")
    assert generate(trained.model, trained.tokenizer, requests, RunContext(seed=3)) == texts


def test_sliding_windows_are_served_if_they_can_be_tested(trained):
    for window, limit in ((8, 8), (4096, 8)):
        torch.manual_seed(0)
        model = MistralForCausalLM(MistralConfig(**DECODER, sliding_window=window)).eval()
        model.generation_config.eos_token_id = None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            texts = generate(model, trained.tokenizer, [Prompt([5, 6, 7, 8, 9, 10], (), limit), Prompt([4], (), limit)])
        assert [text.tokens for text in texts] == [
            own_generate(model, [5, 6, 7, 8, 9, 10], limit), own_generate(model, [4], limit)
        ]  # fmt: skip


class OtherGenerate(GPT2LMHeadModel):
    """Model with a method generate of its own."""

    def generate(self, *args, **kwargs):
        return super().generate(*args, **kwargs)


def mamba():
    return MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **SIZES))


def long_window():
    return MistralForCausalLM(MistralConfig(**{**DECODER, "max_position_embeddings": 4096}, sliding_window=1500))


@pytest.mark.parametrize(
    ("build", "options", "limit", "reason"),
    [
        (mamba, {}, 6, "MambaForCausalLM has a recurrent state"),
        (long_window, {}, 1600, "window of 1500 tokens"),
        (None, {}, 6, "OtherGenerate has a method generate"),
    ],
)
def test_other_models_use_generate_and_say_so(trained, gpt2, build, options, limit, reason):
    torch.manual_seed(0)
    model = OtherGenerate(gpt2.config).eval() if build is None else build().eval()
    model.generation_config.eos_token_id = list(range(3, 96)) if limit > 100 else None  # the first token ends the text
    requests = [Prompt([5, 6, 7], (), limit, options), Prompt([8], (), limit, options)]
    with pytest.warns(UserWarning, match=f"fixed batches, which is slower: .*{reason}"):
        texts = generate(model, trained.tokenizer, requests)
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == own_generate(model, request.tokens, limit, **options)


def test_other_options_use_generate_and_say_so(trained):
    options = {"do_sample": False, "no_repeat_ngram_size": 2}
    requests = [Prompt([5, 6, 7], (), 9, options), Prompt([8], (), 9, options)]
    with pytest.warns(UserWarning, match="the generation options need NoRepeatNGramLogitsProcessor"):
        texts = generate(trained.model, trained.tokenizer, requests)
    for request, text in zip(requests, texts, strict=True):
        assert text.tokens == own_generate(trained.model, request.tokens, 9, no_repeat_ngram_size=2)


def test_the_number_of_slots():
    cpu = torch.device("cpu")
    assert count_slots(cpu, 100, 30000, CPU_ROWS * 512, 1) == 64  # long limits leave room for many texts
    assert count_slots(cpu, 100, 256, CPU_ROWS // 2 * 512, 1) == 32  # after memory ran out
    assert count_slots(cpu, 100, 20, 100, 1) == 5
    assert count_slots(cpu, 3, 256, 4096, 1) == 3
    assert count_slots(cpu, 100, 256, 1, 1) == 1
    assert count_slots(cpu, 100, 30000, 4096, count_free_bytes(cpu) // 100000) == 1  # the memory is enough for one


def test_progress_counts_texts_and_tokens_per_second(countdown):
    reports = []
    speeds = []
    run = RunContext(progress=lambda *numbers: reports.append(numbers), report_speed=speeds.append)
    generate(countdown, NumberTokenizer(), [Prompt(prompt, (), LIMIT) for prompt in PROMPTS], run)
    assert reports[-1] == (len(PROMPTS), len(PROMPTS))
    assert [completed for completed, _ in reports] == sorted(completed for completed, _ in reports)
    assert speeds and min(speeds) > 0
