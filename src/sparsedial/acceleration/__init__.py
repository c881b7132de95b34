"""Acceleration of models: decode steps that skip the weights of dropped entries.

`README.md` in this folder describes the parts, and what a backend for another device has to provide.
"""

from sparsedial.acceleration.accelerated_model import AcceleratedModel, accelerate

__all__ = ["AcceleratedModel", "accelerate"]
