"""A tiny model that writes given texts, with a tokenizer that has a token for each step of each of them."""

from itertools import pairwise

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PADDING = 0
END = 1
WIDTH = 128  # of the hidden states, so that as many tokens have orthogonal embeddings


class ScriptTokenizer:
    """Tokenizer with a token for each piece of each script, so that a token determines the next one.

    Args:
        scripts: Pairs of the pieces of a prompt and the pieces of the text that follows it. None is the end token.
    """

    pad_token_id = PADDING
    eos_token_id = END
    unk_token_id = None
    chat_template = None

    def __init__(self, scripts):
        self.pieces = ["", "<end>"]
        self.successors = {}
        self.prompts = []
        self.texts = []
        for prompt, text in scripts:
            tokens = []
            for piece in (*prompt, *text):
                tokens.append(END if piece is None else len(self.pieces))
                if piece is not None:
                    self.pieces.append(piece)
            self.successors.update(pairwise(tokens))
            self.prompts.append(tokens[: len(prompt)])
            self.texts.append(tokens[len(prompt) :])

    def __len__(self):
        return len(self.pieces)

    def decode(self, tokens, **_):
        return "".join(self.pieces[int(token)] for token in tokens)

    def batch_decode(self, rows, **_):
        return list(map(self.decode, rows))

    def encode(self, text, **_):
        return [self.pieces.index(text)] if text in self.pieces else []

    def get_added_vocab(self):
        return {}


def make_scripted_model(tokenizer):
    """Return a model of random layers whose most probable next token is the successor in the script."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=END,
        pad_token_id=PADDING, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        embeddings = torch.linalg.qr(torch.randn(WIDTH, WIDTH))[0][: len(tokenizer)]
        embeddings *= 100  # the layers hardly change such a long vector
        model.model.embed_tokens.weight.copy_(embeddings)
        model.lm_head.weight.normal_(std=0.01)
        for token, successor in tokenizer.successors.items():
            model.lm_head.weight[successor] += embeddings[token] / 100
    return model
