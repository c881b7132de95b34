"""Matches: groups of projection calls in a trace that together compute an FFN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsedial.ffn.elementwise_trace import ProjectionCall, trace_projections
from sparsedial.ffn.expression import Expression, OutputSlice
from sparsedial.ffn.feed_forward import Branch
from sparsedial.ffn.layer_locator import common_path
from sparsedial.ffn.projections import in_features, out_features


@dataclass(frozen=True, eq=False)
class Match:
    """The projections of one FFN, before its layer and expert are known.

    Attributes:
        up: Slice of a projection's output from which u is computed.
        gate: Slice of a projection's output from which g is computed. None for a plain FFN.
        down: Projection that reads the intermediate vector.
        names: Paths of the projections, by role ("up", "down" and, if gated, "gate").
        up_value: u as a function of ``up``. None if it is unknown.
        gate_value: g as a function of ``gate``. None if it is unknown or if the FFN is plain.
        intermediate_is_product: True if the down projection reads u * g without further operations.
    """

    up: OutputSlice
    gate: OutputSlice | None
    down: nn.Module
    names: Mapping[str, str]
    up_value: Expression | None = None
    gate_value: Expression | None = None
    intermediate_is_product: bool = False

    @property
    def path(self) -> str:
        """The path of the module that contains the projections."""
        return common_path(self.names.values())

    @property
    def projections(self) -> list[nn.Module]:
        """The projections, each once: the ones that read x, and down."""
        if self.gate is None or self.gate.module is self.up.module:
            return [self.up.module, self.down]
        return [self.up.module, self.gate.module, self.down]

    @property
    def hidden(self) -> int:
        """Width of the input vector."""
        return in_features(self.up.module)

    @property
    def width(self) -> int:
        """Width of the intermediate vector."""
        return self.up.width


def match_ffns(calls: Sequence[ProjectionCall], paths: Mapping[nn.Module, str]) -> list[Match]:
    """Return the FFNs whose down projection is among the calls of a trace.

    Args:
        calls: The trace.
        paths: Path of every module in the trace.

    Returns:
        One match per down projection, in the order of their first matching calls.
    """
    input_ids = {call.module: call.input_id for call in calls}
    matches: dict[nn.Module, Match] = {}
    for call in calls:
        if call.module in matches:
            continue
        match = _match_down_projection(call, input_ids, paths)
        if match is not None:
            matches[call.module] = match
    return list(matches.values())


def separate_enclosed_ffns(
    matches: Sequence[Match], calls: Sequence[ProjectionCall]
) -> tuple[list[Match], dict[str, str]]:
    """Return the FFNs that hooks can change, and the reasons for the others by module path.

    PyTorch captures the functions that it runs in `torch.cond`, `torch.vmap` and similar operators, and does not allow
    hooks in them to keep counts.

    Args:
        matches: The FFNs.
        calls: The trace in which they were found.

    Returns:
        The FFNs outside such operators, and the reasons for those inside.
    """
    operators: dict[nn.Module, str] = {}
    for call in calls:
        if call.enclosing_operator is not None:
            operators[call.module] = call.enclosing_operator

    reachable = []
    enclosed = {}
    for match in matches:
        enclosing_operators = set(map(operators.get, match.projections)) - {None}
        if not enclosing_operators:
            reachable.append(match)
            continue
        operator = enclosing_operators.pop()
        enclosed[match.path or match.names["down"]] = f"it runs in a function that torch's {operator!r} captures"
    return reachable, enclosed


def match_module(module: nn.Module, x: torch.Tensor, path: str = "") -> Match | None:
    """Call a module on its own and return the FFN in it.

    Args:
        module: The module, which is called with ``x`` only.
        x: Input, shape [tokens, hidden].
        path: Path of the module in its model (default: the paths in the match are relative to the module).

    Returns:
        The match, or None if the module cannot be called with ``x`` or does not contain exactly one FFN.
    """
    prefix = f"{path}." if path else ""
    paths = {submodule: f"{prefix}{name}" for name, submodule in module.named_modules()}
    try:
        matches = match_ffns(trace_projections(module, {}, x), paths)
    except Exception:  # The forward is the model's own code and may expect more than x.
        return None
    if len(matches) != 1:
        return None
    return matches[0]


def _match_down_projection(
    call: ProjectionCall, input_ids: Mapping[nn.Module, int], paths: Mapping[nn.Module, str]
) -> Match | None:
    """Return the FFN whose down projection made a call, or None if it did not read an FFN's intermediate vector."""
    intermediate = call.expression
    if intermediate is None or not intermediate.is_nonlinear:
        return None
    if call.activated:
        return None  # A projection whose output is activated is not a down projection, but part of a gate or router.
    inputs = set()
    for part in intermediate.parts:
        if part.module is call.module:
            return None
        inputs.add(input_ids.get(part.module))
    if len(inputs) != 1:
        return None  # Up and gate must read the same x.
    branches = _find_branches(intermediate)
    if branches is None:
        return None
    up, gate = branches
    if out_features(call.module) != in_features(up.part.module):
        return None
    names = {"up": paths[up.part.module], "down": paths[call.module]}
    if gate is None:
        return Match(up.part, None, call.module, names)
    names["gate"] = paths[gate.part.module]
    return Match(
        up=up.part,
        gate=gate.part,
        down=call.module,
        names=names,
        up_value=up.value,
        gate_value=gate.value,
        intermediate_is_product=_is_product(intermediate, up, gate),
    )


def _find_branches(intermediate: Expression) -> tuple[Branch, Branch | None] | None:
    """Return the up branch and, if gated, the gate branch of a vector, or None if it is not an intermediate vector."""
    if len(intermediate.parts) == 1:
        (part,) = intermediate.parts
        return Branch(part, None), None
    if len(intermediate.parts) == 2:
        return _find_product(intermediate)
    return None


def _find_product(expression: Expression) -> tuple[Branch, Branch] | None:
    """Return the factors of the product in an expression as up and gate branches, or None if there is no such product.

    The nonlinear factor is the gate. If both or none are nonlinear, the first one is the gate.
    """
    # An operand with one number per token, such as the factor of a norm after the product, is not a branch.
    vectors = [operand for operand in expression.operands if operand.tensor.shape[-1] > 1]
    combined = [operand for operand in vectors if len(operand.parts) == 2]
    if len(combined) == 1:
        return _find_product(combined[0])
    if combined or len(vectors) != 2 or expression.name.removesuffix("_") != "mul":
        return None
    first, second = vectors
    if second.is_nonlinear and not first.is_nonlinear:
        return _make_branch(first), _make_branch(second)
    return _make_branch(second), _make_branch(first)


def _make_branch(value: Expression) -> Branch:
    (part,) = value.parts
    return Branch(part, value)


def _is_product(intermediate: Expression, up: Branch, gate: Branch) -> bool:
    """Return True if the traced intermediate vector equals u * g."""
    if up.value is None or gate.value is None:
        return False
    expected = gate.value.tensor.float() * up.value.tensor.float()
    return torch.allclose(expected, intermediate.tensor.float(), rtol=0.02, atol=1e-4)
