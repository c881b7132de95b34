"""Hooks that apply a rule at a site of every FFN of a model and count the dropped entries.

`README.md` in this folder describes what the modules do in one forward pass.
"""

from sparsedial.hooks.sparsifier import Sparsifier, sparsify
from sparsedial.hooks.sparsifier_pause import pause_sparsifiers
from sparsedial.hooks.step_mask_reuse import MaskReuse
from sparsedial.hooks.step_overlap import KeptSetOverlap

__all__ = ["KeptSetOverlap", "MaskReuse", "Sparsifier", "pause_sparsifiers", "sparsify"]
