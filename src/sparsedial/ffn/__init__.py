"""Discovery of the feed-forward networks (FFNs) of a model, and description of their projections and sites."""

from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFN, SITES, FFNs
from sparsedial.ffn.sites import ModuleVector, Site, check_site, register_site, skippable_mac_share

__all__ = [
    "FFN",
    "FFNs",
    "SITES",
    "ModuleVector",
    "Site",
    "check_site",
    "find_ffns",
    "register_site",
    "skippable_mac_share",
]
