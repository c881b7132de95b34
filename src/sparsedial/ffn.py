"""Finds the feed-forward blocks of a model by what they compute, not by what they are called.

A feed-forward block (FFN) is a projection, *down*, whose input is an elementwise, bending function of
the outputs of one projection (plain: ``down(act(up(x)))``) or of two (gated: ``down(up(x) * act(gate(x)))``).
`sparsedial.trace` shows which projections these are; this module names their parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.places import Places, common, numbered
from sparsedial.sites import FFN, SITES, FFNs, check_site, skippable
from sparsedial.trace import Expression, Part, Read, input_width, is_projection, min_output, trace

if TYPE_CHECKING:
    from sparsedial.experts import Shape

__all__ = ["BY_HAND", "FFN", "FFNs", "SITES", "check_site", "find_ffns", "skippable"]

BY_HAND = (
    "To name the modules by hand: find_ffns(model, modules={'up': 'model.layers.*.mlp.up_proj', 'gate': ..., "
    "'down': ...}), or on the command line --ffn up=PATTERN --ffn down=PATTERN [--ffn gate=PATTERN]."
)


def find_ffns(
    model: nn.Module, *, inputs: Mapping[str, Any] | None = None, modules: Mapping[str, str] | None = None
) -> FFNs:
    """Find the feed-forward blocks of any transformer language model.

    One forward over six tokens is watched; nothing is left behind. It works for gated and plain FFNs,
    separate or fused gate/up projections, `nn.Linear` and GPT-2's `Conv1D`, any activation, FFNs that
    sit directly in the decoder layer or beside the attention, and models inside a multimodal wrapper.
    In a mixture every expert is an FFN: one in a list, and one whose weights are stacked with the others'
    in one parameter, as transformers keeps them. What looks like experts and is not understood is in
    ``not_understood`` of what is returned, with the reason.

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
    >>> from transformers import MixtralConfig, MixtralForCausalLM
    >>> config = MixtralConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
    ...                        num_key_value_heads=2, num_local_experts=4, vocab_size=64)
    >>> ffns = sd.find_ffns(MixtralForCausalLM(config))
    >>> len(ffns), ffns[5].name, ffns[5].layer, ffns[5].expert
    (8, 'model.layers.1.mlp.experts.1', 1, 1)
    """
    if modules is not None:
        return FFNs(_placed(Places(model), _by_hand(model, modules), []))
    paths = {id(module): name for name, module in model.named_modules()}
    with _routing(model) as active:
        reads = _watch(model, dict(inputs) if inputs is not None else _some_tokens(model))
    places, ffns = Places(model), _matches(reads, paths)
    siblings, not_understood = _siblings(model, places, ffns)
    stacked, refused = _stacked(model, {f.names["down"].rpartition(".")[0] for f in [*ffns, *siblings]}, active)
    ffns, not_understood = _placed(places, [*ffns, *siblings, *stacked], reads), not_understood | refused
    if not ffns and not not_understood:
        raise ModelError(_nothing_found(model, reads, paths))
    return FFNs(ffns, not_understood)


def _watch(model: nn.Module, inputs: dict[str, Any]) -> list[Read]:
    try:
        return trace(model, inputs)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} could not be called with {', '.join(inputs)} to find its FFNs: "
            f"{type(error).__name__}: {error}. Pass find_ffns(model, inputs=...). {BY_HAND}"
        ) from error


def _some_tokens(model: nn.Module) -> dict[str, Any]:
    config: Any = getattr(model, "config", None)
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    vocabulary = int(getattr(config, "vocab_size", None) or 8)
    # Offloaded weights are on no device between calls; whoever brings them in moves the inputs too.
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    return {"input_ids": (torch.arange(3, 9) % vocabulary)[None].to(device)}


def _nothing_found(model: nn.Module, reads: list[Read], paths: Mapping[int, str]) -> str:
    kinds = sorted({type(m).__name__ for m in model.modules() if is_projection(m)}) or ["none"]
    bent = [(paths[id(r.module)], len(r.expression.parts)) for r in reads if r.expression and r.expression.bends]
    near = "".join(f" {name} reads an activation of {parts} projections' outputs." for name, parts in bent[:3])
    return (
        f"{type(model).__name__}: no FFN found. Seen: {len(reads)} projections called ({', '.join(kinds)}); "
        f"expected one that reads act(up(x)) or up(x) * act(gate(x)).{near} {BY_HAND}"
    )


def _matches(reads: list[Read], paths: Mapping[int, str]) -> list[FFN]:
    """Every FFN whose down projection is among the calls, in their order."""
    source = {id(r.module): r.source for r in reads}
    found: dict[int, FFN] = {}
    for read in reads:
        if id(read.module) not in found and (ffn := _match(read, source, paths)) is not None:
            found[id(read.module)] = ffn
    return list(found.values())


def _match(read: Read, source: Mapping[int, int], paths: Mapping[int, str]) -> FFN | None:
    """The FFN whose down projection made this call, if what it read is an FFN's intermediate vector."""
    i = read.expression
    if i is None or not i.bends or read.activated:
        return None  # what is activated once more is a gate's or a router's little network
    modules = {id(part.module): part.module for part in i.parts}
    if id(read.module) in modules or len({source.get(m) for m in modules}) != 1:
        return None  # up and gate must read the same x
    if len(i.parts) == 1:
        (up,), gate, gate_value, up_value = i.parts, None, None, None
    elif len(i.parts) == 2 and (product := _product(i)) is not None:
        (gate, gate_value), (up, up_value) = product
    else:
        return None
    hidden = input_width(up.module)
    if min_output(read.module) != hidden:
        return None
    names = {"up": paths[id(up.module)], "down": paths[id(read.module)]}
    if gate is not None:
        names["gate"] = paths[id(gate.module)]
    ffn = FFN(0, common(names.values()), up, gate, read.module, names, hidden, up.width, up_value, gate_value)
    if gate_value is None or up_value is None:
        return ffn
    expected = gate_value.tensor.float() * up_value.tensor.float()
    return replace(ffn, product=torch.allclose(expected, i.tensor.float(), rtol=0.02, atol=1e-4))


def _siblings(model: nn.Module, places: Places, ffns: list[FFN]) -> tuple[list[FFN], dict[str, str]]:
    """The experts that the watched tokens were not sent to: each is called by itself, and watched."""
    reached = {member: f for f in ffns if (member := places.member(f.names.values())) is not None}
    found: list[FFN] = []
    not_understood: dict[str, str] = {}
    for member, ffn in {m.rpartition(".")[0]: (m, f) for m, f in reached.items()}.values():
        kind = type(model.get_submodule(member))
        for path in places.siblings(member):
            if path in reached or type(sibling := model.get_submodule(path)) is not kind:
                continue
            x = ffn.up.module.weight.new_zeros(1, ffn.hidden)  # type: ignore[operator]  # a projection has a tensor
            try:
                alone = _matches(trace(sibling, {}, x), {id(m): f"{path}.{n}" for n, m in sibling.named_modules()})
            except Exception:
                alone = []
            if len(alone) == 1:
                found += alone
            else:
                not_understood[path] = "an expert that no token tried was sent to and that cannot be called by itself"
    return found, not_understood


@contextmanager
def _routing(model: nn.Module) -> Iterator[dict[nn.Module, int]]:
    """How many of the experts that it stacks each module sends a token to, while the model runs."""
    active: dict[nn.Module, int] = {}

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 3:  # x, the experts of each token, their weights
            active[module] = int(args[1].shape[-1])

    handles = [m.register_forward_pre_hook(hook) for m in model.modules() if hasattr(m, "_apply_gate")]
    try:
        yield active
    finally:
        for handle in handles:
            handle.remove()


def _stacked(
    model: nn.Module, holders: Collection[str], active: Mapping[nn.Module, int]
) -> tuple[list[FFN], dict[str, str]]:
    """Experts stacked in one parameter, one FFN each, and the modules that stack some in a way not understood."""
    found: list[FFN] = []
    not_understood: dict[str, str] = {}
    for path, module in model.named_modules():
        if path in holders or not _stacks_weights(module):
            continue
        if not (hasattr(module, "_apply_gate") or "expert" in f"{path} {type(module).__name__}".lower()):
            continue
        from sparsedial import experts  # needs transformers

        shape = experts.shape(module)
        ffn = shape if isinstance(shape, str) else _one_expert(module, path, shape)
        if isinstance(ffn, str):
            not_understood[path] = ffn
        elif not isinstance(shape, str):
            share = active[module] / shape.experts if module in active else None
            found += [replace(ffn, name=f"{path}.{e}", expert=e, active=share) for e in range(shape.experts)]
    return found, not_understood


def _one_expert(stack: nn.Module, path: str, shape: Shape) -> FFN | str:
    """What every expert of a stack is, or why that cannot be said."""
    from sparsedial.experts import OneExpert

    one = OneExpert(stack, shape.width)
    unknown = f"what {type(stack).__name__} computes between its two projections is not an FFN's activation"
    try:
        reads = trace(one, {}, one.up.weight.new_tensor([[2.0, -3.0], [-1.0, 4.0]]))
        (ffn,) = _matches(reads, {id(m): name for name, m in one.named_modules()})
    except Exception:
        return unknown
    if ffn.width != shape.width or ffn.gated != stack.has_gate or ffn.gated > ffn.product:
        return unknown
    first = f"{path}.{'gate_up_proj' if ffn.gated else 'up_proj'}"
    names = {"up": first, "down": f"{path}.down_proj"} | ({"gate": first} if ffn.gated else {})
    return replace(ffn, names=names, hidden=shape.hidden, down=stack, mixture=path, stack=stack)


def _placed(places: Places, ffns: list[FFN], reads: list[Read]) -> list[FFN]:
    """Every FFN with its layer's number, its expert's, and a name of its own; in the order of the layers."""
    layers = {id(f): places.layer(f.names.values()) for f in ffns}
    number = numbered(layers.values())
    calls = {id(r.module): r for r in reads}
    lists: dict[str, dict[str, FFN]] = {}
    for f in ffns:
        if f.stack is None and (member := places.member(f.names.values())) is not None:
            lists.setdefault(member.rpartition(".")[0], {})[member] = f
    expert: dict[int, tuple[int, str]] = {id(f): (f.expert or 0, f.mixture or "") for f in ffns if f.stack is not None}
    for holder, members in lists.items():
        x = [calls[id(f.up.module)] for f in members.values() if id(f.up.module) in calls]
        # Blocks that follow one another in a list each read their own x; experts share one or its rows, or stay idle.
        if any(r.picked for r in x) or len({r.source for r in x}) < len(members):
            index = {path: i for i, path in enumerate(places.siblings(next(iter(members))))}
            expert |= {id(f): (index[member], holder) for member, f in members.items()}
    names = Counter(f.name for f in ffns)
    ffns = [
        replace(
            f,
            layer=number[layers[id(f)]],
            expert=expert.get(id(f), (None, None))[0],
            mixture=expert.get(id(f), (None, None))[1],
            active=f.active if f.stack is not None or id(f) not in expert else None,
            name=f.name if f.name and names[f.name] == 1 else f.names["down"],
        )
        for f in ffns
    ]
    return sorted(ffns, key=lambda f: (f.layer, -1 if f.expert is None else f.expert))


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


def _stacks_weights(module: nn.Module) -> bool:
    return not is_projection(module) and any(p.dim() > 1 for p in module.parameters(recurse=False))


def _by_hand(model: nn.Module, patterns: Mapping[str, str]) -> list[FFN]:
    if not {"up", "down"} <= set(patterns) <= {"up", "down", "gate"}:
        raise SpecError(f"modules={dict(patterns)!r}: expected patterns for 'up', 'down' and, if gated, 'gate'")
    projections = {name: module for name, module in model.named_modules() if is_projection(module)}
    matched = {role: [n for n in projections if fnmatchcase(n, pattern)] for role, pattern in patterns.items()}
    if len({len(names) for names in matched.values()}) != 1 or not matched["down"]:
        counts = ", ".join(f"{role}={patterns[role]!r} matched {len(names)}" for role, names in matched.items())
        raise ModelError(f"named by hand: {counts}; expected as many of each, and at least one")
    ffns = []
    for index in range(len(matched["down"])):
        names = {role: matched[role][index] for role in matched}
        module = {role: projections[name] for role, name in names.items()}
        width = input_width(module["down"])
        if any(min_output(module[role]) != width for role in module if role != "down"):
            raise ModelError(f"named by hand: {names} do not fit together: down reads {width} entries")
        parts = {role: Part(m, 0, 1, width) for role, m in module.items() if role != "down"}
        hidden = input_width(module["up"])
        ffns.append(
            FFN(0, common(names.values()), parts["up"], parts.get("gate"), module["down"], names, hidden, width)
        )
    return ffns
