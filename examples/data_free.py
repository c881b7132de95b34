"""Does a threshold that is calibrated on one task fit another one? On texts, without lm-eval.

    python examples/data_free.py smollm2-135m texts --out data-free-smollm2

The folder has two files for each task, with one JSON object with the key ``text`` per line: ``NAME.jsonl`` is scored,
and ``NAME.calibration.jsonl`` calibrates the rules. They should have no example in common. Each task scores the share
of the tokens of a text that are the model's arg max. The study with the questions of lm-eval is data-free.yaml.
"""

from __future__ import annotations

import argparse
from dataclasses import make_dataclass
from pathlib import Path

import sparsedial as sd
from sparsedial.tasks.next_token import NextToken

CALIBRATION = "calibration"


def register_texts(path: Path, name: str, limit: int | None) -> str:
    """Register the task that scores the first texts of one file, or all of them, and return its name."""
    fields = [("text", str, str(path)), ("limit", int | None, limit)]
    sd.register_task(make_dataclass(f"Texts_{name}", fields, bases=(NextToken,), namespace={"name": name}, frozen=True))
    return name


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="Model: a hub ID, a directory, a GGUF file, a short name or zoo:NAME.")
    parser.add_argument("texts", type=Path, help="Folder with the texts.")
    parser.add_argument("--out", type=Path, required=True, help="Directory of the study.")
    parser.add_argument("--sites", default="intermediate,input", help="Sites, separated by commas.")
    parser.add_argument("--limit", type=int, default=64, help="Texts of each task that are scored. Default: 64.")
    parser.add_argument("--length", type=int, default=64, help="Tokens of each text. Default: 64.")
    parser.add_argument("--device", default="auto", help="Device. Default: auto.")
    parser.add_argument("--dtype", default="float32", help="Data type. Default: float32.")
    arguments = parser.parse_args()

    tasks = []
    calibrations = ["samples"]
    for path in sorted(arguments.texts.glob("*.jsonl")):
        name, _, kind = path.stem.partition(".")
        if kind == CALIBRATION:
            calibrations.append(register_texts(path, f"{name}_{CALIBRATION}", None))
        else:
            tasks.append(register_texts(path, name, arguments.limit))
    thresholds = [f"threshold(data={data})" for data in calibrations]
    tail_errors = [f"cett(data={data})" for data in calibrations]
    sd.measure(
        arguments.model,
        sites=arguments.sites.split(","),
        tasks=tasks,
        rule=["top_p", "weighted_top_k", *thresholds, *tail_errors],
        out=arguments.out,
        device=arguments.device,
        dtype=arguments.dtype,
        length=arguments.length,
    )


if __name__ == "__main__":
    main()
