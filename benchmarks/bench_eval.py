"""lm-eval tasks: examples per second, dense and sparse, against lm-eval's own HFLM; parity with the paper's code.

    python -m benchmarks.bench_eval [--limit 300] [--device auto] [--peer DIR]

Printed first: HFLM at each batch size (the floor is its best), then ours; the last line is JSON, which is also
kept in benchmarks/results. With ``--peer``, a checkout of fszatkowski/activation-sparsity-benchmarking, its own
rule and counters run on the same requests, loaded from there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import sparsedial as sd
from benchmarks.environment import describe_machine, package_versions, save_result
from benchmarks.timing import time_call
from sparsedial.models.loading import LanguageModel, load_language_model
from sparsedial.models.sources import resolve_source
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.loader import TaskSelection, load_lm_eval_tasks
from sparsedial.tasks.lm_eval.options import LmEvalSettings
from sparsedial.tasks.lm_eval.task import LmEvalTask

HERE = Path(__file__).parent
Answers = list[tuple[float, bool]]


def main() -> None:
    """Run what was asked for, print it, keep it."""
    args = arguments()
    torch.manual_seed(0)
    settings = LmEvalSettings(include_path=args.include_path, limit=args.limit, batch_tokens=args.batch_tokens)
    tasks = load_lm_eval_tasks([TaskSelection(args.tasks.split(","), settings)])
    lm = load_language_model(resolve_source(args.model), device=args.device, dtype=args.dtype)
    result: dict[str, Any] = {
        "bench": "eval",
        "machine": describe_machine(),
        "versions": package_versions(),
        **vars(args),
    }
    result["peer"] = bool(args.peer)  # where it lies is nobody's business
    result["speed"] = speed(lm, tasks, args) if not args.parity_only else None
    if args.peer:
        result["parity"] = parity(lm, tasks, args)
    save_result(f"eval-{datetime.now(UTC):%Y%m%dT%H%M%S}", result)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tasks", default="arc_easy_local,piqa_local,lambada_local")
    parser.add_argument("--include-path", default="../shared/tasks")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--batch-sizes", type=lambda s: [int(n) for n in s.split(",")], default=[1, 8, 16, 32])
    parser.add_argument("--batch-tokens", type=int, default=4096, help="ours; more on a GPU")
    parser.add_argument("--repeats", type=int, default=1, help="the fastest counts, for a machine that is not idle")
    parser.add_argument("--p", type=float, default=0.9)
    parser.add_argument("--peer", help="a checkout of fszatkowski/activation-sparsity-benchmarking")
    parser.add_argument("--peer-batch", type=int, default=8)
    parser.add_argument("--parity-only", action="store_true")
    return parser.parse_args()


# ---------------------------------------------------------------------- speed


def speed(lm: LanguageModel, tasks: list[LmEvalTask], args: argparse.Namespace) -> dict[str, Any]:
    """Examples per second of everything, task by task in turn, so that a busy machine is busy for all of them."""
    peers = {f"HFLM, batch size {n}": n for n in args.batch_sizes}
    building, making = "building lm-eval's requests", "ours, making requests (built, in tokens)"
    dense, sparse = "ours, dense", f"ours, top-p {args.p} all_inputs"
    seconds = dict.fromkeys([building, *peers, making, dense, sparse], 0.0)
    total, same, apart = 0, 0, 0.0
    print(f"{lm.source.name} {lm.dtype} on {lm.device}, {args.limit} examples of each of {args.tasks}\n")
    for task in tasks:
        took: dict[str, list[float]] = {side: [] for side in seconds}
        for _ in range(args.repeats):
            instances = clock(partial(build, task), took[building])
            for side, size in peers.items():
                theirs = clock(partial(ask, hflm(lm, size), instances), took[side])
            examples = clock(partial(task.prepare, lm), took[making])
            scores = clock(partial(task.score, lm, examples), took[dense])
            with sd.sparsify(lm.model, "all_inputs", sd.TopP(args.p)) as sparsifier:
                clock(partial(task.score, lm, examples, sparsifier), took[sparse])
        for side, times in took.items():
            seconds[side] += min(times)
        ours = [a[0] for a in task.answer(lm, examples).responses]
        predicted = [predictions(examples, answers) for answers in (theirs, ours)]
        total, same = total + len(predicted[0]), same + int((predicted[0] == predicted[1]).sum())
        apart = max(apart, *(abs(a[0] - b[0]) for a, b in zip(theirs, ours, strict=True)))
        print(f"{task.name}: {scores.metric} {scores.mean:.4f}", flush=True)
    best = min(peers, key=lambda side: seconds[side])
    print(f"\n{'':42}{'seconds':>9}{'examples/s':>12}")
    for side, spent in seconds.items():
        print(f"{side:42}{spent:9.1f}{len(tasks) * args.limit / spent:12.2f}")
    ratios = {  # HFLM's time includes tokenizing, so ours does; ours includes building, so HFLM's does
        "dense_to_hflm": (seconds[building] + seconds[best]) / (seconds[making] + seconds[dense]),
        "sparse_to_dense": seconds[dense] / seconds[sparse],
        "same_predictions": same / total,
    }
    print(f"\ndense, requests included: {ratios['dense_to_hflm']:.2f} x the best HFLM ({best}); goal 1.5")
    print(f"sparse: {ratios['sparse_to_dense']:.2f} x dense; goal 0.8 on a CPU, 0.9 on a GPU")
    print(f"same predictions: {same} of {total} ({same / total:.2%}); goal 99.5%")
    print(f"log-likelihoods apart by at most {apart:.2g}\n")
    return {"seconds": seconds, "best_hflm": best, **ratios, "loglikelihood_apart": apart}


def hflm(lm: LanguageModel, batch_size: int) -> Any:
    """lm-eval's own model around ours."""
    with silence_lm_eval():
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)


def build(task: LmEvalTask) -> list[Any]:
    """The task's requests as lm-eval makes them."""
    with silence_lm_eval():
        task.lm_eval_task.build_all_requests(limit=task.settings.limit)
    return task.lm_eval_task.instances


def ask(model: Any, instances: list[Any]) -> Answers:
    """lm-eval's answers."""
    with silence_lm_eval(), torch.inference_mode():
        return model.loglikelihood(instances, disable_tqdm=True)


def predictions(examples: dict[str, Any], answers: Answers) -> np.ndarray:
    """Per example, the option chosen (or, with one continuation, whether it is the greedy one)."""
    by_doc: dict[int, Answers] = {}
    for request, answer in zip(examples["requests"], answers, strict=True):
        by_doc.setdefault(request["doc"], []).append(answer)
    return np.array([a[0][1] if len(a) == 1 else np.argmax([likely for likely, _ in a]) for a in by_doc.values()])


def clock(work: Callable[[], Any], took: list[float]) -> Any:
    """Return the result of ``work`` and append the seconds that it takes to ``took``."""
    results: list[Any] = []
    took.append(time_call(lambda: results.append(work())))
    return results[0]


# ---------------------------------------------------------------------- parity


def parity(lm: LanguageModel, tasks: list[LmEvalTask], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Sparsity and score of both sides on the same requests, at what the FFN's matrix products read.

    Ours twice: as it is, and with nothing shared, so that a context counts once per option, as the peer's does.
    """
    manager = peer_manager(Path(args.peer))
    rows = []
    print(f"peer's batch size {args.peer_batch}\n{'':24}{'sparsity':^32}{'score':^16}{'seconds':^16}")
    print(f"{'p':>6}{'task':>18}{'peer':>10}{'ours':>10}{'unshared':>12}{'peer':>8}{'ours':>8}{'peer':>8}{'ours':>8}")
    for p in (0.99, 0.95, 0.9, 0.8):
        for task in tasks:
            examples = task.prepare(lm)
            row = {"p": p, "task": task.name, **peer_side(lm, task, examples, p, args.peer_batch, manager)}
            for name, prepared in (("ours", examples), ("unshared", {**examples, "share_up_to": 0})):
                with sd.sparsify(lm.model, "all_inputs", sd.TopP(p)) as sparsifier:
                    scores = clock(partial(task.score, lm, prepared, sparsifier), took := [])
                row |= {
                    f"{name}_score": scores.mean,
                    f"{name}_sparsity": sparsifier.sparsity(),
                    f"{name}_seconds": took[0],
                }
            rows.append(row)
            print(
                f"{p:6}{task.name:>18}{row['peer_sparsity']:10.4f}{row['ours_sparsity']:10.4f}"
                f"{row['unshared_sparsity']:12.4f}{row['peer_score']:8.4f}{row['ours_score']:8.4f}"
                f"{row['peer_seconds']:8.1f}{row['ours_seconds']:8.1f}",
                flush=True,
            )
    theirs, ours = (sum(row[f"{side}_seconds"] for row in rows) for side in ("peer", "ours"))
    print(f"the peer takes {theirs / ours:.2f} x our time")
    return rows


def peer_manager(folder: Path) -> ModuleType:
    """The peer's rule and counters, from its files; its copy of lm-eval is left alone."""
    for name in ("sparsification_utils", "sparsification_manager"):
        file = next(iter(sorted(folder.rglob(f"lm_eval/{name}.py"))), None)
        if file is None:
            sys.exit(f"--peer {folder}: no lm_eval/{name}.py below it: expected a checkout of the peer's repository")
        spec = importlib.util.spec_from_file_location(f"lm_eval.{name}", file)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def peer_side(
    lm: LanguageModel, task: LmEvalTask, examples: dict[str, Any], p: float, batch_size: int, manager: ModuleType
) -> dict[str, float]:
    """lm-eval's HFLM with the peer's hooks, consolidated after every batch as the peer's HFLM does."""
    config = {
        "embedding_layer_name": "model.embed_tokens",
        "layers_to_sparsify": {"LAYER": f"0:{len(sd.find_ffns(lm.model)) - 1}"},
        "modules_to_sparsify": {"model.layers.LAYER.mlp": "input", "model.layers.LAYER.mlp.down_proj": "input"},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        peer = manager.SparsificationManager(str(path), folder, "topp", p)
    model = hflm(lm, batch_size)
    hooks = {m: set(m._forward_pre_hooks) for m in lm.model.modules()}
    call = model._model_call

    def counted(inputs: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
        logits = call(inputs, *rest, **named)
        ends = (inputs != model.tokenizer.pad_token_id).sum(-1).tolist()
        peer.consolidate_batch(batch_start_indices=[0] * len(inputs), batch_end_indices=ends)
        return logits

    model._model_call = counted
    peer.initialize(model)
    try:
        answers = clock(partial(ask, model, build(task)), took := [])
    finally:  # the peer never removes its hooks
        for module, before in hooks.items():
            for hook in set(module._forward_pre_hooks) - before:
                del module._forward_pre_hooks[hook]
    counts = [s for hook in peer.sparsity_hooks for s in hook.total_stats.prefill]
    sparsity = sum(s.sparse_counts for s in counts) / sum(s.total_counts for s in counts)
    judged = task.judge(examples, [[answer] for answer in answers])
    return {"peer_sparsity": sparsity, "peer_score": judged.mean, "peer_seconds": took[0]}


if __name__ == "__main__":
    main()
