"""Packages that declare entry points: those of examples/plugins, and made-up ones."""

import shutil
import tomllib
from contextlib import contextmanager
from pathlib import Path

from sparsedial.ffn.sites import site_registry
from sparsedial.rules import RULES
from sparsedial.tasks.registry import task_registry

EXAMPLES = Path(__file__).parents[2] / "examples" / "plugins"


def install_example(name, folder):
    """Install an example as pip does, without its slowness: copy the package, and write its metadata."""
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text())
    [package] = project["tool"]["setuptools"]["packages"]
    shutil.copytree(EXAMPLES / name / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = project["project"]
    write_metadata(folder, metadata["name"], metadata["version"], metadata["entry-points"])


def write_metadata(folder, name, version, entry_points):
    """Write the metadata of an installed package, so that its entry points are found."""
    folder = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in entry_points.items():
        lines.append(f"[{group}]")
        lines += [f"{key} = {value}" for key, value in points.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))


@contextmanager
def registrations_undone():
    """Start with the built-in definitions only, and undo the registrations of the block at its end."""
    registries = (RULES, site_registry(), task_registry())
    saved = [dict(registry._registered) for registry in registries]
    for registry in registries:
        registry._registered.clear()
    try:
        yield
    finally:
        for registry, registered in zip(registries, saved, strict=True):
            registry._registered.clear()
            registry._registered.update(registered)
