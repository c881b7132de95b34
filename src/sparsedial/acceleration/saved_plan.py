"""How a model is accelerated, in the form in which it is stored, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from sparsedial.acceleration.acceleration_plan import AccelerationPlan
from sparsedial.acceleration.backend import load_backend
from sparsedial.acceleration.projections import Prefill, WhenSlower
from sparsedial.acceleration.saved_settings import FILE_NAME, SavedRule, SavedSettings, check_evidence
from sparsedial.dtype_names import dtype_name
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.hooks.site_attachment import SparsifiedVector, list_vectors
from sparsedial.rules import Rule


class EvidenceSource(Protocol):
    """Object that describes what was measured, such as the result of `sparsedial.measure`."""

    def make_evidence(self, site: str, rule: Rule | None = None) -> dict[str, Any]:
        """Return what was measured at a site, as plain JSON.

        Args:
            site: Name of the site.
            rule: The rule of the model, or None for all rules.
        """
        ...


def describe_plan(
    plan: AccelerationPlan, machine: str, evidence: Mapping[str, Any] | EvidenceSource | None
) -> SavedSettings:
    """Return what is saved beside the weights of an accelerated model.

    Args:
        plan: What is accelerated.
        machine: The processor or GPU.
        evidence: Why the rules were chosen, or None.

    Returns:
        The settings.

    Raises:
        SpecError: The evidence is not plain JSON.
    """
    if evidence is not None and not isinstance(evidence, Mapping):
        if not hasattr(evidence, "make_evidence"):
            raise SpecError(
                f"save_pretrained: evidence is {evidence!r}: expected the result of measure or of make_evidence, or a "
                "dictionary of plain JSON."
            )
        evidence = evidence.make_evidence(plan.site, plan.find_common_rule())
    check_evidence(evidence)
    rules = []
    for vector, rule in zip(plan.vectors, plan.rules, strict=True):
        assert rule is not None  # only vectors with a rule are in the plan
        rules.append(SavedRule(vector.ffn.name, vector.name, rule.to_json()))
    weight = plan.list_ffns()[0].down.weight
    assert isinstance(weight, torch.Tensor)
    return SavedSettings(
        site=plan.site,
        prefill=plan.prefill,
        when_slower=plan.when_slower,
        linear_layers=plan.linear_layers,
        rules=rules,
        calibration=None if plan.calibration is None else dict(plan.calibration.values),
        dtype=dtype_name(weight.dtype),
        machine=machine,
        evidence=evidence,
    )


def make_saved_plan(model: nn.Module, settings: SavedSettings) -> AccelerationPlan:
    """Return how a model was accelerated when it was saved.

    Args:
        model: The model, which has the FFNs of the saved one.
        settings: Contents of the file beside its weights.

    Returns:
        The plan.

    Raises:
        ModelError: The model does not have the FFNs that the settings name.
    """
    saved = {(entry.module, entry.vector): entry for entry in settings.rules}
    vectors: list[SparsifiedVector] = []
    rules: list[Rule] = []
    for vector in list_vectors(find_ffns(model), settings.site):
        entry = saved.pop((vector.ffn.name, vector.name), None)
        if entry is not None:
            vectors.append(replace(vector, counter=len(vectors)))
            rules.append(entry.make_rule())
    if saved:
        raise ModelError(
            f"{FILE_NAME} names {next(iter(saved))[0]}, which the model does not have: expected the file and the "
            "weights of one model. Save the model again."
        )
    prefill: Prefill = "sparse" if settings.prefill == "sparse" else "dense"
    when_slower: WhenSlower = "dense" if settings.when_slower == "dense" else "mask"
    return AccelerationPlan(
        settings.site,
        prefill,
        when_slower,
        settings.linear_layers,
        vectors,
        tuple(rules),
        settings.make_calibration(),
    )


def find_saved_dtype(settings: SavedSettings, device: torch.device) -> str | None:
    """Return the name of the dtype in which a model was accelerated.

    Args:
        settings: Contents of the file beside its weights.
        device: Device that the model will run on.

    Returns:
        The name. None if the kernels of the device do not support it, or the file does not have it.
    """
    names = set(map(dtype_name, load_backend(device).dtypes))
    return settings.dtype if settings.dtype in names else None
