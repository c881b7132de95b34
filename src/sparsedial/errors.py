"""Errors a user can act on: each message says what was seen, what was expected and what to do."""


class SparsedialError(Exception):
    """Base of every expected error; the command line prints it without a traceback and exits with 2."""


class SpecError(SparsedialError, ValueError):
    """A name, number or option that cannot be used: an unknown site, p outside [0, 1], an empty grid."""


class ModelError(SparsedialError):
    """A model that cannot be found, read, or understood (no FFN found, a site it does not have)."""


class AttachError(SparsedialError, RuntimeError):
    """A dial that cannot be attached (twice at one site) or whose hooks never fired."""


class NonFiniteError(SparsedialError, ArithmeticError):
    """A NaN or Inf was seen in a vector that a rule was to sparsify; the message names the layer."""


class TaskError(SparsedialError):
    """A task that cannot be had or that returned something unusable."""


class StoreError(SparsedialError, OSError):
    """A study directory that cannot be read or written; the message names the path."""
