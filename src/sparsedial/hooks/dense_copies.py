"""Copies of a sparsified model, which are dense.

`copy.deepcopy`, `pickle` and `torch.save` ask a module for its state with ``__reduce_ex__``. While a sparsifier is
attached, each module with a hook or patch has an attribute of that name that leaves them out. The module itself is not
changed, so other threads may use it while it is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from sparsedial.hooks.finished_rows import GeneratePatch
from sparsedial.moe.config_proxy import ConfigProxy

PACKAGE = "sparsedial."
REDUCE = "__reduce_ex__"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_HOOK_PROPERTIES = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


class DenseCopies:
    """Makes copies of the modules of a model dense, until `remove` is called.

    Args:
        model: The model, with all its hooks and patches.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [module for module in model.modules() if _is_changed(module)]
        for module in self._modules:
            vars(module)[REDUCE] = partial(_reduce, module)

    def remove(self) -> None:
        """Restore the modules without a hook or patch. Others belong to another sparsifier, which does it later."""
        for module in self._modules:
            if not _is_changed(module):
                vars(module).pop(REDUCE, None)


def _reduce(module: nn.Module, protocol: Any) -> Any:
    """Return what ``__reduce_ex__`` of the module's class returns, without hooks and patches in the state."""
    reduced: Any = type(module).__reduce_ex__(module, protocol)
    if len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    return (*reduced[:2], _remove_changes(reduced[2]), *reduced[3:])


def _is_changed(module: nn.Module) -> bool:
    """Return True if this package attached a hook or patch to a module."""
    state = vars(module)
    hooks = [*state["_forward_pre_hooks"].values(), *state["_forward_hooks"].values()]
    return any(map(_is_patch, state.values())) or any(map(_is_own_function, hooks))


def _remove_changes(state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that a module would have without hooks and patches of this package."""
    removed = {REDUCE}
    restored: dict[str, Any] = {}
    for name, value in state.items():
        if not _is_patch(value):
            continue
        original = _find_original(name, value)
        if original is None:
            removed.add(name)
        else:
            restored[name] = original
    restored.update(_list_foreign_hooks(state))
    clean = {**state, **restored}
    for name in removed:
        clean.pop(name, None)
    return clean


def _list_foreign_hooks(state: dict[str, Any]) -> dict[str, Any]:
    """Return the dictionaries of a module's hooks without those of this package."""
    foreign: dict[str, Any] = {name: type(state[name])() for name in (*_HOOKS, *_HOOK_PROPERTIES)}
    keys = set()
    for name in _HOOKS:
        for key, hook in state[name].items():
            if not _is_own_function(hook):
                foreign[name][key] = hook
                keys.add(key)
    for name in _HOOK_PROPERTIES:
        for key in keys & state[name].keys():
            foreign[name][key] = state[name][key]
    return foreign


def _is_patch(value: object) -> bool:
    """Return True if an attribute of a module is a method or a proxy of this package that replaced the original."""
    return isinstance(value, ConfigProxy) or (isinstance(value, MethodType) and _is_own_function(value))


def _find_original(name: str, patch: Any) -> Any:
    """Return the attribute that a patch, and those under it, replaced. None if the class defines it."""
    for original in _walk_originals(name, patch):
        if not _is_patch(original):
            return original
    return None


def _walk_originals(name: str, patch: Any) -> Iterator[Any]:
    while patch is not None and _is_patch(patch):
        if isinstance(patch, ConfigProxy):
            patch = patch.config
        elif isinstance(patch.__self__, GeneratePatch):
            patch = patch.__self__.instance_attributes.get(name)
        else:
            patch = getattr(patch.__self__, "instance_forward", None)
        yield patch


def _is_own_function(function: Any) -> bool:
    """Return True if a hook or method is defined in this package and is not a method of a module."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(getattr(function, "__self__", None), nn.Module):
        return False
    return (getattr(function, "__module__", None) or "").startswith(PACKAGE)
