"""Measure what `import sparsedial` adds to `import torch, transformers`.

    python -m benchmarks.bench_import

Each import runs in a process of its own, in turns, and the median counts. Processor time is stated beside wall time,
because it does not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

BASELINE = "import torch, transformers"
STATEMENTS = {
    "baseline": BASELINE,
    "import sparsedial": f"{BASELINE}, sparsedial",
    "names that a first script uses": f"{BASELINE}; from sparsedial import TopP, load_model, sparsify",
}


def measure_import(statement: str) -> tuple[float, float]:
    """Return the wall time and the processor time of a statement in a process of its own, in seconds.

    Args:
        statement: Python code.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median times of each statement, and their ratio to the baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="Number of measurements of each statement. Default: 9.")
    rounds = parser.parse_args().rounds
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STATEMENTS}
    for _ in range(rounds + 1):
        for name, statement in STATEMENTS.items():
            times[name].append(measure_import(statement))
    medians = {}
    for name, measured in times.items():
        walls, processors = zip(*measured[1:], strict=True)  # the first round fills the caches
        medians[name] = (statistics.median(walls), statistics.median(processors))
    for name, (wall, processor) in medians.items():
        ratios = [wall / medians["baseline"][0], processor / medians["baseline"][1]]
        print(f"{name}: {wall:.2f} s ({ratios[0]:.2f}), processor {processor:.2f} s ({ratios[1]:.2f})")


if __name__ == "__main__":
    main()
