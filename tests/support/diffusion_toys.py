"""Masked diffusion models whose predictions are known exactly."""

import itertools
from types import SimpleNamespace

import torch
from torch import nn


class JointDistributionModel(nn.Module):
    """Predicts every masked token exactly, given the tokens that are not masked.

    Args:
        joint: Probabilities of all sequences (up to a factor), a tensor with one axis of vocabulary size per token.
        prompt_length: Number of tokens before the sequence, which carry no information.

    Attributes:
        joint: Normalised probabilities, float64.
        vocabulary_size: Number of tokens, without the mask token.
        length: Number of tokens of a sequence.
        mask_token: Id of the mask token, which is the last one.
        calls: Token ids of all forward passes.
    """

    def __init__(self, joint, prompt_length=0):
        super().__init__()
        self.joint = joint.double() / joint.sum()
        self.vocabulary_size = joint.shape[0]
        self.length = joint.dim()
        self.mask_token = self.vocabulary_size
        self.prompt_length = prompt_length
        self.unused = nn.Parameter(torch.zeros(1))  # tells the device
        self.calls = []

    def forward(self, input_ids):
        self.calls.append(input_ids.clone())
        logits = torch.full((*input_ids.shape, self.vocabulary_size + 1), -1e9, dtype=torch.float64)
        for row, tokens in enumerate(input_ids[:, self.prompt_length :].tolist()):
            for position, token in enumerate(tokens):
                probabilities = self.conditional(tokens, position)
                if token != self.mask_token:
                    probabilities = torch.eye(self.vocabulary_size, dtype=torch.float64)[token]
                logits[row, self.prompt_length + position, : self.vocabulary_size] = probabilities.log().clamp(min=-1e9)
        return SimpleNamespace(logits=logits)

    def conditional(self, tokens, position):
        """Return the distribution of the token at a position, given all tokens that are not masked."""
        index = tuple(slice(None) if token == self.mask_token else slice(token, token + 1) for token in tokens)
        possible = self.joint[index]
        other_axes = tuple(axis for axis in range(self.length) if axis != position)
        return possible.sum(other_axes) / possible.sum()

    def sequences(self):
        """Yield every sequence with its probability."""
        for tokens in itertools.product(range(self.vocabulary_size), repeat=self.length):
            yield list(tokens), float(self.joint[tokens])
