"""The conformance suite on the Triton kernel. `tests/kernels/test_cuda_backend.py` runs it with TRITON_INTERPRET=1."""

from functools import partial

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsedial.kernels import cuda_backend
from sparsedial.rules import TopP, make_rule
from sparsedial.testing.conformance import Tally, check_result, make_cases

RULE_NAMES = ("top_p", "top_k", "max_p")
TALLY = Tally()
check = partial(check_result, max_differing_entries=1)
DEVICE = "cuda" if torch.cuda.is_available() and not cuda_backend.IS_INTERPRETED else "cpu"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

ROUNDING = 2**-20
"""For p above 1 - ROUNDING, entries that are small next to their neighbors may count as zero in 16-bit formats."""

select_warm = partial(cuda_backend.select, warm_start=True)


@settings(max_examples=20, deadline=None)
@given(
    bits=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=8, max_size=8),
    value=st.floats(0, 1 - ROUNDING) | st.just(1.0),
    rule_name=st.sampled_from(RULE_NAMES),
    dtype=st.sampled_from(DTYPES),
)
def check_any_bits(bits: list[int], value: float, rule_name: str, dtype: torch.dtype) -> None:
    """Check any float16 bits, NaN and Inf among them. The width is fixed, because each width is compiled."""
    x = torch.tensor(bits, dtype=torch.int16).view(torch.float16).to(dtype).to(DEVICE)
    for select in (cuda_backend.select, select_warm):
        check(select, x, make_rule(rule_name, value), TALLY)


def check_values_next_to_one() -> None:
    """Check that the dropped mass is negligible if p is closer to 1 than the sums of small neighbors are exact."""
    p = 1 - 2**-53
    bits = torch.tensor([0, 0, 0, 0, 0, 1, 1, -1025], dtype=torch.int16)
    for dtype in DTYPES:
        x = bits.view(torch.float16).to(dtype).to(DEVICE)
        for select in (cuda_backend.select, select_warm):
            kept, _ = select(x, TopP(p))
            dropped = x.double().abs().sum() - kept.double().abs().sum()
            assert dropped <= ROUNDING * x.double().abs().sum(), (dtype, kept)
    check(cuda_backend.select, bits.view(torch.float16).float().to(DEVICE), TopP(p), TALLY)


def check_cases() -> None:
    """Check the cases of the conformance suite, top-p 0.9 and its like with a warm start."""
    for dtype in DTYPES:
        for width in (3, 130):
            for _, x in make_cases(width, 2, dtype):
                for rule_name in RULE_NAMES:
                    check(cuda_backend.select, x.to(DEVICE), make_rule(rule_name, 0.0), TALLY)
                    check(select_warm, x.to(DEVICE), make_rule(rule_name, 0.9), TALLY)
                    check(cuda_backend.select, x.to(DEVICE), make_rule(rule_name, 1.0), TALLY)


def check_poisoned_warm_starts() -> None:
    """Check that the point where a search begins never changes its result."""
    for ratio in (1e-30, float("inf"), float("nan")):
        for warm_start in cuda_backend.warm_starts.values():
            warm_start.fill_(ratio)
        for _, x in make_cases(130, 2, torch.bfloat16):
            check(select_warm, x.to(DEVICE), TopP(0.9), TALLY)


def check_limits() -> None:
    """Check more rows than a warm start serves, vectors too wide for the kernel, and float64."""
    check(cuda_backend.select, torch.randn(cuda_backend.MULTIPROCESSORS + 1, 3).to(DEVICE), TopP(0.9), TALLY)
    check(cuda_backend.select, torch.randn(1, cuda_backend.MAX_WIDTH + 1).to(DEVICE), TopP(0.9))
    check(cuda_backend.select, torch.randn(2, 10).double().to(DEVICE), TopP(0.9))


if __name__ == "__main__":
    check_any_bits()
    check_values_next_to_one()
    check_cases()
    check_poisoned_warm_starts()
    check_limits()
    assert TALLY.differing <= 1, TALLY
    print(TALLY)
