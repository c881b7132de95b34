"""The command line: words in, tables and files out, errors without a traceback."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sparsedial.errors import SparsedialError, SpecError
from sparsedial.ffn import SITES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Argument(help="A hub id, a directory of safetensors, a .gguf file, or a short name.")]
Modules = Annotated[
    list[str] | None, typer.Option("--ffn", help="Name FFN projections by hand: up=PATTERN, gate=..., down=...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or spread (over all devices).")]
DType = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Let code that comes with the model run.")]


@app.command()
def inspect(
    model: Model, ffn: Modules = None, device: Device = "auto", dtype: DType = "auto", trust_remote_code: Trust = False
) -> None:
    """Print the FFNs of a model: what there is to sparsify, and at which sites."""
    from sparsedial.ffn import find_ffns, skippable
    from sparsedial.models import load_model
    from sparsedial.sources import check_model, find_model

    named = _modules(ffn)
    check_model(model)
    source = find_model(model, trust_remote_code=trust_remote_code, say=_say)
    lm = load_model(source, device=device, dtype=dtype)
    ffns = find_ffns(lm.model, modules=named)
    table = Table(title=f"{escape(model)}: {lm.parameters / 1e6:.1f} M parameters, {len(ffns)} FFNs")
    for column in ("layer", "module", "kind", "D", "F", "projections", "sites"):
        table.add_column(column, justify="right" if column in ("layer", "D", "F") else "left")
    for f in ffns:
        kind = "plain" if not f.gated else "gated, fused" if len(f.readers) == 1 else "gated"
        names = ", ".join(f"{role} {name.removeprefix(f.name + '.')}" for role, name in f.names.items())
        sites = ", ".join(s for s in SITES if f.why_not(s) is None)
        table.add_row(str(f.layer), escape(f.name), kind, str(f.hidden), str(f.width), escape(names), sites)
    out.print(table)
    for name, reason in ffns.not_understood.items():
        out.print(f"[yellow]not understood:[/] {escape(name)}: {escape(reason)}")
    if len(ffns):
        shares = {s: sum(skippable(ffns[0], s).values()) for s in SITES if ffns[0].why_not(s) is None}
        out.print("One dropped entry's share of the FFN's multiplications: "
                  + ", ".join(f"{s} {share:.0%}" for s, share in shares.items()))  # fmt: skip


@app.command()
def run(
    model: Model,
    site: Annotated[list[str] | None, typer.Option(help="input, up, gate, intermediate, all_inputs; repeat.")] = None,
    rule: Annotated[str, typer.Option(help="top_p, top_k or max_p.")] = "top_p",
    p: Annotated[list[str] | None, typer.Option(help="Dial values, by commas; default: a search.")] = None,
    tasks: Annotated[str, typer.Option(help="self_prediction, lm-eval's, paper, paper-instruct.")] = "self_prediction",
    include_path: Annotated[
        Path | None, typer.Option("--include-path", "--include-dir", help="Further lm-eval task files.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each lm-eval task.")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Few-shot examples, where a task takes them.")] = None,
    apply_chat_template: Annotated[bool, typer.Option("--apply-chat-template", help="The model's own.")] = False,
    metric: Annotated[list[str] | None, typer.Option(help="TASK=METRIC instead of the paper's choice.")] = None,
    sequences: Annotated[int, typer.Option(help="Self-prediction: sequences sampled.")] = 64,
    length: Annotated[int, typer.Option(help="Self-prediction: tokens sampled in each.")] = 96,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    batch: Annotated[int, typer.Option(help="Sequences in a forward.")] = 8,
    layers: Annotated[str | None, typer.Option(help="Only these layers: 0,3,5-9.")] = None,
    retain: Annotated[float, typer.Option(help="The share of the dense score to keep.")] = 0.99,
    tolerance: Annotated[float, typer.Option(help="The search's: a fraction of sparsity.")] = 0.01,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: Trust = False,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Default: runs/<model>.")] = None,
) -> None:
    """Measure a model's critical sparsity, at every site, and write a report. Run again to go on where it stopped."""
    from sparsedial.study.run import run_study
    from sparsedial.study.spec import StudySpec
    from sparsedial.tasks import TaskOptions

    problems: list[str] = []
    spec = StudySpec(
        models=(model,),
        sites=tuple(dict.fromkeys(site)) if site else None,
        rule=rule,
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        options=TaskOptions(
            sequences=sequences, length=length, seed=seed, batch=batch, limit=limit, num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template, include_path=str(include_path) if include_path else None,
            metrics=_pairs(metric, "--metric", problems),
        ),
        values=None if p is None else _numbers(p, problems),
        tolerance=tolerance,
        retain=retain,
        layers=_layers(layers, problems),
        modules=_modules(ffn, problems),
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    name = Path(model).resolve().name if Path(model).exists() else model
    folder = out_dir or Path("runs") / (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "model")
    try:
        with _Screen() as screen:
            store = run_study(spec, folder, device=device, watcher=screen, problems=problems)
    except KeyboardInterrupt:
        _say("interrupted: finished trials are kept; run the same command again to go on")
        raise typer.Exit(130) from None
    _report(store.folder)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that `run` has written.")],
    retain: Annotated[float | None, typer.Option(help="Instead of the run's own.")] = None,
) -> None:
    """Write a run's report again, from its finished trials."""
    _report(folder, retain)


def main() -> None:
    """Run the command line: expected errors are printed without a traceback and exit with 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(standalone_mode=True)
    except SparsedialError as error:
        err.print(f"[red]error:[/] {escape(_printable(str(error)))}", soft_wrap=True)
        sys.exit(2)


def _report(folder: Path, retain: float | None = None) -> None:
    from sparsedial.report.page import write_report
    from sparsedial.report.table import critical_table
    from sparsedial.study.results import results
    from sparsedial.study.store import Store

    found = results(Store(folder), retain)
    page = write_report(found, folder)
    out.print(critical_table(found))
    for problem in found.problems:
        out.print(f"[yellow]problem:[/] {escape(_printable(problem))}")
    out.print(f"report: {escape(str(page))}", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


class _Screen:
    """Progress with time left, on stderr; plain lines where that is not a terminal."""

    def __init__(self) -> None:
        self.bars = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=err,
        )  # fmt: skip
        self.trials = self.bars.add_task("trials", total=None)
        self.now = self.bars.add_task("starting", total=None)
        self.last = ""

    def __enter__(self) -> _Screen:
        return self  # the bars appear with the first work: what is wrong with the words is said without them

    def __exit__(self, *_: object) -> None:
        if self.bars.live.is_started:
            self.bars.stop()

    def say(self, message: str) -> None:
        err.print(escape(_printable(message)), soft_wrap=True)

    def expect(self, done: float, of: float) -> None:
        self.bars.update(self.trials, completed=done, total=of)

    def work(self, what: str, done: int, of: int) -> None:
        if not err.is_terminal and what != self.last:
            err.print(escape(_printable(what)), soft_wrap=True)
        self.last = what
        self.bars.start()
        self.bars.update(self.now, description=escape(_printable(what)), completed=done, total=of)


def _say(message: str) -> None:
    err.print(escape(_printable(message)), soft_wrap=True)


def _printable(text: str) -> str:
    """Without control characters: a name cannot write to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _numbers(texts: list[str], problems: list[str]) -> tuple[float, ...]:
    values = []
    for text in (piece.strip() for joined in texts for piece in joined.split(",") if piece.strip()):
        try:
            values.append(float(text))
        except ValueError:
            problems.append(f"--p {text!r}: not a number; expected numbers in [0, 1]")
    return tuple(values)


def _layers(text: str | None, problems: list[str]) -> tuple[int, ...] | None:
    if text is None:
        return None
    chosen: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", piece)
        if not match:
            problems.append(f"--layers {text!r}: expected numbers and ranges, such as 0,3,5-9")
            return None
        if match[2] and int(match[2]) < int(match[1]):
            problems.append(f"--layers {text!r}: {piece.strip()!r} runs backwards")
            return None
        chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(sorted(set(chosen)))


def _pairs(texts: list[str] | None, option: str, problems: list[str]) -> dict[str, str] | None:
    if not texts:
        return None
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            problems.append(f"{option} {text!r}: expected NAME=VALUE")
        pairs[name] = value
    return pairs


def _modules(texts: list[str] | None, problems: list[str] | None = None) -> dict[str, str] | None:
    found: list[str] = [] if problems is None else problems
    pairs = _pairs(texts, "--ffn", found)
    if problems is None and found:
        raise SpecError(found[0])
    return pairs
