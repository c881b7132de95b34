"""Selection of the FFNs of a model that are sparsified, or of its vectors outside of the FFNs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from operator import attrgetter
from typing import Any

from torch import nn

from sparsedial.errors import AttachError, ModelError, SpecError
from sparsedial.ffn.feed_forward import FFN, FFNs, VectorOwner
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.ffn.sites import select_outer_vectors, select_site_ffns

FfnFilter = Callable[[Any], bool]
"""Function that returns True for an FFN, or for a `ProjectionInput` at a site outside of the FFNs."""


def read_layers(layers: object) -> tuple[int, ...]:
    """Return the indices of layers that the user chose. Whether a model has these layers is not checked.

    Args:
        layers: The indices.

    Raises:
        SpecError: They are not several whole numbers.

    Example:
        >>> read_layers(range(2))
        (0, 1)
    """
    indices: list[Any] = list(layers) if isinstance(layers, Iterable) else [None]
    if all(isinstance(index, Integral) and not isinstance(index, bool) for index in indices):
        return tuple(map(int, indices))
    raise SpecError(f"layers={layers!r}: expected the indices of layers, such as [0, 1]")


def select_owners(
    ffns: FFNs, site: str, layers: Iterable[int] | None = None, filter_fn: FfnFilter | None = None
) -> list[VectorOwner]:
    """Return the FFNs that a site belongs to, or the projections that read its vectors outside of the FFNs.

    Args:
        ffns: The FFNs of a model.
        site: Name of a site.
        layers: Indices of layers. Defaults to None: all layers.
        filter_fn: Function that returns True for what is chosen. Defaults to None: all of it.

    Returns:
        At least one FFN or `ProjectionInput`.

    Raises:
        SpecError: A layer is unknown, or nothing is chosen.
        ModelError: The model does not have the site, or a module of these layers cannot be sparsified.
        AttachError: Only some experts were chosen whose weights are stacked in one parameter.
    """
    if site not in OUTER_SITES:
        return list(select_site_ffns(ffns, select_ffns(ffns, layers, filter_fn), site))
    vectors = select_outer_vectors(ffns, site)
    known = set(map(attrgetter("layer"), vectors))
    selected = set(known)
    if layers is not None:
        selected = set(read_layers(layers))
    if selected - known:
        raise SpecError(f"Unknown layer(s) {sorted(selected - known)}: {site} is in layers {sorted(known)}.")
    chosen: list[VectorOwner] = []
    for vector in vectors:
        if vector.layer in selected and (filter_fn is None or _call_filter(filter_fn, vector)):
            chosen.append(vector)
    if not chosen:
        raise SpecError(f"site {site!r}: nothing was chosen. Choose a layer of {sorted(known)}, or no filter_fn.")
    return chosen


def select_ffns(ffns: FFNs, layers: Iterable[int] | None = None, filter_fn: FfnFilter | None = None) -> list[FFN]:
    """Return the chosen FFNs, after checking that all of them can be sparsified.

    Args:
        ffns: The FFNs of a model.
        layers: Indices of layers. Defaults to None: all layers.
        filter_fn: Function that returns True for the FFNs to choose. Defaults to None: all FFNs of these layers.

    Returns:
        At least one FFN.

    Raises:
        SpecError: A layer is unknown, or no FFN is chosen.
        ModelError: A module of these layers cannot be sparsified.
        AttachError: Only some experts were chosen whose weights are stacked in one parameter.
    """
    selected = _select_layers(ffns, layers)
    chosen = [ffn for ffn in ffns if ffn.layer in selected]
    if filter_fn is not None:
        chosen = [ffn for ffn in chosen if _call_filter(filter_fn, ffn)]
    is_selective = layers is not None or filter_fn is not None
    unsupported = _describe_unsupported(ffns, {ffn.layer for ffn in chosen}, every_layer=not is_selective)
    if unsupported is not None:
        raise ModelError(unsupported)
    if not chosen and filter_fn is not None:
        raise SpecError(f"filter_fn: no FFN was chosen. Return True for at least one of the FFNs ({ffns!r}).")
    if not chosen:
        raise SpecError("No layer was chosen: expected at least one. Leave out layers= to sparsify all of them.")
    _check_whole_stacks(chosen)
    return chosen


def check_ffns(ffns: object) -> None:
    """Check that an object is a result of `find_ffns`.

    Args:
        ffns: The object.

    Raises:
        SpecError: It is something else, such as a list of FFNs.
    """
    if not isinstance(ffns, FFNs):
        raise SpecError(
            f"ffns=: got an object of type {type(ffns).__name__}: expected the result of find_ffns(model). Choose some "
            "of its FFNs with layers= or filter_fn=."
        )


def check_model_contains(model: nn.Module, ffns: Sequence[VectorOwner]) -> None:
    """Raise an error if an FFN belongs to another model, which would leave this model dense.

    Args:
        model: The model.
        ffns: The FFNs.

    Raises:
        SpecError: An FFN is not a part of the model.
    """
    modules = set(model.modules())
    for ffn in ffns:
        if ffn.anchor not in modules:
            raise SpecError(
                f"ffns=: {ffn.name} is not a module of this model ({type(model).__name__}), but of another one or of a "
                "copy of it. Pass the result of find_ffns(model), or leave out ffns=."
            )


def _select_layers(ffns: FFNs, layers: Iterable[int] | None) -> set[int]:
    known = {ffn.layer for ffn in ffns}
    if layers is None:
        return known
    selected = set(read_layers(layers))
    unknown = selected - known
    if unknown:
        raise SpecError(f"Unknown layer(s) {sorted(unknown)}: FFNs are in layers {sorted(known)}.")
    return selected


def _call_filter(filter_fn: FfnFilter, ffn: VectorOwner) -> bool:
    if not callable(filter_fn):
        raise SpecError(f"filter_fn: expected a function that returns True or False for an FFN, got {filter_fn!r}.")
    is_chosen = filter_fn(ffn)
    if not isinstance(is_chosen, bool):
        raise SpecError(f"filter_fn: expected True or False for {ffn.name}, got {is_chosen!r}.")
    return is_chosen


def _describe_unsupported(ffns: FFNs, layers: set[int], every_layer: bool) -> str | None:
    """Return a message about the first FFN in these layers that cannot be sparsified, or None if there is none."""
    for name, reason in ffns.unsupported.items():
        numbers = {int(piece) for piece in name.split(".")[:-1] if piece.isdigit()}
        if every_layer or numbers & layers:
            return f"{name} cannot be sparsified: {reason}. Leave out its layer with layers= (CLI: --layers)."
    return None


def _check_whole_stacks(chosen: Sequence[FFN]) -> None:
    """Raise an error if only some of the experts of one stack were chosen."""
    chosen_experts = Counter(ffn.stacked_module for ffn in chosen if ffn.stacked_module is not None)
    for ffn in chosen:
        module = ffn.stacked_module
        if module is None:
            continue
        experts = len(module.down_proj)  # type: ignore[arg-type]  # a 3-D parameter
        if chosen_experts[module] < experts:
            raise AttachError(
                f"{ffn.name}: only {chosen_experts[module]} of {experts} experts with weights stacked in one parameter "
                "were selected. Stacked experts are sparsified together: select all of them or none."
            )
