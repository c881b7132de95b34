"""The environment variable that forbids all downloads."""

from __future__ import annotations

import os

OFFLINE_VARIABLE = "SPARSEDIAL_OFFLINE"
"""Forbids downloads from the model hub and from the package index. ``HF_HUB_OFFLINE`` applies to the hub only."""


def is_offline() -> bool:
    """Return True if `OFFLINE_VARIABLE` forbids downloads: if it is set to anything but an empty text or 0."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no", "off")


def set_hub_offline() -> None:
    """Set the variables of the hub and of the library for data sets if downloads are forbidden.

    They read their variables when they are imported, so this has to be called before.
    """
    if is_offline():
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"
