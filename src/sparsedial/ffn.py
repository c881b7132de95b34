"""Finds the feed-forward blocks of a model by what they compute, not by what they are called.

A feed-forward block (FFN) is a projection, *down*, whose input is an elementwise, bending function of
the outputs of one projection (plain: ``down(act(up(x)))``) or of two (gated: ``down(up(x) * act(gate(x)))``).
`sparsedial.trace` shows which projections these are; this module names their parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, overload

import torch
from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.trace import Expression, Part, Read, is_projection, min_output, trace

SITES = ("input", "up", "gate", "intermediate", "all_inputs")

BY_HAND = (
    "To name the modules by hand: find_ffns(model, modules={'up': 'model.layers.*.mlp.up_proj', 'gate': ..., "
    "'down': ...}), or on the command line --ffn up=PATTERN --ffn down=PATTERN [--ffn gate=PATTERN]."
)


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
        expert: the expert's index in a mixture of experts, else None.
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
    expert: int | None = None

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
        return min_output(self.down)

    def why_not(self, site: str) -> str | None:
        """None where this FFN has ``site``; otherwise the reason it has not."""
        if site == "gate" and self.gate is None:
            return "it is a plain FFN, down(act(up(x))): it has no gate"
        value = {"gate": self.gate_value, "up": self.up_value}.get(site)
        if site == "gate" and value is None:
            return "the gate's activation is not known: it was named by hand"
        part = self.gate if site == "gate" else self.up
        if value is not None and part is not None and not _keeps_zero(value, part):
            return f"zeroing entries of W x would not zero entries of the {site} vector"
        return None


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


def find_ffns(
    model: nn.Module, *, inputs: Mapping[str, Any] | None = None, modules: Mapping[str, str] | None = None
) -> FFNs:
    """Find the feed-forward blocks of any transformer language model.

    One forward over six tokens is watched; nothing is left behind. It works for gated and plain FFNs,
    separate or fused gate/up projections, `nn.Linear` and GPT-2's `Conv1D`, any activation, FFNs that
    sit directly in the decoder layer or beside the attention, and models inside a multimodal wrapper.

    Args:
        model: the model, with its weights.
        inputs: what to call it with, where ``input_ids`` of six small token ids will not do.
        modules: names the projections by hand: patterns (``*`` matches layer numbers) for ``up``,
            ``down`` and, where there is one, ``gate``.

    Returns:
        A sequence of `FFN`, in the order of the layers.

    Raises:
        ModelError: nothing was found, or the model could not be called; the message says what was
            seen and how to name the modules by hand.

    >>> import sparsedial as sd
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    ...                      vocab_size=64)
    >>> ffns = sd.find_ffns(LlamaForCausalLM(config))
    >>> len(ffns), ffns[1].name, ffns[1].hidden, ffns[1].width, ffns[1].gated
    (2, 'model.layers.1.mlp', 16, 32, True)
    """
    paths = {id(module): name for name, module in model.named_modules()}
    if modules is not None:
        return FFNs(_by_hand(model, modules))
    reads = _watch(model, dict(inputs) if inputs is not None else _some_tokens(model))
    found: dict[int, FFN] = {}
    source = {id(r.module): r.source for r in reads}
    for read in reads:
        if id(read.module) not in found and (ffn := _match(read, source, paths)) is not None:
            found[id(read.module)] = ffn
    ffns = sorted(found.values(), key=lambda f: f.layer)
    claimed = {f.name for f in ffns}
    not_understood = {
        name: f"{type(module).__name__} holds its experts' weights in 3-D parameters"
        for name, module in model.named_modules()
        if name not in claimed and "expert" in f"{name} {type(module).__name__}".lower() and _has_stacked_weights(module)
    }
    if not ffns and not not_understood:
        seen = sorted({type(m).__name__ for m in model.modules() if is_projection(m)}) or ["none"]
        raise ModelError(
            f"{type(model).__name__}: no FFN found. Seen: {len(reads)} projections called ({', '.join(seen)}); "
            f"expected one that reads act(up(x)) or up(x) * act(gate(x)). {BY_HAND}"
        )
    return FFNs(ffns, not_understood)


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


def _watch(model: nn.Module, inputs: dict[str, Any]) -> list[Read]:
    try:
        return trace(model, inputs)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} could not be called with {', '.join(inputs)} to find its FFNs: "
            f"{type(error).__name__}: {error}. Pass find_ffns(model, inputs=...). {BY_HAND}"
        ) from error


def _some_tokens(model: nn.Module) -> dict[str, Any]:
    config = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = int(getattr(config, "vocab_size", None) or 8)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {"input_ids": (torch.arange(3, 9) % vocabulary)[None].to(device)}


def _match(read: Read, source: dict[int, int], paths: dict[int, str]) -> FFN | None:
    """The FFN whose down projection made this call, if what it read is an FFN's intermediate vector."""
    i = read.expression
    if i is None or not i.bends:
        return None
    modules = {id(part.module): part.module for part in i.parts}
    if id(read.module) in modules or len({source.get(m) for m in modules}) != 1:
        return None  # up and gate must read the same x
    if len(i.parts) == 1:
        (up,), gate, gate_value, up_value = i.parts, None, None, None
    elif len(i.parts) == 2 and (product := _product(i)) is not None:
        (gate, gate_value), (up, up_value) = product
    else:
        return None
    hidden = _input_width(up.module)
    if min_output(read.module) != hidden:
        return None
    names = {"up": paths[id(up.module)], "down": paths[id(read.module)]}
    if gate is not None:
        names["gate"] = paths[id(gate.module)]
    layer, expert = _place(names["down"])
    return FFN(
        layer, _common(names.values()), up, gate, read.module, names, hidden, up.width, up_value, gate_value, expert
    )


def _product(i: Expression) -> tuple[tuple[Part, Expression], tuple[Part, Expression]] | None:
    """Where two parts are first multiplied: (gate, g) and (up, u). The gate is the side that bends."""
    vectors = [o for o in i.operands if o.tensor.shape[-1] > 1]  # a norm behind the product multiplies by a scalar
    both = [o for o in vectors if len(o.parts) == 2]
    if both:
        return _product(both[0]) if len(both) == 1 else None
    if i.name.removesuffix("_") != "mul" or len(vectors) != 2:
        return None
    g, u = sorted(vectors, key=lambda side: not side.bends)
    (gate,), (up,) = g.parts, u.parts
    return (gate, g), (up, u)


def _keeps_zero(value: Expression, part: Part) -> bool:
    reference = next(e for e in _walk(value) if e.part is not None).tensor
    with torch.no_grad():
        return bool((value({part: torch.zeros_like(reference)}) == 0).all())


def _walk(expression: Expression) -> Iterator[Expression]:
    yield expression
    for operand in expression.operands:
        yield from _walk(operand)


def _input_width(module: nn.Module) -> int:
    shape = module.weight.shape  # type: ignore[union-attr]
    return int(shape[0] + shape[1] - min_output(module))  # type: ignore[operator, index]


def _place(path: str) -> tuple[int, int | None]:
    """The layer's number and, inside a list of experts, the expert's: the first and second integers of a path."""
    numbers = [int(piece) for piece in path.split(".") if piece.isdigit()]
    return (numbers[0] if numbers else 0), (numbers[1] if len(numbers) > 1 and "expert" in path else None)


def _common(names: Any) -> str:
    pieces = list(zip(*(n.split(".") for n in names), strict=False))
    same = [p[0] for p in pieces if len(set(p)) == 1]
    return ".".join(same)


def _has_stacked_weights(module: nn.Module) -> bool:
    return any(p.dim() == 3 for p in module.parameters(recurse=False))


def _by_hand(model: nn.Module, patterns: Mapping[str, str]) -> list[FFN]:
    if not {"up", "down"} <= set(patterns) <= {"up", "down", "gate"}:
        raise SpecError(f"modules={dict(patterns)!r}: expected patterns for 'up', 'down' and, if gated, 'gate'")
    projections = {name: module for name, module in model.named_modules() if is_projection(module)}
    matched = {role: [n for n in projections if fnmatchcase(n, pattern)] for role, pattern in patterns.items()}
    if len({len(names) for names in matched.values()}) != 1 or not matched["down"]:
        counts = ", ".join(f"{role}={patterns[role]!r} matched {len(names)}" for role, names in matched.items())
        raise ModelError(f"named by hand: {counts}; expected as many of each, and at least one")
    ffns = []
    for index, down in enumerate(matched["down"]):
        names = {role: matched[role][index] for role in matched}
        module = {role: projections[name] for role, name in names.items()}
        width = _input_width(module["down"])
        if any(min_output(module[role]) != width for role in module if role != "down"):
            raise ModelError(f"named by hand: {names} do not fit together: down reads {width} entries")
        parts = {role: Part(m, 0, 1, width) for role, m in module.items() if role != "down"}
        layer, expert = _place(down)
        hidden = _input_width(module["up"])
        ffns.append(
            FFN(layer, _common(names.values()), parts["up"], parts.get("gate"), module["down"], names, hidden, width,
                expert=expert)
        )  # fmt: skip
    return ffns
