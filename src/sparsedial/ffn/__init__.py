"""Discovery of the feed-forward networks (FFNs) of a model, and description of their projections and sites."""

from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFN, SITES, FFNs
from sparsedial.ffn.projection_input import OUTER_SITES, ProjectionInput
from sparsedial.ffn.sites import ModuleVector, Site, check_site, register_site, skippable_mac_share

__all__ = [
    "FFN",
    "FFNs",
    "OUTER_SITES",
    "SITES",
    "ModuleVector",
    "ProjectionInput",
    "Site",
    "check_site",
    "find_ffns",
    "register_site",
    "skippable_mac_share",
]
