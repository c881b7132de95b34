"""Hooks that apply the rule to the vectors of a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn

from sparsedial.errors import AttachError
from sparsedial.ffn.feed_forward import FFN, VectorOwner
from sparsedial.ffn.projection_input import ProjectionInput
from sparsedial.ffn.sites import ModuleVector, find_site
from sparsedial.hooks.count_table import CounterKey
from sparsedial.hooks.encoder_fast_path import turn_off_fast_path
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.module_patch import Apply, InputPatch, OutputPatch, register_input_pre_hook
from sparsedial.hooks.thread_state import current_thread
from sparsedial.tracing_state import is_tracing


class Removable(Protocol):
    """Handle of a hook or patch that was attached to a model."""

    def remove(self) -> None:
        """Remove the hook or patch from the model."""


@dataclass(frozen=True)
class SparsifiedVector:
    """One vector that a sparsifier changes.

    Attributes:
        counter: Index of its counter.
        ffn: The FFN, or the projections outside of the FFNs that read the vector.
        name: "input", "up", "gate" or "intermediate", the name of a site outside of the FFNs, or that of
            ``module_vector``.
        module_vector: Which module's input or output it is. None if the name says it.
    """

    counter: int
    ffn: VectorOwner
    name: str
    module_vector: ModuleVector | None = None

    def make_key(self) -> CounterKey:
        """Return the description of its counter."""
        ffn = self.ffn
        if self.module_vector is not None and isinstance(ffn, FFN):
            width = self.module_vector.width(ffn)
        else:
            width = ffn.hidden if self.name == "input" else ffn.width
        return CounterKey(ffn.layer, ffn.name, self.name, ffn.expert, width, ffn.moe_path, ffn.is_time_major)


def list_vectors(ffns: Sequence[VectorOwner], site: str) -> list[SparsifiedVector]:
    """Return the vectors that are sparsified at a site, numbered in order.

    Args:
        ffns: The FFNs, or the projections outside of the FFNs, that have the site.
        site: Name of a site.

    Returns:
        The vectors. The index in the list is the index of the counter.
    """
    vectors: list[SparsifiedVector] = []
    for ffn in ffns:
        for vector in find_site(site).vectors:
            if isinstance(vector, str):
                vectors.append(SparsifiedVector(len(vectors), ffn, vector))
            else:
                vectors.append(SparsifiedVector(len(vectors), ffn, vector.name, vector))
    return vectors


def attach_vectors(
    vectors: Sequence[SparsifiedVector], model: nn.Module, coordinator: ForwardCoordinator
) -> Iterator[Removable]:
    """Attach the rule to vectors of a model.

    Args:
        vectors: The vectors.
        model: The model that contains them.
        coordinator: Makes the functions that apply the rule.

    Yields:
        Removable: Handle that removes a hook.
    """
    stacks: dict[tuple[nn.Module, str], list[SparsifiedVector]] = {}
    tracked: set[str] = set()
    for vector in vectors:
        ffn = vector.ffn
        if ffn.stacked_module is not None:
            stacks.setdefault((ffn.stacked_module, vector.name), []).append(vector)
            continue
        if ffn.name not in tracked:
            tracked.add(ffn.name)
            if isinstance(ffn, FFN):
                yield from coordinator.attach_to_expert(ffn, model)
            yield from turn_off_fast_path(ffn, model)
        yield from _attach_vector(vector, coordinator)
    for (experts_module, _), members in stacks.items():
        ffn = members[0].ffn
        if isinstance(ffn, FFN):
            yield _attach_stacked_vector(experts_module, ffn, members, coordinator)


def _attach_vector(vector: SparsifiedVector, coordinator: ForwardCoordinator) -> Iterator[Removable]:
    if isinstance(vector.ffn, ProjectionInput):
        yield from _attach_to_inputs(vector, coordinator)
    else:
        yield from _attach_ffn_vector(vector, vector.ffn, coordinator)


def _attach_to_inputs(vector: SparsifiedVector, coordinator: ForwardCoordinator) -> Iterator[Removable]:
    """Sparsify the vector that projections read. It is counted once."""
    projections = vector.ffn.input_projections
    apply = coordinator.make_applier(vector.counter, readers=len(projections))
    for projection in projections:
        yield InputPatch(projection, apply)


def _attach_ffn_vector(vector: SparsifiedVector, ffn: FFN, coordinator: ForwardCoordinator) -> Iterator[Removable]:
    if vector.module_vector is not None:
        module = vector.module_vector.module(ffn)
        patch = InputPatch if vector.module_vector.side == "input" else OutputPatch
        yield patch(module, coordinator.make_applier(vector.counter))
    elif vector.name == "input":
        yield from _attach_to_inputs(vector, coordinator)
    elif vector.name == "intermediate":
        yield InputPatch(ffn.down, coordinator.make_applier(vector.counter))
    elif ffn.preserves_zero(vector.name):
        yield _attach_by_zeroing_output(vector.name, ffn, coordinator.make_applier(vector.counter))
    else:
        yield from _attach_by_masking_product(vector.name, ffn, coordinator.make_applier(vector.counter))


def _attach_by_zeroing_output(name: str, ffn: FFN, apply: Apply) -> Removable:
    """Sparsify u or g by setting entries of the projection's output to zero. The activation must map zero to zero."""
    part, value = ffn.branch(name)

    def zero_dropped(raw: torch.Tensor) -> torch.Tensor:
        if value is None or value.part is not None:  # the output is u or g itself
            return apply(raw)
        activation = value({part: raw})
        is_kept = (apply(activation) != 0) | (activation == 0)
        return torch.where(is_kept, raw, 0)

    def replace_output(output: torch.Tensor) -> torch.Tensor:
        if is_tracing():
            return output
        sparse = zero_dropped(part.select(output))
        if sparse.shape == output.shape:
            return sparse
        output = output.clone()
        part.select(output).copy_(sparse)
        return output

    return OutputPatch(part.module, replace_output)


def _attach_by_masking_product(name: str, ffn: FFN, apply: Apply) -> Iterator[Removable]:
    """Sparsify u or g by setting the dropped entries of the product i = u * g to zero."""
    part, _ = ffn.branch(name)
    masks: dict[int, torch.Tensor] = {}  # by thread, of dropped entries, between the calls of the projection and `down`

    def compute_mask(output: torch.Tensor) -> torch.Tensor:
        if not is_tracing():
            activation = ffn.compute_vector(name, output)
            masks[current_thread()] = (apply(activation) == 0) & (activation != 0)
        return output

    def apply_mask(product: torch.Tensor) -> torch.Tensor:
        mask = masks.pop(current_thread(), None)
        if mask is None or mask.numel() != product.numel():
            raise AttachError(
                f"{ffn.name}: its down projection was called without a call of the projection of the {name} vector "
                "just before, which decides what is dropped. Call the whole FFN, or choose the site intermediate."
            )
        return product.masked_fill(mask.view(product.shape), 0)

    yield OutputPatch(part.module, compute_mask)
    yield register_input_pre_hook(ffn.down, apply_mask)  # before an `InputPatch` of `down` sees the product


def _attach_stacked_vector(
    experts_module: nn.Module, ffn: FFN, members: Sequence[SparsifiedVector], coordinator: ForwardCoordinator
) -> Removable:
    """Sparsify one vector of all experts whose weights are stacked in one parameter."""
    from sparsedial.moe.stacked_experts import ExpertTap

    counters = {member.ffn.expert or 0: member.counter for member in members}
    name = members[0].name
    apply = coordinator.make_stacked_applier(
        tuple(counters[expert] for expert in range(len(counters))), reads_tokens=name == "input"
    )
    value: Callable[[torch.Tensor], torch.Tensor] = partial(ffn.compute_vector, name)
    return ExpertTap(experts_module, name, apply, value)
