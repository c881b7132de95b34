"""The measured speed of forward passes on named devices, and the choice of a device for an estimate.

``cards.json`` holds one record per device. ``python -m benchmarks.bench_forward_cost --save`` adds the device of the
machine that it runs on.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsedial.errors import SpecError
from sparsedial.models.loading import DTYPES
from sparsedial.suggestions import list_known

CARDS_PATH = Path(__file__).parent / "cards.json"
DENSE = "dense"
"""Key of the speed without a sparsifier, beside those of the sites."""


@dataclass(frozen=True)
class MeasuredShape:
    """Speed of one model shape.

    Attributes:
        layer_parameters: Parameters of a layer that process each token.
        has_experts: True for a mixture of experts.
        prefill: FLOP/s of a forward pass over many tokens, by site and for `DENSE`. A FLOP count is twice the number of
            parameters that process a token, times the tokens.
        decode: Bytes of weights per second of a decode step, by site and for `DENSE`.
    """

    layer_parameters: float
    has_experts: bool
    prefill: Mapping[str, float]
    decode: Mapping[str, float]


@dataclass(frozen=True)
class Card:
    """A device whose speed was measured.

    Attributes:
        name: Name of the device.
        device: "cuda" or "cpu".
        memory: Memory in bytes.
        dtype: Dtype of the measurement.
        decode_rows: Sequences that a decode step continues at once.
        trial_seconds: Seconds of a trial with hardly any tokens.
        source: The command that measured it.
        shapes: The measured shapes.
    """

    name: str
    device: str
    memory: int
    dtype: str
    decode_rows: int
    trial_seconds: float
    source: str
    shapes: tuple[MeasuredShape, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """Return the card in a record of ``cards.json``.

        Args:
            data: Dictionary with one entry per field. Other keys are ignored.
        """
        shapes = []
        for shape in data["shapes"]:
            shapes.append(
                MeasuredShape(shape["layer_parameters"], shape["has_experts"], shape["prefill"], shape["decode"])
            )
        return cls(
            data["name"],
            data["device"],
            int(data["memory"]),
            data["dtype"],
            data["decode_rows"],
            data["trial_seconds"],
            data["source"],
            tuple(shapes),
        )

    def prefill_speed(self, layer_parameters: float, has_experts: bool, site: str | None) -> float:
        """Return the FLOP/s of a forward pass over many tokens.

        Args:
            layer_parameters: Parameters of a layer that process each token.
            has_experts: True for a mixture of experts.
            site: Site that is sparsified, or None.
        """
        speeds = {shape.layer_parameters: shape.prefill for shape in self._similar_shapes(has_experts)}
        return _speed_at(speeds, layer_parameters, site)

    def decode_speed(self, layer_parameters: float, has_experts: bool, site: str | None) -> float:
        """Return the bytes of weights per second of a decode step. The arguments are those of `prefill_speed`.

        Args:
            layer_parameters: Parameters of a layer that process each token.
            has_experts: True for a mixture of experts.
            site: Site that is sparsified, or None.
        """
        speeds = {shape.layer_parameters: shape.decode for shape in self._similar_shapes(has_experts)}
        return _speed_at(speeds, layer_parameters, site)

    def layer_seconds(self, has_experts: bool, site: str | None) -> float:
        """Return the shortest time of a layer: that of a decode step of the smallest measured shape.

        It is the time that starting the operations of a layer takes, however few tokens they process.

        Args:
            has_experts: True for a mixture of experts.
            site: Site that is sparsified, or None.
        """
        smallest = min(self._similar_shapes(has_experts), key=lambda shape: shape.layer_parameters)
        return smallest.layer_parameters * DTYPES[self.dtype].itemsize / _find_speed(smallest.decode, site)

    def _similar_shapes(self, has_experts: bool) -> Sequence[MeasuredShape]:
        """Return the shapes of the same kind. All shapes if there is none of this kind."""
        return [shape for shape in self.shapes if shape.has_experts == has_experts] or self.shapes


def _speed_at(speeds: Mapping[float, Mapping[str, float]], size: float, site: str | None) -> float:
    """Return the speed of a site at a size, from the speeds of the sites at each measured size."""
    return _interpolate({known_size: _find_speed(by_site, site) for known_size, by_site in speeds.items()}, size)


def _interpolate(speeds: Mapping[float, float], size: float) -> float:
    """Return the speed at a size between those of the two nearest sizes, on logarithmic scales.

    It is constant beyond the smallest and the largest size.
    """
    known_sizes = sorted(speeds)
    known_speeds = np.array(list(map(speeds.__getitem__, known_sizes)))
    return float(np.exp(np.interp(math.log(size), np.log(known_sizes), np.log(known_speeds))))


def _find_speed(table: Mapping[str, float], site: str | None) -> float:
    """Return the speed at a site. If the site was not measured, the lowest speed of all sites."""
    if site is None:
        return table[DENSE]
    return table.get(site, min(table.values()))


@lru_cache(maxsize=1)
def read_cards() -> tuple[Card, ...]:
    """Return all measured devices."""
    return tuple(Card.from_json(data) for data in json.loads(CARDS_PATH.read_text())["cards"])


def find_card(name: str) -> Card:
    """Return the first measured device whose name contains a text, without regard to case and spaces.

    Args:
        name: Part of the name of a device, such as "H100".

    Raises:
        SpecError: No device has the name.
    """
    cards = read_cards()
    for card in cards:
        if _simplify(name) in _simplify(card.name):
            return card
    known = list_known(name, [card.name for card in cards])
    raise SpecError(f"card {name!r}: its speed was not measured. Expected one of: {known}")


def find_machine_card(device: torch.device) -> Card | None:
    """Return the measured device that is the one of this machine. None if it was not measured.

    Args:
        device: Device of this machine. Any measured CPU stands for its CPU.
    """
    for card in read_cards():
        if card.device != device.type:
            continue
        if device.type == "cpu" or _simplify(card.name) == _simplify(torch.cuda.get_device_name(device)):
            return card
    return None


def _simplify(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
