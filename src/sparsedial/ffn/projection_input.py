"""Vectors outside of the FFNs: those that the projections of an attention and the output layer read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from sparsedial.ffn.macs import FfnMacs
from sparsedial.ffn.projections import in_features, out_features
from sparsedial.ffn.weights import compute_fingerprint, read_matrices

ATTENTION_INPUT = "attention_input"
ATTENTION_OUTPUT = "attention_output"
LM_HEAD_INPUT = "lm_head_input"
OUTER_SITES = (ATTENTION_INPUT, ATTENTION_OUTPUT, LM_HEAD_INPUT)
"""The built-in sites outside of the FFNs. Each is one vector, which has the name of the site."""


@dataclass(frozen=True, repr=False)
class ProjectionInput:
    """One vector outside of the FFNs, with the projections that read it.

    Attributes:
        layer: Index of the layer. The output layer has the index that follows that of the last layer.
        name: Path of the projection if there is one, otherwise of the module that contains the projections.
        vector: One of ``OUTER_SITES``.
        projections: The projections that read the vector, in the order of their calls.
        names: Paths of the projections. The keys are their paths in the module that contains them.
        width: Number of entries of the vector.
        is_time_major: True if its vectors are in the order [tokens, batch].
    """

    layer: int
    name: str
    vector: str
    projections: tuple[nn.Module, ...]
    names: Mapping[str, str]
    width: int
    is_time_major: bool = False

    def __repr__(self) -> str:
        return f"ProjectionInput({self.name!r}, {self.vector}, layer={self.layer}, {self.width})"

    @property
    def input_projections(self) -> list[nn.Module]:
        """The projections that read the vector."""
        return list(self.projections)

    @property
    def anchor(self) -> nn.Module:
        """A module that belongs to this vector only among the vectors of its site: the first projection."""
        return self.projections[0]

    def reading_projections(self, vector: str) -> list[nn.Module]:
        """Return the projections that multiply a vector by their weights, like `FFN.reading_projections`.

        Args:
            vector: Name of the vector. It has only one.
        """
        return list(self.projections) if vector == self.vector else []

    def reading_matrices(self, vector: str) -> list[torch.Tensor] | None:
        """Return the matrices by which a vector is multiplied, like `FFN.reading_matrices`.

        Args:
            vector: Name of the vector. It has only one.
        """
        return read_matrices(self.reading_projections(vector))

    @property
    def fingerprint(self) -> str:
        """Digest of the shapes and of a few values of the weights, like `FFN.fingerprint`."""
        return compute_fingerprint(self.projections)

    @property
    def macs(self) -> FfnMacs:
        """Multiply-accumulates per token. All of them read the vector."""
        return FfnMacs(sum(in_features(module) * out_features(module) for module in self.projections), 0)

    @property
    def hidden(self) -> int:
        """Number of entries of the vector, like `FFN.hidden`."""
        return self.width

    @property
    def expert(self) -> None:
        """None, because the projections are not those of an expert."""
        return None

    @property
    def moe_path(self) -> None:
        """None, because the projections are not those of an expert."""
        return None

    @property
    def stacked_module(self) -> None:
        """None, because the projections are modules of their own."""
        return None

    @property
    def active_fraction(self) -> float:
        """1.0, because the projections read every token."""
        return 1.0


@dataclass(frozen=True)
class OuterVectors:
    """The vectors of a model outside of its FFNs.

    Attributes:
        inputs: The vectors, ordered by site and layer.
        missing: For each site that the model does not have, the reason as a clause.
    """

    inputs: tuple[ProjectionInput, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    def at_site(self, site: str) -> list[ProjectionInput]:
        """Return the vectors of a site, in the order of the layers.

        Args:
            site: One of ``OUTER_SITES``.
        """
        return [vector for vector in self.inputs if vector.vector == site]
