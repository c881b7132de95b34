"""Hooks that are registered on a model."""


def count_hooks(model):
    """Return the number of forward hooks and forward pre-hooks of all modules."""
    count = 0
    for module in model.modules():
        count += len(module._forward_hooks)
        count += len(module._forward_pre_hooks)
        count += len(module._forward_hooks_always_called)
    return count
