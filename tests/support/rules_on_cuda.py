"""Every rule on a GPU against the same rule on the CPU. `tests/rules/test_rules_on_cuda.py` runs it on a GPU."""

import json

import torch

import sparsedial as sd
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import Calibration, make_rule
from tests.support.single_ffn import make_ffn

WIDTHS = (48, 576, 1536)
DTYPES = (torch.float32, torch.bfloat16)
VECTORS = 257
VALUES = (0.0, 0.05, 0.3, 0.5, 0.85, 0.9, 0.99, 1.0)
CASES = (
    ("top_p", "input"),
    ("top_p(q=2)", "input"),
    ("top_p(q=0.5)", "input"),
    ("top_k", "input"),
    ("max_p", "input"),
    ("n_of_m", "input"),
    ("n_of_m(m=16)", "input"),
    ("weighted_top_k", "input"),
    ("weighted_top_k", "intermediate"),
    ("weighted_top_p", "intermediate"),
    ("threshold", "gate"),
    ("threshold", "intermediate"),
    ("cett", "intermediate"),
)
"""Families of rules, and the vector that each is applied to."""


def bind_rule(rule, ffn, vector):
    """Return a rule for a vector of an FFN. A rule that needs a calibration gets one of random vectors."""
    if not rule.needs_calibration:
        return rule.bind(ffn, vector, None)
    vectors = torch.randn(128, ffn.width, generator=torch.Generator().manual_seed(3))
    entry = {"fingerprint": ffn.fingerprint, "vectors": {vector: dict(rule.calibrate_vector(vectors, ffn, vector))}}
    values = {"rule": rule.name, "data": "samples", "tokens": 1024, "site": vector, "ffns": {ffn.name: entry}}
    return rule.bind(ffn, vector, Calibration(json.loads(json.dumps(values))))


def make_vectors(width, dtype):
    """Return random vectors of several scales, with zeros, ties and a vector that is zero."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(VECTORS, width, generator=generator) * torch.logspace(-3, 3, VECTORS)[:, None]
    x[1] = 0.0
    x[2] = x[2].sign()
    x[3, ::2] = 0.0
    return x.to(dtype)


def compare_devices(family, vector, dtype):
    """Return the number of vectors whose kept sets differ, and the largest number of entries in which one differs.

    Every other vector has the same bits and the same count on both devices, or an `AssertionError` is raised.
    """
    differing = 0
    largest = 0
    for width in WIDTHS:
        ffn = make_ffn(width)
        x = make_vectors(width, dtype)
        for value in VALUES:
            bound = bind_rule(make_rule(family, value), ffn, vector)
            expected, expected_kept = BoundRule(bound)(x)
            result, kept = BoundRule(bound)(x.cuda())
            entries = (result.cpu() != expected).sum(-1)
            is_equal = entries == 0
            assert torch.equal(kept.cpu()[is_equal], expected_kept[is_equal]), (family, value, width, dtype)
            differing += int((~is_equal).sum())
            largest = max(largest, int(entries.max()))
    return differing, largest


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), sd.__file__)
    compared = len(WIDTHS) * len(VALUES) * VECTORS
    for family, vector in CASES:
        for dtype in DTYPES:
            differing, largest = compare_devices(family, vector, dtype)
            print(
                f"{family} at {vector}, {dtype}: {differing} of {compared} vectors differ, by {largest} entries at most"
            )
