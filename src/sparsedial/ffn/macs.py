"""Number of multiply-accumulate operations of the modules that are sparsified."""

from __future__ import annotations

from typing import NamedTuple


class FfnMacs(NamedTuple):
    """Number of multiply-accumulate operations for one token in one FFN.

    Attributes:
        reads_input: Multiply-accumulates of the projections that read the input vector.
        reads_intermediate: Multiply-accumulates of the projection that reads the intermediate vector.
    """

    reads_input: int
    reads_intermediate: int
