"""Run every study of the paper on tiny models and local tasks, and write one report of all of them.

    python -m tools.paper_rehearsal [--out DIR] [--study NAME ...] [--processes N]

The studies are those of ``examples/paper``; `substitution` lists what stands for what. Each study is run by the
command line, as a user would run the original, and the last command makes one report of all studies.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparsedial.study.spec import StudySpec
from tools.paper_rehearsal.substitution import paper_studies, substitute
from tools.paper_rehearsal.tiny_models import build_models

ROOT = Path(__file__).parents[2]
DEFAULT_FOLDER = Path("runs/paper-rehearsal")


def rehearse(folder: Path, studies: Sequence[Path], processes: int) -> int:
    """Run studies and their common report.

    Args:
        folder: Where models, studies and the report are written. It is emptied.
        studies: Study files of the paper.
        processes: Number of studies that run at the same time.

    Returns:
        0 if every command has ended with 0, otherwise 1.
    """
    shutil.rmtree(folder, ignore_errors=True)
    specs = {path.stem: substitute(StudySpec.from_yaml(path), folder / "models") for path in studies}
    names = dict.fromkeys(model for spec in specs.values() for model in spec.models if not model.startswith("zoo:"))
    build_models([Path(name).name for name in names], folder / "models")
    (folder / "specs").mkdir(parents=True)
    commands = {}
    for name, spec in specs.items():
        file = folder / "specs" / f"{name}.yaml"
        file.write_text(json.dumps(spec.to_json(), indent=1))  # JSON is YAML
        commands[name] = ["study", str(file), "--out", str(folder / name)]
    with ThreadPoolExecutor(processes) as pool:
        longest_first = sorted(specs, key=lambda name: -len(specs[name].models) * len(specs[name].tasks))
        codes = list(pool.map(run_command, [commands[name] for name in longest_first]))
    report = ["report", *(str(folder / name) for name in commands), "--out", str(folder / "report")]
    codes.append(run_command(report, shown=True))
    return int(any(codes))


def run_command(arguments: Sequence[str], shown: bool = False) -> int:
    """Run one command of sparsedial.

    Args:
        arguments: Words after ``sparsedial``.
        shown: True if its output is printed in any case. Otherwise, it is printed if the command fails. Default: False.

    Returns:
        The exit code.
    """
    start = time.perf_counter()
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # tiny models do not use a second thread well
        "HF_ALLOW_CODE_EVAL": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "sparsedial", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if shown or result.returncode:
        print(result.stdout + result.stderr)
    seconds = time.perf_counter() - start
    print(f"{seconds:6.1f} s  exit code {result.returncode}: sparsedial {' '.join(arguments)}", flush=True)
    return result.returncode


def main() -> int:
    """Run the rehearsal with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER, help=f"default: {DEFAULT_FOLDER}")
    parser.add_argument("--study", action="append", help="name of a study file; repeatable; default: all of them")
    parser.add_argument("--processes", type=int, default=2, help="studies that run at the same time; default: 2")
    options = parser.parse_args()
    studies = [path for path in paper_studies() if not options.study or path.stem in options.study]
    return rehearse(options.out, studies, options.processes)


if __name__ == "__main__":
    sys.exit(main())
