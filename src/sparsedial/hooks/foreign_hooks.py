"""Forward hooks that other code has registered on a module."""

from __future__ import annotations

from torch import nn

INERT_HOOKS = "transformers.utils.output_capturing"
"""Module whose hooks do nothing unless the caller asks for hidden states. They are never removed."""


def has_foreign_hooks(module: nn.Module) -> bool:
    """Return True if a module has a forward hook or pre-hook, other than those of transformers that do nothing.

    Args:
        module: The module. Those inside it are not looked at.
    """
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(getattr(hook, "__module__", None) != INERT_HOOKS for hook in hooks)
