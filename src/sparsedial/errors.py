"""Errors that a user can act on. Each message says what was seen, what was expected and what to do."""


class SparsedialError(Exception):
    """Base class of all expected errors. The command line prints them without a traceback and exits with status 2."""


class SpecError(SparsedialError, ValueError):
    """Error for a name, number or option that cannot be used, such as an unknown site or p outside [0, 1]."""


class ModelError(SparsedialError):
    """Error for a model that cannot be found or loaded, has no FFN, or does not have the requested site."""


class AttachError(SparsedialError, RuntimeError):
    """Error for a rule that cannot be attached, such as a second rule at a site, or that was never applied."""


class NonFiniteError(SparsedialError, ArithmeticError):
    """Error for a vector to be sparsified that contains NaN or Inf. The message names the layer."""


class TaskError(SparsedialError):
    """Error for a task that is not available or returned an invalid result."""


class TaskDataError(TaskError):
    """Error for tasks whose data cannot be loaded on this machine. Nothing else is wrong with them."""


class NonFiniteOutputError(NonFiniteError, TaskError):
    """Error for a model whose logits contain NaN or Inf. The message names the module in which they first appear."""


class StorageError(SparsedialError, OSError):
    """Error for a directory that cannot be read or written. The message names the path."""
