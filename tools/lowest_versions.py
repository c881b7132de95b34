"""The lowest versions that pyproject.toml declares, as constraints for pip.

python -m tools.lowest_versions > constraints-lowest.txt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
TESTED_EXTRAS = ("eval", "report", "gguf", "ray")


def lowest_versions(project: Path = PROJECT) -> dict[str, str]:
    """Return the lowest version of each dependency.

    Args:
        project: Path of the ``pyproject.toml``.

    Returns:
        Versions by name of the distribution: those of the dependencies and of all extras for users.

    Raises:
        ValueError: A requirement declares no lowest version.
    """
    settings = tomllib.loads(project.read_text())["project"]
    requirements = list(settings["dependencies"])
    for extra in TESTED_EXTRAS:
        requirements += settings["optional-dependencies"][extra]
    versions = {}
    for requirement in requirements:
        match = re.match(r"([\w-]+)>=([\w.]+)", requirement)
        if match is None:
            raise ValueError(f"{project}: {requirement!r} declares no lowest version: expected NAME>=VERSION")
        versions[match[1]] = match[2]
    return versions


if __name__ == "__main__":
    for name, version in lowest_versions().items():
        print(f"{name}=={version}")
