"""Run by `test_backends.py` with TRITON_INTERPRET=1: the conformance suite on the Triton kernels."""

from functools import partial

import torch
from conformance import RULES, Tally, cases, check
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.kernels import cuda

tally = Tally()
again = partial(cuda.select, again=True)
device = "cuda" if torch.cuda.is_available() and not cuda._INTERPRETED else "cpu"


@settings(max_examples=20, deadline=None)
@given(
    bits=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=8, max_size=8),
    dial=st.floats(0, 1),
    rule=st.sampled_from(RULES),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def any_vector(bits: list[int], dial: float, rule: str, dtype: torch.dtype) -> None:
    """Any float16 bits, NaN and Inf among them; one width, because each one is compiled for itself."""
    values = torch.tensor(bits, dtype=torch.int16).view(torch.float16)
    for select in (cuda.select, again):
        check(select, values.to(dtype).to(device), rule, dial, tally)


if __name__ == "__main__":
    any_vector()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for width in (3, 130):
            for _, x in cases(width, 2, dtype):
                for rule in RULES:
                    for dial in (0.0, 0.9, 1.0):
                        check(again if dial == 0.9 else cuda.select, x.to(device), rule, dial, tally)
    for hint in (1e-30, float("inf"), float("nan")):  # where a search begins never changes what it finds
        for memory in cuda._hints.values():
            memory.fill_(hint)
        for _, x in cases(130, 2, torch.bfloat16):
            check(again, x.to(device), "top_p", 0.9, tally)
    check(cuda.select, torch.randn(cuda.MANY + 1, 3).to(device), "top_p", 0.9, tally)  # too many for hints
    assert tally.differ <= 1, tally
    wide = torch.randn(1, cuda.WIDEST + 1)  # more than fits on the chip
    check(cuda.select, wide.to(device), "top_p", 0.9)
    check(cuda.select, torch.randn(2, 10).double().to(device), "top_p", 0.9)
    print(tally)
