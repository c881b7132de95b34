"""Several threads that use one model at the same time."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import ContinuousBatchingConfig, GenerationConfig

import sparsedial as sd
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.tracing_state import is_tracing, tracing
from tests.support.expert_models import GATHERS, ListedExpertsModel, build_model

RULE = sd.TopP(0.5)
ROUNDS = 12

pytestmark = pytest.mark.usefixtures("fast_decode")


def run_together(*functions):
    """Run functions in threads that start at the same time, and return their results."""
    barrier = threading.Barrier(len(functions))

    def run(function):
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def logits_of(model, ids, **arguments):
    output = model(ids, **arguments)
    return getattr(output, "logits", output)


def repeat(model, ids, observe, **arguments):
    """Return the outputs of several forward passes with the same input."""
    with torch.no_grad(), observe():
        return [logits_of(model, ids, **arguments) for _ in range(ROUNDS)]


@pytest.fixture(params=["llama", "phi3", "qwen3_moe", "listed"])
def model(request):
    if request.param == "listed":
        return ListedExpertsModel(GATHERS["index"])
    if request.param == "qwen3_moe":
        return build_model("qwen3_moe")
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("site", ["up", "all_inputs"])
def test_outputs_and_counts_are_those_of_one_thread(model, tokens, site):
    mask = torch.ones_like(tokens)
    mask[1:, :4] = 0

    def make_functions(sparsifier):
        return [
            partial(repeat, model, tokens, partial(sparsifier.observe, phase="prefill")),
            partial(
                repeat, model, tokens, partial(sparsifier.observe, phase="generation", step=2), attention_mask=mask
            ),
            partial(repeat, model, tokens[:1, :1], partial(sparsifier.observe, phase="generation")),
            partial(repeat, model, tokens[1:2, 3:4], partial(sparsifier.observe, phase="prefill", step=1)),
        ]

    with sd.sparsify(model, site, RULE) as expected:
        alone = [function() for function in make_functions(expected)]
    with sd.sparsify(model, site, RULE) as sparsifier:
        together = run_together(*make_functions(sparsifier))
    for outputs, expected_outputs in zip(together, alone, strict=True):
        assert all(torch.equal(*pair) for pair in zip(outputs, expected_outputs, strict=True))
    keys = ["module", "vector", "phase", "step"]
    columns = [*keys, "dropped", "total", "tokens"]
    actual = sparsifier.stats()[columns].sort_values(keys, ignore_index=True)
    assert actual.equals(expected.stats()[columns].sort_values(keys, ignore_index=True))


@pytest.mark.parametrize("shape", [(4, 12), (1, 1)])
@pytest.mark.parametrize("site", ["gate", "all_inputs"])
def test_a_pause_holds_for_its_own_thread(own_llama, tokens, site, shape):
    tokens = tokens[: shape[0], : shape[1]]
    with torch.no_grad():
        dense = own_llama(tokens).logits
    with sd.sparsify(own_llama, site, RULE) as sparsifier:
        with torch.no_grad():
            sparse = own_llama(tokens).logits
        paused, active = run_together(
            partial(repeat, own_llama, tokens, pause_sparsifiers),
            partial(repeat, own_llama, tokens, sparsifier.observe),
        )
    assert all(torch.equal(logits, dense) for logits in paused)
    assert all(torch.equal(logits, sparse) for logits in active)
    assert set(sparsifier.stats()["tokens"]) == {(ROUNDS + 1) * tokens.numel()}


def test_finding_ffns_does_not_disturb_another_thread(own_llama, tokens):
    with sd.sparsify(own_llama, "all_inputs", RULE) as sparsifier:
        with torch.no_grad():
            sparse = own_llama(tokens).logits
        _, outputs = run_together(
            lambda: [sd.find_ffns(own_llama) for _ in range(3)], partial(repeat, own_llama, tokens, sparsifier.observe)
        )
    assert all(torch.equal(logits, sparse) for logits in outputs)
    assert set(sparsifier.stats()["tokens"]) == {(ROUNDS + 1) * tokens.numel()}


def test_tracing_is_a_state_of_the_thread_and_may_be_nested():
    with tracing(), tracing():
        [inner] = run_together(is_tracing)
        assert is_tracing() and not inner
    assert not is_tracing()


@pytest.mark.parametrize("site", ["gate", "all_inputs"])
def test_a_backward_pass_with_checkpoints_does_not_disturb_a_forward_pass(own_llama, tokens, site):
    """It repeats layers while the other thread is between the layers of its own forward pass."""
    ffns = sd.find_ffns(own_llama)
    trained = copy.deepcopy(own_llama)
    layers = own_llama.model.layers
    embeddings = own_llama.get_input_embeddings()(tokens[:2]).detach()

    def train():
        gradients = []
        for _ in range(ROUNDS):
            x = embeddings.clone().requires_grad_()
            y = checkpoint(lambda x: layers[1].mlp(layers[0].mlp(x)), x, use_reentrant=False)
            gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
        return gradients

    with sd.sparsify(own_llama, site, RULE, ffns=ffns) as expected:
        repeat(own_llama, tokens, expected.observe)
        [gradient, *_] = train()
    with sd.sparsify(own_llama, site, RULE, ffns=ffns) as sparsifier:
        _, gradients = run_together(partial(repeat, own_llama, tokens, sparsifier.observe), train)
    assert all(torch.equal(actual, gradient) for actual in gradients)
    assert sparsifier.stats().equals(expected.stats())
    assert trained is not own_llama


def test_batches_that_are_generated_at_the_same_time_end_independently(own_llama):
    """Each generation has its own rows that have ended."""
    prompts = [torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([[9, 10, 11], [12, 13, 14]])]
    length = 8

    def generate(ids):
        with torch.no_grad():
            first = own_llama(ids).logits[0, -1].argmax()  # row 0 ends after one token
            own_llama.generate(ids, max_new_tokens=length, do_sample=False, eos_token_id=int(first), pad_token_id=0)

    with sd.sparsify(own_llama, "input", RULE) as expected:
        for ids in prompts:
            for _ in range(3):
                generate(ids)
    with sd.sparsify(own_llama, "input", RULE) as sparsifier:
        run_together(*[partial(lambda ids: [generate(ids) for _ in range(3)], ids) for ids in prompts])
    assert sparsifier.stats().equals(expected.stats())


def test_continuous_batching_beside_another_thread(own_llama):
    """Its forward passes run in a thread of their own."""
    own_llama.set_attn_implementation("eager")
    config = GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0)
    memory = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)
    prompts = [[3, 4], [5, 6, 7], [8, 9, 10, 11]]
    layer = own_llama.model.layers[0].mlp
    x = torch.randn(7, 32)

    def generate():
        outputs = own_llama.generate_batch(
            inputs=prompts, generation_config=config, continuous_batching_config=memory, progress_bar=False
        )
        return sorted(output.generated_tokens for output in outputs.values())

    def run_layer(sparsifier):
        with torch.no_grad(), sparsifier.observe(step=1):
            sparse = [layer(x) for _ in range(10 * ROUNDS)]
            with pause_sparsifiers():
                return sparse, layer(x)

    with sd.sparsify(own_llama, "input", RULE) as expected:
        texts = generate()
        sparse, dense = run_layer(expected)
    with sd.sparsify(own_llama, "input", RULE) as sparsifier:
        texts_beside, (sparse_beside, dense_beside) = run_together(generate, partial(run_layer, sparsifier))
    assert texts_beside == texts
    assert all(torch.equal(y, sparse[0]) for y in sparse_beside)
    assert torch.equal(dense_beside, dense) and not torch.equal(dense, sparse[0])
    keys = ["layer", "phase", "step"]
    actual = sparsifier.stats().sort_values(keys, ignore_index=True)
    assert actual[[*keys, "dropped", "total"]].equals(
        expected.stats().sort_values(keys, ignore_index=True)[[*keys, "dropped", "total"]]
    )


def test_a_rule_may_be_set_while_other_threads_run_the_model(own_llama, tokens):
    rules = [sd.TopP(0.3), sd.TopP(0.6), sd.TopP(0.9)]
    with torch.no_grad():
        expected = []
        for rule in rules:
            with sd.sparsify(own_llama, "all_inputs", rule):
                expected.append(own_llama(tokens).logits)
    with sd.sparsify(own_llama, "all_inputs", rules[0]) as sparsifier:

        def change():
            for index in range(6 * ROUNDS):
                sparsifier.rule = rules[index % 3]

        outputs, _ = run_together(partial(repeat, own_llama, tokens, sparsifier.observe), change)
    assert all(any(torch.equal(logits, one) for one in expected) for logits in outputs)
    assert set(sparsifier.stats().groupby(["layer", "vector"])["tokens"].sum()) == {ROUNDS * tokens.numel()}


def test_what_the_attaching_thread_states_holds_for_the_threads_of_the_model(own_llama, tokens):
    sparsifier = sd.sparsify(own_llama, "input", RULE)  # made by another thread than the one that attaches it

    def attach():
        with sparsifier, sparsifier.observe(phase="generation"):
            run_together(partial(own_llama, tokens), partial(own_llama, tokens))

    run_together(attach, int)
    assert set(sparsifier.stats()["phase"]) == {"generation"}
