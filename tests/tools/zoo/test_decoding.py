"""Batched decoding gives the tokens that `generate` gives, and draws from the distribution that top-p defines."""

import torch

import sparsedial as sd
from tools.zoo.decoding import Sampling, decode_in_lockstep, draw_tokens
from tools.zoo.prompts import make_prompt


def test_greedy_decoding_in_lockstep_gives_what_generate_gives(trained):
    prompts = [make_prompt(i) for i in range(5)]
    assert len({len(trained.tokenizer(text)["input_ids"]) for text in prompts}) > 1  # some are padded
    length = 12
    uniform = torch.full((length, len(prompts)), 0.5)
    greedy = Sampling(top_p=1e-9)  # only the most likely token is left
    answers = decode_in_lockstep(trained.model, trained.tokenizer, prompts, uniform, greedy)
    for text, answer in zip(prompts, answers, strict=True):
        chat = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        encoding = trained.tokenizer(chat, return_tensors="pt")
        ids = {key: encoding[key] for key in ("input_ids", "attention_mask")}
        best = trained.model.generate(**ids, max_new_tokens=length, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer[: len(best)].tolist() == best.tolist()


def test_tokens_are_drawn_from_what_top_p_keeps():
    sampling = Sampling(temperature=1.0)
    logits = 3 * torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    tokens = draw_tokens(logits.expand(len(uniform), -1), uniform, sampling)
    nucleus, _ = sd.apply_rule(logits.softmax(-1), sd.TopP(sampling.top_p))  # the nucleus is top-p of the probabilities
    frequencies = torch.bincount(tokens, minlength=64) / len(uniform)
    torch.testing.assert_close(frequencies, (nucleus / nucleus.sum())[0], atol=2e-4, rtol=0)
