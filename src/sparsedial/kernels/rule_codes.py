"""Integer codes that identify the rules in the compiled kernels.

Numba's cache on disk keeps the codes that a kernel was compiled with and does not notice a change in this file.
Therefore the code of a rule must not be changed, or used for another rule. A new rule gets a new code.
"""

from __future__ import annotations

from sparsedial.errors import SpecError

TOP_P = 0
TOP_K = 1
MAX_P = 2


class RuleCodes(dict[str, int]):
    """Dictionary of the codes by rule name. Looking up an unknown name raises `SpecError`."""

    def __missing__(self, name: str) -> int:
        raise SpecError(f"no kernel computes the rule {name!r}: expected one of {', '.join(self)}")


RULE_CODES = RuleCodes(top_p=TOP_P, top_k=TOP_K, max_p=MAX_P)
