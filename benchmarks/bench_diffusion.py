"""A masked diffusion model beside an autoregressive one of its size and data: critical sparsity, Jaccard, reuse.

    python -m benchmarks.bench_diffusion [--sequences 768] [--documents 384] [--samples 8] [--replayed 32]

Tables first; the last line is JSON, which is also kept in benchmarks/results, with the figures' data.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

import sparsedial as sd
from benchmarks.environment import package_versions, save_result
from sparsedial.curves.critical import critical_sparsity
from sparsedial.curves.curve import make_curve
from sparsedial.curves.paired_scores import pair_scores, retention_intervals
from sparsedial.hooks.sparsifier import Sparsifier
from sparsedial.hooks.step_mask_reuse import MaskReuse
from sparsedial.hooks.step_overlap import KeptSetOverlap
from sparsedial.inference.backend_factory import make_backend
from sparsedial.inference.denoising_config import LOW_CONFIDENCE, RANDOM, DenoisingConfig
from sparsedial.inference.diffusion_options import DiffusionOptions
from sparsedial.inference.prefix_tree import Window
from sparsedial.inference.run_context import Progress, RunContext, ignore_progress
from sparsedial.models.kind import CAUSAL
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.parameter_count import format_parameter_count
from sparsedial.models.sources import resolve_source
from sparsedial.study.adaptive_search import MAX_POINTS, next_step
from sparsedial.tasks.base import Scores, Task
from sparsedial.tasks.denoising_replay import DenoisingReplay
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction

HERE = Path(__file__).parent
SITES = ("intermediate", "all_inputs")


def main() -> None:
    """Run everything, print it, keep it."""
    args = arguments()
    began = time.time()
    if args.threads:
        torch.set_num_threads(args.threads)
    models = [
        load_language_model(resolve_source(name), device=args.device, dtype=args.dtype)
        for name in args.models.split(",")
    ]
    result: dict[str, Any] = {
        "bench": "diffusion",
        **vars(args),
        "versions": package_versions(),
        "device": str(models[0].device),
    }
    if args.critical:
        result["critical"] = json.loads(Path(args.critical).read_text())["critical"]
    else:
        result["critical"] = [row for lm in models for row in critical(lm, args)]
    result["along"] = [row for lm in models if lm.kind != CAUSAL for row in along(lm, args, result["critical"])]
    result["seconds"] = round(time.time() - began)
    save_result(f"diffusion-{datetime.now(UTC):%Y%m%dT%H%M%S}", rounded(result))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="zoo:dense-1.3m,zoo:diffusion-1.3m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--sequences", type=int, default=768, help="of self-prediction")
    parser.add_argument("--sampled-in", type=int, default=24, help="steps, those of a diffusion model")
    parser.add_argument("--documents", type=int, default=384, help="held out")
    parser.add_argument("--samples", type=int, default=8, help="Monte Carlo, of each document's likelihood")
    parser.add_argument("--replayed", type=int, default=32, help="sequences whose denoising is gone through again")
    parser.add_argument(
        "--steps", type=int, nargs="*", default=[96, 24, 6], help="of denoising 96 tokens in random order"
    )
    parser.add_argument("--surest", type=int, nargs="*", default=[24], help="the same, the surest tokens first")
    parser.add_argument("--critical", help="a kept result whose critical sparsities are taken, not measured again")
    parser.add_argument("--reuse", type=int, nargs="*", default=[2, 4, 8])
    parser.add_argument("--tolerance", type=float, default=0.02)
    return parser.parse_args()


# ---------------------------------------------------------------------- critical sparsity


def critical(lm: LanguageModel, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of every task and site, by the search that `sparsedial run` uses."""
    text = (None, args.documents)
    tasks: list[Any] = [
        SelfPrediction(args.sequences)
        if lm.kind == CAUSAL
        else Restoration(args.sequences, diffusion_steps=args.sampled_in),
        NextToken(*text) if lm.kind == CAUSAL else MaskedToken(*text),
        Likelihood(args.documents, args.samples),
    ]
    print(
        f"\n{lm.source.name}, {lm.kind}, {format_parameter_count(lm.parameters)} parameters, {lm.dtype} on {lm.device}"
    )
    print(f"{'task':16}{'site':14}{'dense':>7}{'critical':>10}{'95% interval':>18}{'p':>7}{'points':>8}{'s':>6}")
    rows = []
    for task in tasks:
        began = time.time()
        examples = task.prepare(lm)
        dense = task.score(lm, examples)
        print(f"{task.name:16}{'dense':14}{dense.mean:7.4f}{'':43}{time.time() - began:6.0f}", flush=True)
        for site in SITES:
            began, points, found = time.time(), [], None
            while (rule := next_step("top_p", found, 0.99, args.tolerance, MAX_POINTS).rule) is not None:
                p = rule.value
                sparsity, scores = measure(lm, site, p, task, examples)
                points.append((sparsity, scores.values, p))
                found = make_curve(points, dense=dense.values)
            assert found is not None
            c = critical_sparsity(found)
            high = f"{c.high:.3f}{'+' if c.high_censored else ''}"
            print(
                f"{task.name:16}{site:14}{dense.mean:7.4f}{c.center:10.3f}{f'[{c.low:.3f}, {high}]':>18}{c.p or 0:7.3f}"
                f"{len(points):8}{time.time() - began:6.0f}",
                flush=True,
            )
            rows.append(
                {
                    "model": lm.source.name,
                    "task": task.name,
                    "site": site,
                    "dense": dense.mean,
                    "examples": len(dense.values),
                    "critical": c.value,
                    "low": c.low,
                    "high": c.high,
                    "open": c.high_censored,
                    "status": c.status,
                    "p": c.p,
                    "points": [(s, float(v.mean()), p) for s, v, p in points],
                }
            )
    return rows


def measure(lm: LanguageModel, site: str, p: float, task: Task, examples: dict[str, Any]) -> tuple[float, Scores]:
    """Sparsity and scores at one dial value."""
    with sd.sparsify(lm.model, site, sd.TopP(p)) as sparsifier:
        scores = task.score(lm, examples, sparsifier)
    return sparsifier.sparsity(), scores


@dataclass(frozen=True)
class Likelihood:
    """How likely is what comes next in a held-out document? Per token, exp(log-likelihood / tokens), for any kind."""

    name: ClassVar[str] = "likelihood"

    documents: int = 256
    samples: int = 8
    context: int = 32
    length: int = 24

    def prepare(self, lm: LanguageModel, progress: Progress = ignore_progress) -> dict[str, Any]:
        """``{"tokens": [...]}``: the first tokens of every document."""
        rows = [row[: self.context + self.length] for row in NextToken(length=96).tokenize(lm)]
        return {"tokens": [row for row in rows if len(row) == self.context + self.length][: self.documents]}

    def score(
        self,
        lm: LanguageModel,
        examples: dict[str, Any],
        sparsifier: Sparsifier | None = None,
        progress: Progress = ignore_progress,
    ) -> Scores:
        """Per document, the geometric mean of its tokens' probabilities."""
        groups = [[Window(row[: self.context], row[self.context :])] for row in examples["tokens"]]
        backend = make_backend(lm, DiffusionOptions(mc_samples=self.samples))
        scores = backend.loglikelihoods(
            groups, max_length=256, max_shared_length=0, need_greedy=False, run=RunContext(sparsifier)
        )
        return Scores("per_token", np.exp([score.loglikelihood / self.length for [score] in scores]))


# ---------------------------------------------------------------------- along the steps


def along(lm: LanguageModel, args: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sparsity and Jaccard index by step, at the critical p of self-prediction; and what reusing masks costs."""
    found = []
    mine = [r for r in rows if r["model"] == lm.source.name and r["task"] == Restoration.name]
    chosen = {r["site"]: r["p"] or 0.95 for r in mine}
    orders = [(steps, RANDOM) for steps in args.steps] + [(steps, LOW_CONFIDENCE) for steps in args.surest]
    for steps, remasking in orders:
        how = DenoisingConfig(steps=steps, remasking=remasking, temperature=1.0)
        examples = DenoisingReplay(args.replayed, config=how).prepare(lm)
        dense = DenoisingReplay(args.replayed, config=how).score(lm, examples)
        for site in SITES:
            p = chosen[site]
            for k in (1, *args.reuse):
                task = DenoisingReplay(args.replayed, config=how, reuse_mask=k)
                sparsity, scores, overlap = measure_along_steps(lm, site, p, task, examples)
                retention = scores.mean / dense.mean
                paired = pair_scores(make_curve([(sparsity, scores.values, p)], dense=dense.values))
                assert paired is not None
                low, high = (float(end[0]) for end in retention_intervals(paired))
                row = {
                    "model": lm.source.name,
                    "site": site,
                    "p": p,
                    "steps": steps,
                    "remasking": remasking,
                    "reuse_mask": k,
                }
                row |= {"dense": dense.mean, "retention": retention, "low": low, "high": high, "sparsity": sparsity}
                if k == 1:
                    row |= by_step(overlap.table()) | {"kept": overlap.usage()}
                found.append(row)
                print(
                    f"\n{lm.source.name} {site} p={p:.3f}, {steps} steps, {remasking}, masks chosen every {k}: "
                    f"sparsity {sparsity:.3f}, retention {retention:.4f} [{low:.4f}, {high:.4f}]",
                    flush=True,
                )
                if k == 1:
                    show(row)
    return found


def measure_along_steps(
    lm: LanguageModel, site: str, p: float, task: DenoisingReplay, examples: dict[str, Any]
) -> tuple[float, Scores, KeptSetOverlap]:
    """Return sparsity, scores, and the overlap of kept sets, which are reused as the task asks."""
    with sd.sparsify(lm.model, site, sd.TopP(p)) as sparsifier:
        if task.reuse_mask > 1:
            MaskReuse(task.reuse_mask).attach(sparsifier)
        overlap = KeptSetOverlap(sparsifier)
        scores = task.score(lm, examples, sparsifier)
    return sparsifier.sparsity(), scores, overlap


def by_step(table: pd.DataFrame) -> dict[str, Any]:
    """Means over layers and vectors of every step, of all tokens and by their state; and of every layer over steps."""

    def means(rows: pd.DataFrame) -> dict[str, float | None]:
        seen = rows["compared"].sum()
        overlap = {
            name: float((rows[name] * rows["compared"]).sum() / seen) if seen else None
            for name in ("overlap_previous", "overlap_first")
        }
        return {"sparsity": float(rows["dropped"].sum() / rows["total"].sum()), **overlap}

    steps = [{"step": int(s), **means(rows)} for s, rows in table.groupby("step")]
    states = [{"step": int(s), "state": t, **means(rows)} for (s, t), rows in table.groupby(["step", "state"])]
    layers = [
        {"layer": int(layer), "vector": site, **means(rows)}
        for (layer, site), rows in table.groupby(["layer", "vector"])
    ]
    grid = [
        {"layer": int(layer), "vector": site, "step": int(s), **means(rows)}
        for (layer, site, s), rows in table.groupby(["layer", "vector", "step"])
    ]
    return {"all": means(table), "by_step": steps, "by_state": states, "by_layer": layers, "heat": grid}


def show(row: dict[str, Any]) -> None:
    """The curves, at nine steps."""
    steps = row["by_step"]
    shown = sorted({round(i * (len(steps) - 1) / 8) for i in range(9)})
    states = {(s["step"], s["state"]): s for s in row["by_state"]}
    print(f"{'step':>6}{'sparsity':>10}{'consecutive':>13}{'drift':>8}{'masked:':>14} sparsity, consecutive; revealed")
    for i in shown:
        each = [states.get((i, state)) for state in ("masked", "revealed")]
        text = "".join(_state_columns(state) for state in each)
        one = steps[i]
        overlap = [
            one[name] if one[name] is not None else float("nan") for name in ("overlap_previous", "overlap_first")
        ]
        print(f"{i:6}{one['sparsity']:10.3f}{overlap[0]:13.3f}{overlap[1]:8.3f}{text}")
    for layer in row["by_layer"]:
        print(
            f"layer {layer['layer']} {layer['vector']}: sparsity {layer['sparsity']:.3f}, consecutive "
            f"{layer['overlap_previous']:.3f}, drift {layer['overlap_first']:.3f}"
        )


def _state_columns(state: dict[str, Any] | None) -> str:
    """Return sparsity and overlap of the tokens in one state, or blanks if there are none."""
    if state is None:
        return " " * 30
    overlap = float("nan") if state["overlap_previous"] is None else state["overlap_previous"]
    return f"{'':14}{state['sparsity']:8.3f}{overlap:8.3f}"


def rounded(value: Any) -> Any:
    """Every number to five digits."""
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
