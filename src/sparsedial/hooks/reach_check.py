"""Check that the forward passes of a model reached the feed-forward layers that are sparsified.

Code that does not call the modules of a layer, such as code that was compiled earlier, would leave the model dense.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set

from torch import nn

from sparsedial.hooks.count_table import CounterKey

MAX_LISTED_VECTORS = 6  # vectors that an error message names

COMPILED = (
    "was compiled before it was sparsified, and the compiled code does not call its modules. Compile it inside the "
    "`with` block, or call torch.compiler.reset() before it"
)
FAST_PATH = (
    "is a torch.nn.TransformerEncoderLayer, which ran its fused fast path instead of its modules. Turn it off: "
    "torch.backends.mha.set_fastpath_enabled(False)"
)
REPLICA = (
    "is a replica made by torch.nn.DataParallel, whose modules are not sparsified. Use one process per device, with "
    "DistributedDataParallel, or sparsify the model of a single device"
)
NOT_EXECUTED = (
    "was not executed by this model, or by code that does not call its modules (such as a fused kernel). Leave out "
    "its layer with layers=, or turn the fused code off"
)
NOTHING_RAN = "No forward pass of the model was counted: run the model inside the `with` block."


def describe_unreached(keys: Sequence[CounterKey], reached: Set[int], model: nn.Module, has_run: bool) -> str | None:
    """Return a message if a vector should have been reached and was not, otherwise None.

    Experts to which no token was routed are not missing. Neither are layers that the model skipped, if it executed
    others of the same kind and nothing suggests that the layer ran without its modules.

    Args:
        keys: Description of each counter.
        reached: Indices of the counters that were reached.
        model: The model.
        has_run: True if a forward pass of the model has ended.

    Returns:
        The names of the vectors and the reason.
    """
    causes: dict[str, str] = {}
    for key, is_partial in _list_unreached(keys, reached):
        cause = find_bypass(model, key.module)
        if cause is None and not is_partial:
            cause = NOT_EXECUTED
        if cause is not None:
            causes[f"{key.moe_path or key.module} ({key.vector})"] = cause
    if not causes:
        return None
    names = list(causes)
    listed = ", ".join(names[:MAX_LISTED_VECTORS])
    if len(names) > MAX_LISTED_VECTORS:
        listed += f" and {len(names) - MAX_LISTED_VECTORS} more"
    if not has_run and not reached:
        return f"These vectors were never reached: {listed}. {NOTHING_RAN}"
    return f"These vectors were never reached: {listed}. The model is dense there. The first one {causes[names[0]]}."


def _list_unreached(keys: Sequence[CounterKey], reached: Set[int]) -> Iterator[tuple[CounterKey, bool]]:
    """Yield the counters that were not reached, and whether other layers of the same kind were reached."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[re.sub(r"\d+", "*", key.moe_path or key.module), key.vector].append(index)
    for indices in groups.values():
        is_partial = not reached.isdisjoint(indices)
        reached_experts = {keys[index].moe_path for index in indices if index in reached}
        for index in indices:
            is_idle_expert = keys[index].moe_path is not None and keys[index].moe_path in reached_experts
            if index not in reached and not is_idle_expert:
                yield keys[index], is_partial


def find_bypass(model: nn.Module, path: str) -> str | None:
    """Return the reason why a module may have run without calling the modules inside it, as a clause.

    Args:
        model: The model.
        path: Path of the module in the model.

    Returns:
        The reason, or None if there is no sign of one.
    """
    for module in list_ancestors(model, path):
        if is_compiled(module):
            return COMPILED
        if isinstance(module, nn.TransformerEncoderLayer):
            return FAST_PATH
        if getattr(module, "_is_replica", False):
            return REPLICA
    return None


def is_compiled(module: nn.Module) -> bool:
    """Return True if torch.compile was applied to a module, to its forward or to a wrapper around it.

    Args:
        module: The module.
    """
    if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
        return True
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")


def list_ancestors(model: nn.Module, path: str) -> list[nn.Module]:
    """Return the model and the modules on a path inside it, outermost first.

    Args:
        model: The model.
        path: Path of a module. It may continue below the last module, as the name of an expert does.
    """
    modules = [model]
    module: nn.Module = model
    for name in path.split("."):
        child = module._modules.get(name)
        if child is None:
            break
        modules.append(child)
        module = child
    return modules
