"""Small trained models for sparsedial: weights, one tokenizer and held-out documents, as data files.

`sparsedial` finds them here when a model is named ``zoo:NAME``.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
__version__ = "0.1.0"
