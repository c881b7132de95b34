"""Decode steps that are compiled, while prompts are not."""

import copy
import inspect

import pytest
import torch
from transformers import StaticCache

import sparsedial as sd
from sparsedial.acceleration.compiled_decoding import DecodingPatch
from sparsedial.errors import AttachError
from tests.support.cache_name import CACHE

PROMPT = torch.arange(1, 13)[None]
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


class CountingBackend:
    """A backend of torch.compile that runs the traced operations, and counts how often they run."""

    def __init__(self):
        self.compiled = 0
        self.calls = 0

    def __call__(self, traced, _):
        self.compiled += 1

        def run(*args):
            self.calls += 1
            return traced.forward(*args)

        return run


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield CountingBackend()
    torch._dynamo.reset()


def generate(fast, prompt=PROMPT, **options):
    return fast.generate(
        prompt, attention_mask=torch.ones_like(prompt), cache_implementation="static", **{**OPTIONS, **options}
    )


def test_generate_compiles_its_steps_and_gives_the_same_tokens_and_counts(make_model, backend):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        expected = generate(fast)
        report = fast.report()
        fast.reset()
        fast.compile_decoding(backend=backend, fullgraph=True)
        assert torch.equal(generate(fast), expected)
        assert (backend.compiled, backend.calls) == (1, 5)  # the first token is that of the prompt
        compiled_report = fast.report()
        assert compiled_report.calls == report.calls
        assert compiled_report.prefill_calls == report.prefill_calls > 0
        assert compiled_report.read_share == report.read_share


def test_a_prompt_has_the_logits_of_its_last_token_only(make_model, backend):
    """`generate` finds out from the parameters of the forward that it can ask for them."""
    model = make_model()
    lengths = []
    with sd.accelerate(model, "all_inputs", sd.TopP(0.7)) as fast:
        parameters = inspect.signature(model.forward).parameters
        fast.compile_decoding(backend=backend)
        assert inspect.signature(model.forward).parameters == parameters
        model.lm_head.register_forward_pre_hook(lambda _module, args: lengths.append(args[0].shape[1]))
        fast.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **OPTIONS)
    assert set(lengths) == {1}
    assert PROMPT.shape[1] > 1


def test_each_number_of_sequences_is_compiled_once(make_model, backend):
    with sd.accelerate(make_model(), "input", sd.TopP(0.7)) as fast:
        expected = [generate(fast, PROMPT.repeat(rows, 1)) for rows in (1, 3)]
        fast.compile_decoding(backend=backend)
        for _ in range(2):
            for rows, tokens in zip((1, 3), expected, strict=True):
                assert torch.equal(generate(fast, PROMPT.repeat(rows, 1)), tokens)
        assert (backend.compiled, backend.calls) == (2, 20)


def test_other_calls_are_not_compiled(make_model, backend):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        fast.compile_decoding(backend=backend)
        fast.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **OPTIONS)  # a cache that grows
        generate(fast, PROMPT.repeat(9, 1))
        cache = StaticCache(config=fast.config, max_cache_len=20)
        fast(PROMPT[:, :3], **{CACHE: cache})  # the rows of a decode step, but a prompt
        fast(PROMPT[:, :1])
        with torch.enable_grad():
            fast.dense_model(PROMPT[:, :1], **{CACHE: StaticCache(config=fast.config, max_cache_len=20)})
        assert (backend.compiled, backend.calls) == (0, 0)


def test_a_step_by_position_or_with_embeddings_is_compiled(make_model, backend):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        fast.compile_decoding(backend=backend)
        positions = torch.tensor([[0]])
        first = fast(PROMPT[:, :1], **{CACHE: StaticCache(fast.config, 20)}, position_ids=positions)
        with torch.no_grad():
            embeddings = fast.get_input_embeddings()(PROMPT[:, :1])
        second = fast(inputs_embeds=embeddings, **{CACHE: StaticCache(fast.config, 20)}, position_ids=positions)
        assert torch.equal(first.logits, second.logits)
        assert backend.calls == 2


def test_restore_ends_it(make_model, backend):
    model = make_model()
    fast = sd.accelerate(model, "all_inputs", sd.TopP(0.7))
    fast.compile_decoding(backend=backend)
    fast.restore()
    assert "forward" not in vars(model)
    generate(fast)
    assert backend.calls == 0
    with pytest.raises(AttachError, match="was restored"):
        fast.compile_decoding()


def test_steps_cannot_be_compiled_twice(make_model):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        fast.compile_decoding(backend="eager")
        with pytest.raises(AttachError, match="compiled already"):
            fast.compile_decoding()


def test_a_copy_of_the_model_is_not_compiled(make_model, backend):
    model = make_model()
    patch = DecodingPatch(model, backend=backend)
    expected = generate(copy.deepcopy(model))
    assert backend.calls == 0
    assert torch.equal(generate(model), expected)
    assert backend.calls == 5
    patch.remove()


def test_code_that_compiles_the_whole_model_contains_the_step(make_model, backend):
    with sd.accelerate(make_model(), "all_inputs", sd.TopP(0.7)) as fast:
        fast.compile_decoding(backend="eager")
        compiled = torch.compile(fast, backend=backend, fullgraph=True)
        cache = StaticCache(config=fast.config, max_cache_len=20)
        with torch.no_grad():
            compiled(PROMPT[:, :1], **{CACHE: cache})
        assert (backend.compiled, backend.calls) == (1, 1)
