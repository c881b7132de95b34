"""What a feed-forward block (FFN) is, and which of its activation vectors, its sites, can be sparsified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.trace import Expression, Part, min_output

SITES = ("input", "up", "gate", "intermediate", "all_inputs")


@dataclass(frozen=True)
class FFN:
    """One feed-forward block: ``down(up(x) * act(gate(x)))``, or ``down(act(up(x)))`` where ``gate`` is None.

    Attributes:
        layer: index of the layer it belongs to.
        name: the module that holds its projections, or the common prefix of their names.
        up, gate: which outputs of which projection are u and the gate's pre-activation.
        down: the projection that reads the intermediate vector.
        names: qualified names of the projections, by role.
        hidden: D, the width of x. width: F, the width of u, g and i.
        up_value, gate_value: u and g as functions of those outputs (None where unknown).
        product: whether what ``down`` reads is u ⊙ g as it stands.
        expert: the expert's index in a mixture of experts, else None.
        active: the share of the tokens that it reads, on average over the layer's experts: 1 for an FFN that is none,
            None where it was not seen.
        mixture: the path of the module that holds this expert and the layer's others, else None.
        stack: that module, where it keeps the weights of all of them in one parameter, else None. It is ``down``
            too; ``up`` and ``gate`` are then parts of what its first projection puts out.
    """

    layer: int
    name: str
    up: Part
    gate: Part | None
    down: nn.Module
    names: Mapping[str, str]
    hidden: int
    width: int
    up_value: Expression | None = None
    gate_value: Expression | None = None
    product: bool = False
    expert: int | None = None
    active: float | None = 1.0
    mixture: str | None = None
    stack: nn.Module | None = None

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        return self.gate is not None

    @property
    def readers(self) -> list[nn.Module]:
        """The projections that read x: one where up and gate are fused or the FFN is plain, else two."""
        return [self.up.module] + ([self.gate.module] if self.gate and self.gate.module is not self.up.module else [])

    @property
    def weights(self) -> tuple[int, int]:
        """Multiplications a token costs: (those that read x, those that read the intermediate vector)."""
        return self.hidden * self.width * (2 if self.gated else 1), self.width * self.down_out

    @property
    def down_out(self) -> int:
        """The width of the FFN's output."""
        return self.hidden if self.stack is not None else min_output(self.down)

    def vector(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """What u (``name`` is ``up``) or g (``gate``) is, given the output of the projection that computes it."""
        part, value = (self.gate, self.gate_value) if name == "gate" else (self.up, self.up_value)
        if part is None:
            raise ModelError(f"{self.name}: no vector {name!r}")
        raw = part.of(output)
        return raw if value is None or value.part is not None else value({part: raw})

    def why_not(self, site: str) -> str | None:
        """None where this FFN has ``site``; otherwise the reason it has not."""
        if site == "gate" and self.gate is None:
            return "it is a plain FFN, down(act(up(x))): it has no gate"
        if site == "gate" and self.gate_value is None:
            return "the gate's activation is not known: it was named by hand"
        if site in ("gate", "up") and not self.product and not self.keeps_zero(site):
            return f"zeroing entries of W x would not zero entries of the {site} vector"
        return None

    def keeps_zero(self, name: str) -> bool:
        """Whether an entry of u (``up``) or g (``gate``) is zero where its projection put out zero."""
        part, value = (self.gate, self.gate_value) if name == "gate" else (self.up, self.up_value)
        if value is None or part is None:
            return True
        reference = next(e for e in _walk(value) if e.part is not None).tensor
        with torch.no_grad():
            return bool((value({part: torch.zeros_like(reference)}) == 0).all())


class FFNs(Sequence[FFN]):
    """What `find_ffns` found: a sequence of `FFN`, and the names of what looks like experts but is not understood."""

    def __init__(self, ffns: Sequence[FFN], not_understood: Mapping[str, str] | None = None) -> None:
        self._ffns = tuple(ffns)
        self.not_understood = dict(not_understood or {})

    @overload
    def __getitem__(self, index: int) -> FFN: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FFN]: ...
    def __getitem__(self, index: int | slice) -> FFN | Sequence[FFN]:
        return self._ffns[index]

    def __len__(self) -> int:
        return len(self._ffns)

    def __iter__(self) -> Iterator[FFN]:
        return iter(self._ffns)

    def __repr__(self) -> str:
        return f"FFNs({len(self)} in {len({f.layer for f in self})} layers)"


def check_site(ffns: Sequence[FFN], site: str) -> None:
    """Raise unless every FFN has ``site``.

    Raises:
        SpecError: the site's name is unknown.
        ModelError: an FFN does not have it; the message names the FFN and says why.
    """
    if site not in SITES:
        raise SpecError(f"unknown site {site!r}: expected one of {', '.join(SITES)}")
    for ffn in ffns:
        if (reason := ffn.why_not(site)) is not None:
            available = [s for s in SITES if ffn.why_not(s) is None]
            raise ModelError(f"{ffn.name}: no site {site!r}: {reason}. It has: {', '.join(available)}.")


def skippable(ffn: FFN, site: str) -> dict[str, float]:
    """The share of the FFN's multiplications that one dropped entry's worth of each vector lets a runtime skip.

    The keys are the vectors sparsified at ``site``; the share skipped is the sum over them of this
    weight times that vector's sparsity. Input: columns of up and gate; gate: rows of up, columns of
    down; up: rows of gate, columns of down; intermediate: columns of down; all inputs: everything.
    (arXiv 2509.00454, section 3.)
    """
    reads_x, reads_i = ffn.weights
    total = reads_x + reads_i
    return {
        "input": {"input": reads_x / total},
        "intermediate": {"intermediate": reads_i / total},
        "all_inputs": {"input": reads_x / total, "intermediate": reads_i / total},
        "gate": {"gate": (reads_x / 2 + reads_i) / total},
        "up": {"up": (reads_x / 2 + reads_i if ffn.gated else reads_i) / total},
    }[site]


def _walk(expression: Expression) -> Iterator[Expression]:
    yield expression
    for operand in expression.operands:
        yield from _walk(operand)
