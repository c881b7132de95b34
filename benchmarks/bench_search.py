"""The adaptive search against the paper's grid of 26 values: the same answer, from how many evaluations?

    python -m benchmarks.bench_search [--model smollm2-135m] [--tasks self_prediction] [--sequences 64] [--out DIR]

Both are run for real, on the same examples, in one directory; run again to go on. The same answer means: no further
apart than the search promises, which is one point of sparsity, or half of its own 95% interval if that is wider. Then
the search once more without the mercy of the interval: on the grid's measured curve, drawn through by straight lines,
down to one point. The last line is JSON, also kept in benchmarks/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environment import save_result
from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import Curve, average_at_each_p, make_curve
from sparsedial.rules import make_rule
from sparsedial.study.adaptive_search import MAX_POINTS, next_step
from sparsedial.study.curve_from_trials import measured_curve
from sparsedial.study.curve_progress import CurveKey
from sparsedial.study.integrity import read_planner
from sparsedial.study.job import Job
from sparsedial.study.planner import Planner
from sparsedial.study.progress_listener import NullListener
from sparsedial.study.provenance import collect_provenance
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec
from sparsedial.study.store import Store
from sparsedial.tasks.spec import TaskSpec

HERE = Path(__file__).parent
# 1.00, .995 ... .97 by .005, .96 ... .90 by .01, .85 ... .60 by .05, .5 ... .0 by .1
GRID = (1.0, 0.995, 0.99, 0.985, 0.98, 0.975, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.90,
        0.85, 0.80, 0.75, 0.70, 0.65, 0.60, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)  # fmt: skip


def main() -> None:
    """Run both, compare them site by site, print it, keep it."""
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        spec = StudySpec(
            models=(args.model,),
            tasks=tuple(map(TaskSpec, args.tasks.split(","))),
            task_options={
                name: getattr(args, name)
                for name in ("sequences", "length", "batch", "limit", "include_path")
                if getattr(args, name) is not None
            },
            tolerance=args.tolerance,
            dtype=args.dtype,
        )  # fmt: skip
        listener = Lines()
        run_study(spec, folder, device=args.device, listener=listener)
        searched = read_planner(Store(folder))
        run_study(dataclasses.replace(spec, values=GRID), folder, device=args.device, listener=listener)
        rows = [compare(searched, site, args.tolerance) for site in searched.resolved_models[args.model].sites]
    print(f"{'site':13s} {'grid':>22s} {'search':>22s} {'evaluations':>12s} {'apart':>7s} {'allowed':>8s}  same")
    for row in rows:
        print(
            f"{row['site']:13s} {interval(row['grid']):>22s} {interval(row['search']):>22s} "
            f"{len(GRID):3d} vs {row['evaluations']:2d}    {row['apart']:7.2%} {row['allowed']:8.2%}  {row['same']}"
        )
    print("without the interval, on the grid's curve:")
    for row in rows:
        strict = row["strict"]
        print(f"{row['site']:13s} {strict['evaluations']:2d} evaluations, {strict['apart']:6.2%} apart")
    fewer = len(GRID) * len(rows) / sum(row["evaluations"] for row in rows)
    worst = len(GRID) / max(row["evaluations"] for row in rows)
    asked = {k: v for k, v in vars(args).items() if k not in ("out", "include_path", "name")}
    provenance = collect_provenance().to_json()
    result: dict[str, Any] = {
        "bench": "search", "asked": asked, "grid": GRID, "sites": rows, "fewer_evaluations": round(fewer, 2),
        "fewer_at_worst": round(worst, 2), "all_same": all(row["same"] for row in rows), "made_by": provenance,
    }  # fmt: skip
    print(f"{fewer:.1f} times fewer evaluations ({worst:.1f} at worst); the same answer: {result['all_same']}")
    save_result(f"search-{args.name}", result)


def compare(plan: Planner, site: str, tolerance: float) -> dict[str, Any]:
    """One site: critical sparsity from the grid and from the points that the search chose."""
    (model,), (rule,) = plan.spec.models, plan.spec.rules
    values = [step.value for step in plan.curve_progress(CurveKey(model, site, rule)).rules]
    answers: dict[str, Any] = {}
    for name, chosen in (("grid", list(GRID)), ("search", values)):
        curves = []
        for task in plan.tasks:
            dense = plan.finished_trial(Job(model, task))
            found = [plan.finished_trial(Job(model, task, site, make_rule(rule, value))) for value in chosen]
            curves.append(measured_curve(plan.store, dense, found))
        average = average_at_each_p(curves)
        answers[name] = critical_sparsity(average, plan.spec.retain)
        if name == "grid":
            strict = replay(average, rule, plan.spec.retain, tolerance)
    grid, search = answers["grid"], answers["search"]
    apart = abs(grid.center - search.center)
    allowed = max(tolerance, (search.high - search.low) / 2)
    return {
        "site": site,
        **{name: {"value": a.center, "low": a.low, "high": a.high, "status": a.status} for name, a in answers.items()},
        "chosen": values,
        "evaluations": len(values),
        "apart": apart,
        "allowed": allowed,
        "same": bool(apart <= allowed),
        "strict": strict,
    }


def replay(measured: Curve, rule: str, retain: float, tolerance: float) -> dict[str, Any]:
    """The search on a curve that is known everywhere, without intervals."""
    order = np.argsort(measured.p)
    p, sparsity, retention = (values[order] for values in (measured.p, measured.sparsity, measured.retention))
    points: list[tuple[float, float, float]] = []
    while True:
        curve = make_curve(points, dense=1.0) if points else None
        step = next_step(rule, curve, retain, tolerance, MAX_POINTS).rule
        if step is None:
            break
        value = step.value
        points.append((float(np.interp(value, p, sparsity)), float(np.interp(value, p, retention)), value))
    truth = critical_sparsity(list(zip(sparsity, retention, p, strict=True)), retain, dense=1.0).center
    found = critical_sparsity(points, retain, dense=1.0).center
    return {
        "chosen": [v for _, _, v in points],
        "evaluations": len(points),
        "value": found,
        "apart": abs(found - truth),
    }


def interval(answer: dict[str, Any]) -> str:
    """A critical sparsity with its interval, in points."""
    return f"{answer['value']:.1%} ({answer['low']:.1%}-{answer['high']:.1%})"


class Lines(NullListener):
    """Prints what is being done, a line each."""

    def __init__(self) -> None:
        self.last = ""

    def set_current(self, description: str, finished: int, total: int) -> None:
        """Print the description of a new job."""
        if description != self.last:
            print(description, flush=True)
        self.last = description


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="self_prediction")
    parser.add_argument("--include-path")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, help="keep the trials here")
    parser.add_argument("--name", default="smollm2-135m", help="of the file in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
