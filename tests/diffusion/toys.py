"""Models whose answers are known: a joint distribution, tabulated."""

import itertools
from types import SimpleNamespace

import torch
from torch import nn


class Toy(nn.Module):
    """Given which tokens are known, the exact distribution of every other, after ``before`` tokens that say nothing.

    ``joint``: probabilities of every sequence, a tensor with one axis of size V per token. The mask is token V.
    """

    def __init__(self, joint, before=0):
        super().__init__()
        self.joint = joint.double() / joint.sum()
        self.vocabulary, self.length = joint.shape[0], joint.dim()
        self.mask, self.before = self.vocabulary, before
        self.nothing = nn.Parameter(torch.zeros(1))
        self.calls = []

    def forward(self, input_ids):
        self.calls.append(input_ids.clone())
        logits = torch.full((*input_ids.shape, self.vocabulary + 1), -1e9, dtype=torch.float64)
        for row, tokens in enumerate(input_ids.tolist()):
            known = tokens[self.before :]
            index = tuple(slice(None) if t == self.mask else slice(t, t + 1) for t in known)
            left = self.joint[index]
            for place in range(self.length):
                axes = tuple(a for a in range(self.length) if a != place)
                marginal = left.sum(axes) / left.sum()
                marginal = marginal if known[place] == self.mask else torch.eye(self.vocabulary)[known[place]]
                logits[row, self.before + place, : self.vocabulary] = marginal.double().log().clamp(min=-1e9)
        return SimpleNamespace(logits=logits)

    def sequences(self):
        """Every sequence with its probability."""
        for tokens in itertools.product(range(self.vocabulary), repeat=self.length):
            yield list(tokens), float(self.joint[tokens])
