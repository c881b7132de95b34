"""The speed of forward passes and decode steps, dense and sparse, from which the dry run of a study estimates time.

    python -m benchmarks.bench_forward_cost [--save] [--seconds S] [--rows N]

It measures models with random weights in the shapes of `SHAPES` on the GPU, or on the CPU if there is none: a few
layers of each, without the output layer. A forward pass reads many tokens at once; its speed is stated in FLOP/s, with
two FLOPs per token and per parameter that processes it. A decode step continues many sequences by one token; its speed
is stated in bytes of weights per second. On a CPU with one thread, the time of the process counts. Printed: a table,
and the record as JSON in the last line. ``--save`` puts the record into ``src/sparsedial/study/cost/cards.json``, in
the place of an earlier one of the same device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import sparsedial as sd
from benchmarks.environment import describe_machine, package_versions
from benchmarks.timing import Call, synchronize
from sparsedial.cache_arguments import cache_argument, returned_cache
from sparsedial.models.device_memory import count_device_memory
from sparsedial.models.loading import DTYPES, pick_dtype
from sparsedial.study.cost.cards import CARDS_PATH, DENSE
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec

SITES = ("input", "up", "gate", "intermediate", "all_inputs")
P = 0.9
VOCABULARY = 1024
COMMAND = "python -m benchmarks.bench_forward_cost --save"
SHAPES: dict[str, list[dict[str, int]]] = {
    "cpu": [
        {"hidden": 64, "width": 192, "layers": 4, "heads": 2, "key_heads": 2},
        {"hidden": 128, "width": 352, "layers": 4, "heads": 4, "key_heads": 4},
        {"hidden": 576, "width": 1536, "layers": 4, "heads": 9, "key_heads": 3},
        {"hidden": 896, "width": 4864, "layers": 2, "heads": 14, "key_heads": 2},
        {"hidden": 128, "width": 176, "layers": 2, "heads": 4, "key_heads": 4, "experts": 8, "active": 2},
    ],
    "cuda": [
        {"hidden": 1024, "width": 3072, "layers": 8, "heads": 16, "key_heads": 8},
        {"hidden": 2048, "width": 8192, "layers": 8, "heads": 32, "key_heads": 8},
        {"hidden": 4096, "width": 14336, "layers": 4, "heads": 32, "key_heads": 8},
        {"hidden": 8192, "width": 28672, "layers": 2, "heads": 64, "key_heads": 8},
        {"hidden": 2048, "width": 1024, "layers": 2, "heads": 16, "key_heads": 16, "experts": 64, "active": 8},
        {"hidden": 2048, "width": 768, "layers": 2, "heads": 32, "key_heads": 4, "experts": 128, "active": 8},
    ],
}
"""Shapes of the zoo, SmolLM2-135M and Qwen2.5-0.5B on a CPU; of Qwen3-0.6B, Llama 1B, 8B and 70B, OLMoE and
Qwen3-30B-A3B on a GPU.
"""
ROWS = {"cpu": 8, "cuda": 64}
TOKENS = {"cpu": 128, "cuda": 512}
DECODE_CONTEXT = 128
MIN_TURNS = 3
CALLS = 4
"""Calls under one sparsifier. A trial makes more, so that attaching it costs less than here."""


def build_model(shape: Mapping[str, int], device: str, dtype: torch.dtype) -> Any:
    """Return a model of one shape with random weights."""
    settings: dict[str, Any] = {
        "hidden_size": shape["hidden"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["key_heads"],
        "vocab_size": VOCABULARY,
    }
    torch.manual_seed(0)
    with torch.device(device):
        if "experts" not in shape:
            model: nn.Module = LlamaForCausalLM(LlamaConfig(**settings, intermediate_size=shape["width"]))
        else:
            config = Qwen3MoeConfig(
                **settings,
                head_dim=shape["hidden"] // shape["heads"],
                num_experts=shape["experts"],
                num_experts_per_tok=shape["active"],
                moe_intermediate_size=shape["width"],
            )
            model = Qwen3MoeForCausalLM(config)
    return model.to(dtype).eval()


def count_layer_parameters(model: Any, shape: Mapping[str, int]) -> tuple[float, float]:
    """Return the parameters of a layer that process each token, and all parameters of a layer."""
    active = total = 0.0
    for name, parameter in model.model.layers[0].named_parameters():
        is_expert = "experts" in name.split(".")
        active += parameter.numel() * (shape["active"] / shape["experts"] if is_expert else 1.0)
        total += parameter.numel()
    return active, total


@torch.inference_mode()
def measure_shape(
    shape: Mapping[str, int], device: str, dtype: torch.dtype, rows: int, budget: float
) -> dict[str, Any]:
    """Return the record of one shape."""
    model = build_model(shape, device, dtype)
    ffns = sd.find_ffns(model)
    tokens = torch.randint(0, VOCABULARY, (rows, TOKENS[device]), device=device)
    active, total = count_layer_parameters(model, shape)

    def forward() -> None:
        model(input_ids=tokens, use_cache=False, logits_to_keep=1)

    cache = returned_cache(model(input_ids=tokens[:, :DECODE_CONTEXT], use_cache=True, logits_to_keep=1))

    def step() -> None:
        model(input_ids=tokens[:, :1], **{cache_argument(model.forward): cache}, use_cache=True, logits_to_keep=1)
        cache.crop(-1)

    record: dict[str, Any] = {**shape, "layer_parameters": active, "has_experts": "experts" in shape}
    seconds = {}
    for name, call in (("prefill", forward), ("decode", step)):
        medians = measure_medians(sites_in_turns(model, ffns, call), budget)
        seconds[name] = {site: value / CALLS for site, value in medians.items()}
    flops = 2 * active * shape["layers"] * tokens.numel()
    weight_bytes = total * shape["layers"] * dtype.itemsize
    record["prefill"] = {site: flops / value for site, value in seconds["prefill"].items()}
    record["decode"] = {site: weight_bytes / value for site, value in seconds["decode"].items()}
    record["seconds"] = seconds
    if device == "cuda":
        record["activation_bytes_per_token"] = peak_bytes(model, ffns, forward) / tokens.numel()
    return record


def read_clock() -> float:
    """Return the time of this process on a CPU with one thread, so that other work does not count, else that of day."""
    synchronize()
    if torch.cuda.is_available() or torch.get_num_threads() > 1:
        return time.perf_counter()
    return time.process_time()


def measure_medians(calls: Mapping[str, Call], budget: float) -> dict[str, float]:
    """Return the median seconds of each call, timed in turns after one untimed call of each."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    stop = time.perf_counter() + budget
    while len(times[DENSE]) < MIN_TURNS or time.perf_counter() < stop:
        for name, call in calls.items():
            start = read_clock()
            call()
            times[name].append(read_clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def sites_in_turns(model: Any, ffns: Any, call: Call) -> dict[str, Call]:
    """Return functions that make `CALLS` calls without a sparsifier, and with one at each site."""

    def run_sparse(site: str) -> None:
        with sd.sparsify(model, site=site, rule=sd.TopP(P), ffns=ffns) as sparsifier:
            for _ in range(CALLS):
                call()
            sparsifier.flush()

    def run_dense() -> None:
        for _ in range(CALLS):
            call()

    calls: dict[str, Call] = {DENSE: run_dense}
    for site in SITES:
        calls[site] = lambda site=site: run_sparse(site)
    return calls


def peak_bytes(model: Any, ffns: Any, forward: Call) -> int:
    """Return the memory of the GPU that a sparse forward pass needs beside the weights."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with sd.sparsify(model, site="all_inputs", rule=sd.TopP(P), ffns=ffns):
        forward()
    return torch.cuda.max_memory_allocated() - before


def measure_trial_overhead(device: str) -> float:
    """Return the seconds of a trial with hardly any tokens: hooks, records and files."""
    values = [index / 50 for index in range(1, 41)]
    with TemporaryDirectory() as folder:
        spec = StudySpec(
            models=("zoo:dense-0.4m",),
            sites=("input",),
            values=tuple(values),
            task_options={"sequences": 1, "length": 2},
        )
        run_study(spec, Path(folder), device=device)
        start = read_clock()
        run_study(replace(spec, sites=("input", "intermediate")), Path(folder), device=device)
        return (read_clock() - start) / len(values)


def save_card(record: Mapping[str, Any]) -> None:
    """Put a record into the file of cards, in the place of an earlier one of the same device."""
    cards = json.loads(CARDS_PATH.read_text())["cards"] if CARDS_PATH.exists() else []
    cards = [card for card in cards if card["name"] != record["name"]]
    CARDS_PATH.write_text(json.dumps({"cards": [*cards, record]}, indent=1) + "\n")


def main() -> None:
    """Measure, print and, on request, save the record of this device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="put the record into the file of cards")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each shape and kind; default: 2")
    parser.add_argument("--rows", type=int, help="sequences per forward pass; default: as in a study")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype_name = pick_dtype("auto", torch.device(device))
    rows = options.rows or ROWS[device]
    machine = describe_machine()
    shapes = []
    for shape in SHAPES[device]:
        record = measure_shape(shape, device, DTYPES[dtype_name], rows, options.seconds)
        shapes.append(record)
        prefill = ", ".join(f"{site} {speed / 1e9:.0f}" for site, speed in record["prefill"].items())
        decode = ", ".join(f"{site} {speed / 1e9:.1f}" for site, speed in record["decode"].items())
        print(f"{shape}\n  prefill GFLOP/s: {prefill}\n  decode GB/s: {decode}", flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
    card = {
        "name": machine.get("gpu", machine["cpu"]),
        "device": device,
        "memory": count_device_memory(device),
        "dtype": dtype_name,
        "decode_rows": rows,
        "trial_seconds": measure_trial_overhead(device),
        "source": COMMAND,
        "conditions": machine | package_versions(),
        "shapes": shapes,
    }
    if options.save:
        save_card(card)
    print(json.dumps(card))


if __name__ == "__main__":
    main()
