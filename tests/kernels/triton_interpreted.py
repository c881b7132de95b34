"""Run by `test_backends.py` with TRITON_INTERPRET=1: the conformance suite on the Triton kernels."""

import torch
from conformance import RULES, Tally, cases, check

from sparsedial.kernels import cuda

if __name__ == "__main__":
    tally = Tally()
    device = "cuda" if torch.cuda.is_available() and not cuda._INTERPRETED else "cpu"
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for width in (3, 130):
            for _, x in cases(width, 2, dtype):
                for rule in RULES:
                    for dial in (0.0, 0.9, 1.0):
                        check(cuda.select, x.to(device), rule, dial, tally)
    assert tally.differ <= 1, tally
    wide = torch.randn(1, cuda.WIDEST + 1)  # more than fits on the chip
    check(cuda.select, wide.to(device), "top_p", 0.9)
    check(cuda.select, torch.randn(2, 10).double().to(device), "top_p", 0.9)
    print(tally)
