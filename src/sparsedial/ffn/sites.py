"""Sites by name: which vectors of which FFNs a rule is applied to.

The built-in sites are those of `SITES`. Other sites can be registered. They combine vectors, select FFNs, or name the
module whose input or output is a vector that no built-in site has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.feed_forward import BUILTIN_SITES, FFN, SITES, FFNs, VectorOwner
from sparsedial.ffn.projection_input import OUTER_SITES, ProjectionInput
from sparsedial.registry import Registry

SHARE_TOLERANCE = 1e-9
"""Allowed rounding error of the sum of the shares of multiply-accumulates."""

VECTORS = ("input", "up", "gate", "intermediate")
"""Names of the vectors of every FFN: x, u, g and i (see `FFN`)."""

DISJOINT_VECTORS = frozenset({"input", "intermediate"})
"""Vectors that are multiplied by different matrices, so that the work that they save can be added up."""


@dataclass(frozen=True)
class ModuleVector:
    """A vector that is the first input or the output of a module of an FFN, and not one of `VECTORS`.

    Attributes:
        name: Name of the vector in tables and files.
        module: Function of the FFN that returns the module.
        side: "input" if the vector is the first argument of the module, "output" if it is what the module returns.
        width: Function of the FFN that returns the number of entries of the vector.
    """

    name: str
    module: Callable[[FFN], nn.Module]
    side: Literal["input", "output"]
    width: Callable[[FFN], int]


class Site:
    """Base class of sites, whose subclasses can be registered with `register_site`.

    Attributes:
        name: Name of the site in specifications and files.
        vectors: Names from `VECTORS`, and vectors that are described by a `ModuleVector`. The rule is applied to each
            of them.
        version: Version of the definition, at least 1. It is part of the key of a trial, and must be increased when a
            changed definition selects other vectors.
    """

    name: ClassVar[str]
    vectors: ClassVar[tuple[str | ModuleVector, ...]]
    version: ClassVar[int] = 1

    @property
    def vector_names(self) -> tuple[str, ...]:
        """Names of the vectors."""
        return tuple(map(_vector_name, self.vectors))

    def select(self, ffns: Sequence[FFN]) -> Sequence[FFN]:
        """Return the FFNs of a model that the site belongs to. By default, these are all FFNs.

        Args:
            ffns: All FFNs of the model, in the order of its layers.
        """
        return ffns

    def skippable_macs(self, ffn: FFN) -> Mapping[str, float]:
        """Return the share of the FFN's multiply-accumulates that depend on each vector of the site.

        At most, a runtime can skip the sum of share times sparsity over the vectors (arXiv 2509.00454, section 3). For
        each dropped entry, it can skip these columns and rows of the weight matrices:

        - input: columns of up and gate.
        - gate: rows of up and columns of down.
        - up: rows of gate and columns of down.
        - intermediate: columns of down.

        Sites with a `ModuleVector`, and sites with several vectors that are not multiplied by different matrices,
        override this method.

        Args:
            ffn: One of the FFNs of the site.

        Returns:
            The share by name of the vector. The shares are at least 0, and their sum is at most 1.
        """
        return {name: _vector_share(ffn, name) for name in self.vector_names}

    def unsupported_reason(self, ffn: FFN) -> str | None:
        """Return why an FFN does not have the site, or None if it does. By default, its vectors decide.

        Args:
            ffn: One of the FFNs of the site.

        Returns:
            The reason as a clause, or None.
        """
        for vector in self.vectors:
            if isinstance(vector, str):
                reason = ffn.unsupported_reason(vector)
            elif ffn.stacked_module is not None:
                reason = f"the experts are stacked in one module, so {vector.name} is not a vector of a module"
            else:
                reason = None
            if reason is not None:
                return reason
        return None


SiteT = TypeVar("SiteT", bound=Site)


def register_site(site_class: type[SiteT]) -> type[SiteT]:
    """Register a site, so that its name can be used wherever that of a built-in site can be.

    Studies that do not name their sites still measure the built-in sites only, whatever is registered.

    Args:
        site_class: Class derived from `Site`, which can be created without arguments.

    Returns:
        The class, so that this function can be used as a decorator. A `SpecError` is raised if what the class declares
        is wrong, or if another site has its name.

    Example:
        >>> @register_site
        ... class InputOfFirstHalf(Site):
        ...     name = "input_of_first_half"
        ...     vectors = ("input",)
        ...
        ...     def select(self, ffns):
        ...         return [ffn for ffn in ffns if ffn.layer <= ffns[-1].layer // 2]
        >>> find_site("input_of_first_half").vector_names
        ('input',)
    """
    _check_site_class(site_class)
    _SITES.add(getattr(site_class, "name", None), site_class(), site_class)
    return site_class


class _OuterSite(Site):
    """Base class of the built-in sites outside of the FFNs. Their version increases when other vectors are found."""

    def skippable_macs(self, ffn: VectorOwner) -> Mapping[str, float]:
        """Return 1: all multiply-accumulates of the projections depend on the vector."""
        return {self.name: 1.0}

    def unsupported_reason(self, ffn: VectorOwner) -> str | None:
        """Return a reason for an FFN, which has no such vector."""
        return None if isinstance(ffn, ProjectionInput) else "it is not a vector of an FFN"


def _make_builtin_site(name: str) -> Site:
    vectors: tuple[str, ...] = (name,)
    if name == "all_inputs":
        vectors = ("input", "intermediate")
    base = _OuterSite if name in OUTER_SITES else Site
    site_class: type[Site] = type(name, (base,), {"name": name, "vectors": vectors})
    return site_class()


_SITES: Registry[Site] = Registry(
    "site", "sparsedial.sites", {name: _make_builtin_site(name) for name in BUILTIN_SITES}, register_site
)


def find_site(name: str) -> Site:
    """Return the site of a name. A `SpecError` is raised if there is none.

    Args:
        name: Name of a built-in or registered site.
    """
    check_site_name(name)
    return _SITES[name]


def check_site_name(name: object) -> None:
    """Check that a site is given by its name, and not as a class or an object.

    Args:
        name: What was given as the name.

    Raises:
        SpecError: It is not a text.
    """
    if isinstance(name, str):
        return
    own_name = getattr(name, "name", None)
    expected = "the name of a site, such as 'input'"
    if isinstance(own_name, str):
        expected = f"its name, {own_name!r}, and @sparsedial.register_site above its class"
    raise SpecError(f"site {name!r}: expected {expected}")


def registered_site_version(name: str) -> int | None:
    """Return the version of a site. None for a built-in site in FFNs, whose definition does not change.

    Args:
        name: Name of a site. A `SpecError` is raised if it is unknown.
    """
    if name in SITES:
        return None
    return find_site(name).version


def site_registry() -> Registry[Site]:
    """Return all sites by name."""
    return _SITES


def check_site(ffns: Sequence[VectorOwner], site: str) -> None:
    """Check that a site exists in every FFN. A `SpecError` is raised if there is no site of this name.

    Args:
        ffns: The FFNs to sparsify, or the projections outside of the FFNs.
        site: Name of a site.

    Raises:
        ModelError: An FFN does not have the site. The message names the FFN and the reason.
    """
    definition = find_site(site)
    for ffn in ffns:
        reason = definition.unsupported_reason(ffn)  # type: ignore[arg-type]  # sites of FFNs are given FFNs
        if reason is not None:
            available = []
            for name in SITES:
                if find_site(name).unsupported_reason(ffn) is None:  # type: ignore[arg-type]
                    available.append(name)
            raise ModelError(f"{ffn.name}: no site {site!r}: {reason}. Available sites: {', '.join(available)}.")


def select_site_ffns(all_ffns: Sequence[FFN], chosen: Sequence[FFN], site: str) -> list[FFN]:
    """Return the FFNs that are chosen and that a site belongs to.

    Args:
        all_ffns: All FFNs of the model.
        chosen: Some of them.
        site: Name of a site. A `SpecError` is raised if it is unknown.

    Returns:
        At least one FFN, in the order of ``chosen``.

    Raises:
        SpecError: The site belongs to none of the chosen FFNs.
    """
    definition = find_site(site)
    if type(definition).select is Site.select:
        return list(chosen)
    selected = set(map(id, definition.select(all_ffns)))
    ffns = [ffn for ffn in chosen if id(ffn) in selected]
    if not ffns:
        layers = sorted({ffn.layer for ffn in chosen})
        raise SpecError(f"site {site!r}: no FFN of the layers {layers} belongs to it. Choose other layers.")
    return ffns


def select_outer_vectors(ffns: FFNs, site: str) -> list[ProjectionInput]:
    """Return the vectors of a built-in site outside of the FFNs.

    Args:
        ffns: The FFNs of the model.
        site: One of ``OUTER_SITES``.

    Returns:
        At least one vector, in the order of the layers.

    Raises:
        ModelError: The model does not have the site. The message gives the reason.
    """
    vectors = ffns.outer.at_site(site)
    if vectors:
        return vectors
    reason = ffns.outer.missing.get(site, "these FFNs were not found by find_ffns, which also finds other vectors")
    available = list(filter(ffns.outer.at_site, OUTER_SITES))
    if ffns:
        available = [*(name for name in SITES if find_site(name).unsupported_reason(ffns[0]) is None), *available]
    raise ModelError(f"The model has no site {site!r}: {reason}. Available sites: {', '.join(available) or 'none'}.")


def skippable_mac_share(ffn: VectorOwner, site: str) -> dict[str, float]:
    """Return the share of the FFN's multiply-accumulates that depend on each vector of a site: `Site.skippable_macs`.

    Args:
        ffn: The FFN, or the projections outside of the FFNs that read the vector.
        site: Name of a site. A `SpecError` is raised if it is unknown.

    Returns:
        The share between 0 and 1 for each vector sparsified at the site.

    Raises:
        SpecError: A registered site declares other vectors, or shares that are negative or add up to more than 1.
    """
    definition = find_site(site)
    shares = dict(definition.skippable_macs(ffn))  # type: ignore[arg-type]  # `check_site` has compared them
    is_possible = all(share >= 0 for share in shares.values()) and sum(shares.values()) <= 1 + SHARE_TOLERANCE
    if set(shares) != set(definition.vector_names) or not is_possible:
        raise SpecError(
            f"site {site!r}: skippable_macs returned {shares}: expected a share of at least 0 for each of "
            f"{', '.join(definition.vector_names)}, with a sum of at most 1"
        )
    return {name: shares[name] for name in definition.vector_names}


def _vector_share(ffn: FFN, vector: str) -> float:
    macs = ffn.macs
    total = sum(macs)
    if vector == "input":
        return macs.reads_input / total
    if vector == "intermediate" or (vector == "up" and not ffn.gated):
        return macs.reads_intermediate / total
    # A dropped entry skips a row of one of the two projections that read the input, and a column of down.
    return (macs.reads_input / 2 + macs.reads_intermediate) / total


def _vector_name(vector: str | ModuleVector) -> str:
    return vector if isinstance(vector, str) else vector.name


def _check_site_class(site_class: Any) -> None:
    """Raise an error if a class is not a site that can be registered."""
    if not isinstance(site_class, type) or not issubclass(site_class, Site):
        raise SpecError(f"register_site: expected a subclass of sparsedial.Site, got {site_class!r}")
    source = f"site {site_class.__module__}.{site_class.__qualname__}"
    vectors = getattr(site_class, "vectors", ())
    if not isinstance(vectors, tuple) or not vectors:
        raise SpecError(f"{source}: vectors {vectors!r}: expected a tuple of at least one vector")
    for vector in vectors:
        is_builtin = _vector_name(vector) in VECTORS
        if is_builtin != isinstance(vector, str):
            raise SpecError(
                f"{source}: vector {vector!r}: expected one of {', '.join(VECTORS)}, or a ModuleVector of another name"
            )
    names = list(map(_vector_name, vectors))
    if len(set(names)) < len(names):
        raise SpecError(f"{source}: a vector is listed twice among {', '.join(names)}")
    if type(site_class.version) is not int or site_class.version < 1:
        raise SpecError(f"{source}: version {site_class.version!r}: expected a whole number of at least 1")
    can_add_up = names[0] in VECTORS if len(names) == 1 else DISJOINT_VECTORS.issuperset(names)
    if not can_add_up and site_class.skippable_macs is Site.skippable_macs:
        raise SpecError(
            f"{source}: the multiply-accumulates that {', '.join(names)} save cannot be computed: define skippable_macs"
        )
