"""The sites of a model at which each rule of a study is defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsedial.errors import SpecError
from sparsedial.ffn.feed_forward import FFNs
from sparsedial.hooks.ffn_selection import select_owners
from sparsedial.hooks.rule_binding import undefined_reason
from sparsedial.hooks.site_attachment import list_vectors
from sparsedial.models.log_callback import Log
from sparsedial.rules import find_rule_class, make_rule
from sparsedial.study.spec import StudySpec


def find_undefined_sites(spec: StudySpec, ffns: FFNs, sites: Sequence[str], log: Log) -> dict[str, tuple[str, ...]]:
    """Return the sites at which each rule of a study is not defined, and which the study leaves out for this rule.

    Args:
        spec: The study.
        ffns: The FFNs of a model.
        sites: The sites of the study that the model has.
        log: Called with a message about each site that is left out.

    Returns:
        The sites by the family of the rule. Rules that are defined everywhere are left out.

    Raises:
        SpecError: A rule is defined at none of the sites. Or it is the only rule, and it is not defined at a site that
            the study names.
    """
    undefined: dict[str, tuple[str, ...]] = {}
    for family in spec.rules:
        reasons = _find_reasons(family, spec, ffns, sites)
        is_required = spec.sites is not None and len(spec.rules) == 1
        if reasons and (is_required or len(reasons) == len(sites)):
            raise SpecError(". ".join(dict.fromkeys(reasons.values())) + ".")
        for site, reason in reasons.items():
            log(f"site {site!r} is left out for the rule {family}: {reason}")
        if reasons:
            undefined[family] = tuple(reasons)
    return undefined


def _find_reasons(family: str, spec: StudySpec, ffns: FFNs, sites: Sequence[str]) -> Mapping[str, str]:
    """Return why a rule is not defined, by the sites where it is not."""
    rule = make_rule(family, find_rule_class(family).dense_value)
    reasons = {}
    for site in sites:
        for vector in list_vectors(select_owners(ffns, site, spec.layers), site):
            reason = undefined_reason(rule, vector)
            if reason is not None:
                reasons[site] = reason
                break
    return reasons
