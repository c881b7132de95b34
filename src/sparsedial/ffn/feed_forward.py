"""Description of one feed-forward network (FFN), and the sites at which it can be sparsified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import torch
from torch import nn

from sparsedial.errors import ModelError
from sparsedial.ffn.adapters import Adapter
from sparsedial.ffn.expression import Expression, OutputSlice
from sparsedial.ffn.macs import FfnMacs
from sparsedial.ffn.projection_input import OUTER_SITES, OuterVectors, ProjectionInput
from sparsedial.ffn.projections import out_features
from sparsedial.ffn.weights import compute_fingerprint, read_matrices

SITES = ("input", "up", "gate", "intermediate", "all_inputs")
"""The built-in sites in FFNs. `sparsedial.ffn.sites` defines them, and other sites can be registered there."""

BUILTIN_SITES = SITES + OUTER_SITES
"""All built-in sites: those in FFNs, and those that `sparsedial.ffn.projection_input` describes."""


class Branch(NamedTuple):
    """The computation of u or g (see `FFN`): a slice of a projection's output and the function applied to it.

    Attributes:
        part: The slice of the projection's output.
        value: u or g as a function of that slice. None if it is unknown, as for modules named by the user.
    """

    part: OutputSlice
    value: Expression | None

    @property
    def is_identity(self) -> bool:
        """True if the vector is the slice itself, or if its function is unknown."""
        return self.value is None or self.value.part is not None

    def compute(self, output: torch.Tensor) -> torch.Tensor:
        """Return u or g for an output of the projection.

        Args:
            output: Output of ``part.module``, shape [..., out_features].

        Returns:
            The vector, shape [..., width].
        """
        raw = self.part.select(output)
        if self.value is None or self.is_identity:
            return raw
        return self.value({self.part: raw})


@dataclass(frozen=True, repr=False)
class FFN:
    """One FFN: ``down(up(x) * act(gate(x)))`` if it is gated, otherwise ``down(act(up(x)))``.

    In the documentation, x is the input vector, u is ``up(x)``, g is ``act(gate(x))``, and the intermediate vector i is
    the vector that the down projection reads. In a mixture of experts, each expert is one FFN.

    Attributes:
        layer: Index of the layer that contains it.
        name: Path of the module that contains its projections. Path of its down projection if that path is not unique.
        up: Slice of a projection's output from which u is computed.
        gate: Slice of a projection's output from which g is computed. None for a plain FFN.
        down: Projection that reads the intermediate vector. For a stacked expert, the module that stacks the experts.
        names: Paths of the projections, by role ("up", "down" and, if gated, "gate").
        hidden: Width of the input vector x.
        width: Width of the vectors u, g and of the intermediate vector.
        up_value: u as a function of ``up``. None if it is unknown.
        gate_value: g as a function of ``gate``. None if it is unknown or if the FFN is plain.
        intermediate_is_product: True if the down projection reads u * g without further operations.
        expert: Index of the expert in its mixture-of-experts layer. None for an FFN that is not an expert.
        active_fraction: Fraction of the tokens that an expert reads, averaged over the experts of its layer. 1.0 for
            an FFN that is not an expert. None if it is unknown.
        moe_path: Path of the module that contains all experts of the layer. None for an FFN that is not an expert.
        stacked_module: Module that stacks the weights of all experts of the layer in one parameter per projection.
            None for all other FFNs.
        is_time_major: True if its vectors are in the order [tokens, batch].
    """

    layer: int
    name: str
    up: OutputSlice
    gate: OutputSlice | None
    down: nn.Module
    names: Mapping[str, str]
    hidden: int
    width: int
    up_value: Expression | None = None
    gate_value: Expression | None = None
    intermediate_is_product: bool = False
    expert: int | None = None
    active_fraction: float | None = 1.0
    moe_path: str | None = None
    stacked_module: nn.Module | None = None
    is_time_major: bool = False

    def __repr__(self) -> str:
        expert = "" if self.expert is None else f", expert={self.expert}"
        return f"FFN({self.name!r}, layer={self.layer}{expert}, gated={self.gated}, {self.hidden} x {self.width})"

    @property
    def gated(self) -> bool:
        """True if the FFN has a gate."""
        return self.gate is not None

    @property
    def input_projections(self) -> list[nn.Module]:
        """The projections that read x: two for a gated FFN with separate projections, otherwise one."""
        if self.gate is None or self.gate.module is self.up.module:
            return [self.up.module]
        return [self.up.module, self.gate.module]

    def reading_projections(self, vector: str) -> list[nn.Module]:
        """Return the projections that multiply a vector by their weights.

        Args:
            vector: Name of a vector.

        Returns:
            The projections that read x for "input", the down projection for "intermediate". Empty for other vectors,
            and for stacked experts.
        """
        if self.stacked_module is None and vector == "input":
            return self.input_projections
        if self.stacked_module is None and vector == "intermediate":
            return [self.down]
        return []

    def reading_matrices(self, vector: str) -> list[torch.Tensor] | None:
        """Return the matrices by which a vector is multiplied.

        Args:
            vector: Name of a vector.

        Returns:
            One matrix of shape [outputs, inputs] for each of `reading_projections`. None if one cannot be read, because
            it is quantised, not loaded, or changed by an adapter.
        """
        return read_matrices(self.reading_projections(vector))

    @property
    def fingerprint(self) -> str:
        """Digest of the shapes and of a few values of the weights, which differs between layers and between models."""
        return compute_fingerprint([*self.input_projections, self.down])

    @property
    def anchor(self) -> nn.Module:
        """A module that belongs to no other FFN, except to the other experts of a stack: the down projection."""
        return self.down

    @property
    def macs(self) -> FfnMacs:
        """Multiply-accumulates per token."""
        input_matrices = 2 if self.gated else 1
        return FfnMacs(input_matrices * self.hidden * self.width, self.width * self.output_size)

    @property
    def output_size(self) -> int:
        """Width of the output vector."""
        if self.stacked_module is not None:
            return self.hidden
        return out_features(self.down)

    def branch(self, vector: str) -> Branch:
        """Return how u or g is computed.

        Args:
            vector: "up" for u or "gate" for g.

        Returns:
            The slice of the projection's output and the function applied to it.

        Raises:
            ModelError: The vector is g and the FFN has no gate.
        """
        if vector != "gate":
            return Branch(self.up, self.up_value)
        if self.gate is None:
            raise ModelError(f"{self.name}: no vector {vector!r}, because the FFN has no gate")
        return Branch(self.gate, self.gate_value)

    def compute_vector(self, vector: str, output: torch.Tensor) -> torch.Tensor:
        """Return u or g for an output of the projection that computes it.

        Args:
            vector: "up" for u or "gate" for g.
            output: Output of the projection, shape [..., out_features].

        Returns:
            The vector, shape [..., width].
        """
        return self.branch(vector).compute(output)

    def preserves_zero(self, vector: str) -> bool:
        """Return True if a zero entry of the projection's output gives a zero entry of u or g.

        Args:
            vector: "up" for u or "gate" for g.

        Returns:
            True if the function maps zero to zero, is unknown, or does not exist because the FFN has no such vector.
        """
        if vector == "gate" and self.gate is None:
            return True
        part, value = self.branch(vector)
        if value is None:
            return True
        traced_slice = next(node.tensor for node in value.walk() if node.part is not None)
        with torch.no_grad():
            value_at_zero = value({part: torch.zeros_like(traced_slice)})
        return bool((value_at_zero == 0).all())

    def unsupported_reason(self, site: str) -> str | None:
        """Return why a built-in site does not exist in this FFN, or None if it exists.

        Args:
            site: One of ``SITES``. `sparsedial.ffn.sites.Site.unsupported_reason` answers for any site.

        Returns:
            The reason as a clause, or None.
        """
        if site == "gate" and self.gate is None:
            return "the FFN is plain, down(act(up(x))), and has no gate"
        if site == "gate" and self.gate_value is None:
            return "the gate's activation is unknown, because the modules were named by the user"
        if site in ("gate", "up") and not self.intermediate_is_product and not self.preserves_zero(site):
            return f"zero entries of the {site} projection's output would not be zero entries of the {site} vector"
        return None


VectorOwner = FFN | ProjectionInput
"""What a vector that is sparsified belongs to."""


class FFNs(Sequence[FFN]):
    """The FFNs of a model, in the order of its layers, and its vectors outside of them.

    Attributes:
        unsupported: Reasons why FFNs, or modules that seem to contain experts, cannot be sparsified, by module path.
        adapters: Bottleneck adapters, which are left out. They can be selected with the ``modules`` of `find_ffns`.
        outer: The vectors outside of the FFNs.
        weights_per_token: Number of weights that the model reads for one token. None if it is unknown.
    """

    def __init__(
        self,
        ffns: Sequence[FFN],
        unsupported: Mapping[str, str] | None = None,
        adapters: Sequence[Adapter] = (),
        outer: OuterVectors | None = None,
        weights_per_token: int | None = None,
    ) -> None:
        """Create the sequence.

        Args:
            ffns: The FFNs.
            unsupported: Reasons by module path (default: none).
            adapters: Bottleneck adapters that are left out (default: none).
            outer: The vectors outside of the FFNs (default: none).
            weights_per_token: Number of weights that the model reads for one token (default: unknown).
        """
        self._ffns = tuple(ffns)
        self.unsupported = dict(unsupported or {})
        self.adapters = tuple(adapters)
        self.outer = outer or OuterVectors()
        self.weights_per_token = weights_per_token

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
        layers = {ffn.layer for ffn in self}
        adapters = f", {len(self.adapters)} adapters left out" if self.adapters else ""
        return f"FFNs({len(self)} in {len(layers)} layers{adapters})"
