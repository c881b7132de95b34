"""FFNs whose projections are named by the user."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.expression import OutputSlice
from sparsedial.ffn.projections import in_features, is_projection, out_features
from sparsedial.ffn.trace_matching import Match

NAMED_MODULES_HINT = (
    "To name the modules by hand: find_ffns(model, modules={'up': 'model.layers.*.mlp.up_proj', 'gate': ..., "
    "'down': ...}), or on the command line --ffn up=PATTERN --ffn down=PATTERN [--ffn gate=PATTERN]."
)


def match_by_patterns(model: nn.Module, patterns: Mapping[str, str]) -> list[Match]:
    """Return the FFNs whose projections match the user's patterns.

    The n-th FFN consists of the n-th projection that matches each pattern.

    Args:
        model: The model.
        patterns: Patterns of module paths for the roles "up", "down" and, if gated, "gate". ``*`` matches any text.

    Returns:
        The matches, in the order of the model's modules.

    Raises:
        SpecError: The roles are not "up", "down" and optionally "gate".
        ModelError: A pattern matches no projection, the patterns match different numbers of projections, or the
            projections of an FFN have incompatible shapes.
    """
    if not {"up", "down"} <= set(patterns) <= {"up", "down", "gate"}:
        raise SpecError(f"modules={dict(patterns)!r}: expected patterns for 'up', 'down' and, if gated, 'gate'")
    projections = {path: module for path, module in model.named_modules() if is_projection(module)}
    paths_by_role = {}
    results = []
    for role, pattern in patterns.items():
        paths = [path for path in projections if fnmatchcase(path, pattern)]
        paths_by_role[role] = paths
        results.append(f"{role}={pattern!r} matched {len(paths)}")
    counts = set(map(len, paths_by_role.values()))
    if len(counts) != 1 or 0 in counts:
        raise ModelError(f"modules=: {', '.join(results)}; expected the same number for each role, and at least one")

    matches = []
    for role_paths in zip(*paths_by_role.values(), strict=True):
        names = dict(zip(patterns, role_paths, strict=True))
        matches.append(_build_match(names, projections))
    return matches


def _build_match(names: Mapping[str, str], projections: Mapping[str, nn.Module]) -> Match:
    down = projections[names["down"]]
    width = in_features(down)
    slices = {}
    for role in names.keys() - {"down"}:
        module = projections[names[role]]
        if out_features(module) != width:
            raise ModelError(
                f"modules=: the projections {dict(names)} do not fit together: down reads {width} entries, "
                f"but {role} computes {out_features(module)}. Check the patterns."
            )
        slices[role] = OutputSlice(module, 0, 1, width)
    return Match(up=slices["up"], gate=slices.get("gate"), down=down, names=names)
