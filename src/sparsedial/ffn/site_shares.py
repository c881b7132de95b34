"""Share of a model that a runtime can skip at most, for each site and for all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparsedial.ffn.feed_forward import SITES, FFNs, VectorOwner
from sparsedial.ffn.projection_input import OUTER_SITES
from sparsedial.ffn.sites import find_site, skippable_mac_share

ALL_SITES = "all_inputs and all others"
"""Name of the row for all sites together. `all_inputs` includes all that can be skipped in the FFNs."""


@dataclass(frozen=True)
class SiteShare:
    """Shares that can be skipped if all entries of a site are dropped.

    Attributes:
        site: Name of the site.
        vectors: Number of vectors per token that are sparsified. Each expert counts.
        mac_share: Share of the multiply-accumulates of the FFNs, or of the projections that read the vector. None for
            all sites together.
        skippable_weights: Share of all weights that the model reads per token. None if it is unknown.
    """

    site: str
    vectors: int
    mac_share: float | None
    skippable_weights: float | None


def list_site_shares(ffns: FFNs) -> list[SiteShare]:
    """Return the shares of all built-in sites that a model has, and of all of them together.

    Args:
        ffns: The FFNs of the model.

    Returns:
        One entry per site. The last one is that of all sites together, if there are sites in and outside of the FFNs.
    """
    shares = []
    for site in SITES:
        if ffns and all(find_site(site).unsupported_reason(ffn) is None for ffn in ffns):
            shares.append(_site_share(ffns, site, ffns))
    has_ffn_sites = bool(shares)
    for site in OUTER_SITES:
        vectors = ffns.outer.at_site(site)
        if vectors:
            shares.append(_site_share(ffns, site, vectors))
    if has_ffn_sites and ffns.outer.inputs:
        shares.append(_add_shares(shares))
    return shares


def _add_shares(shares: Sequence[SiteShare]) -> SiteShare:
    """Return the sum over the sites whose vectors are multiplied by different matrices."""
    vectors = 0
    weights: float | None = 0.0
    for share in shares:
        if share.site != "all_inputs" and share.site not in OUTER_SITES:
            continue
        vectors += share.vectors
        if weights is None or share.skippable_weights is None:
            weights = None
        else:
            weights += share.skippable_weights
    return SiteShare(ALL_SITES, vectors, None, weights)


def weight_share(owners: Iterable[VectorOwner], weights_per_token: int) -> float | None:
    """Return the share of the weights that a model reads per token that belongs to FFNs or other projections.

    Args:
        owners: The FFNs, or the projections outside of the FFNs.
        weights_per_token: Number of weights that the model reads per token.

    Returns:
        The share between 0 and 1. None if the share of the tokens that an expert reads is unknown.
    """
    weights = 0.0
    for owner in owners:
        if owner.active_fraction is None:
            return None
        weights += owner.active_fraction * sum(owner.macs)
    return min(1.0, weights / weights_per_token)


def _site_share(ffns: FFNs, site: str, owners: Sequence[VectorOwner]) -> SiteShare:
    skippable = 0.0
    total = 0.0
    for owner in owners:
        macs = float(sum(owner.macs))
        if owner.active_fraction is not None:
            macs *= owner.active_fraction
        skippable += macs * sum(skippable_mac_share(owner, site).values())
        total += macs
    skippable_weights = None
    if ffns.weights_per_token is not None:
        skippable_weights = weight_share(owners, ffns.weights_per_token)
    if skippable_weights is not None:
        skippable_weights *= skippable / total
    return SiteShare(site, len(owners) * len(find_site(site).vector_names), skippable / total, skippable_weights)
