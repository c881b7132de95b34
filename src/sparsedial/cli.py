"""The command line: words in, tables and files out, errors without a traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sparsedial.errors import SparsedialError, SpecError, StoreError
from sparsedial.ffn import SITES
from sparsedial.screen import Screen, err, out, printable, say

if TYPE_CHECKING:
    from sparsedial.study.executors import Workers
    from sparsedial.study.spec import StudySpec

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Model = Annotated[
    str, typer.Argument(help="A hub id, a directory of safetensors, a .gguf file, a short name, zoo:NAME.")
]
Modules = Annotated[
    list[str] | None, typer.Option("--ffn", help="Name FFN projections by hand: up=PATTERN, gate=..., down=...")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, or spread (over all devices).")]
DType = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, float64.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Let code that comes with the model run.")]

Kind = Annotated[str | None, typer.Option(help="causal, masked-diffusion or block-diffusion; default: found out.")]
Mask = Annotated[int | None, typer.Option(help="The id a diffusion model fills in, where it does not say.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try again what has failed for good.")]


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
    source = find_model(model, trust_remote_code=trust_remote_code, say=say)
    lm = load_model(source, device=device, dtype=dtype)
    ffns = find_ffns(lm.model, modules=named)
    table = Table(title=f"{escape(model)}: {lm.parameters / 1e6:.1f} M parameters, {len(ffns)} FFNs")
    for column in ("layer", "module", "kind", "D", "F", "projections", "sites"):
        table.add_column(column, justify="right" if column in ("layer", "D", "F") else "left")
    experts = Counter((f.layer, f.mixture) for f in ffns if f.mixture)
    for f in ffns:
        if f.mixture and f.expert:
            continue  # all of a mixture are alike: one line for them
        name = f"{f.mixture} × {experts[f.layer, f.mixture]}" if f.mixture else f.name
        kind = "plain" if not f.gated else "gated, fused" if len(f.readers) == 1 else "gated"
        names = ", ".join(f"{role} {path.removeprefix(f'{f.mixture or f.name}.')}" for role, path in f.names.items())
        sites = ", ".join(s for s in SITES if f.why_not(s) is None)
        table.add_row(str(f.layer), escape(name), kind, str(f.hidden), str(f.width), escape(names), sites)
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
    tasks: Annotated[
        str,
        typer.Option(help="self_prediction, next_token, masked_token, denoising, lm-eval's, paper, paper-instruct."),
    ] = "self_prediction",
    include_path: Annotated[
        Path | None, typer.Option("--include-path", "--include-dir", help="Further lm-eval task files.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Examples of each lm-eval task; documents of next_token.")] = None,
    text: Annotated[str | None, typer.Option(help="next_token: documents, one a line (.jsonl: with text).")] = None,
    num_fewshot: Annotated[int | None, typer.Option(help="Few-shot examples, where a task takes them.")] = None,
    apply_chat_template: Annotated[bool, typer.Option("--apply-chat-template", help="The model's own.")] = False,
    metric: Annotated[list[str] | None, typer.Option(help="TASK=METRIC instead of the paper's choice.")] = None,
    sequences: Annotated[int, typer.Option(help="Self-prediction: sequences sampled.")] = 64,
    length: Annotated[int, typer.Option(help="Self-prediction: tokens sampled in each.")] = 96,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn; default: 0, in lm-eval's tasks 1234.")] = None,
    batch: Annotated[int, typer.Option(help="Sequences in a forward.")] = 8,
    diffusion_steps: Annotated[int | None, typer.Option(help="Denoising: steps; default: a token a step.")] = None,
    block_length: Annotated[int | None, typer.Option(help="Denoising: tokens of a block; default: all.")] = None,
    remasking: Annotated[str | None, typer.Option(help="Denoising: low_confidence or random.")] = None,
    temperature: Annotated[float, typer.Option(help="Denoising: 0 for the arg max.")] = 0.0,
    guidance: Annotated[float, typer.Option(help="Denoising: weight of classifier-free guidance.")] = 0.0,
    mc_samples: Annotated[int, typer.Option(help="Of a diffusion model's log-likelihood.")] = 128,
    fraction: Annotated[float, typer.Option(help="Of tokens that restoration and masked_token mask.")] = 0.5,
    reuse_mask: Annotated[int, typer.Option(help="Denoising: choose kept sets only every k-th step.")] = 1,
    layers: Annotated[str | None, typer.Option(help="Only these layers: 0,3,5-9.")] = None,
    retain: Annotated[float, typer.Option(help="The share of the dense score to keep.")] = 0.99,
    tolerance: Annotated[float, typer.Option(help="The search's: a fraction of sparsity.")] = 0.01,
    ffn: Modules = None,
    device: Device = "auto",
    dtype: DType = "auto",
    trust_remote_code: Trust = False,
    kind: Kind = None,
    mask_token: Mask = None,
    retry_failed: Retry = False,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Default: runs/<model>.")] = None,
) -> None:
    """Measure a model's critical sparsity, at every site, and write a report. Run again to go on where it stopped."""
    from sparsedial.study.run import LOCAL
    from sparsedial.study.spec import StudySpec
    from sparsedial.tasks import TaskOptions

    problems: list[str] = []
    spec = StudySpec(
        models=(model,),
        sites=tuple(dict.fromkeys(site)) if site else None,
        rules=(rule,),
        tasks=tuple(name.strip() for name in tasks.split(",") if name.strip()),
        options=TaskOptions(
            sequences=sequences, length=length, seed=seed, batch=batch, limit=limit, text=text, num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template, include_path=str(include_path) if include_path else None,
            metrics=_pairs(metric, "--metric", problems), diffusion_steps=diffusion_steps, block_length=block_length,
            remasking=remasking, temperature=temperature, guidance=guidance, mc_samples=mc_samples, fraction=fraction,
            reuse_mask=reuse_mask,
        ),
        values=None if p is None else _numbers(p, problems),
        tolerance=tolerance,
        retain=retain,
        layers=_layers(layers, problems),
        modules=_modules(ffn, problems),
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        kind=kind,
        mask_token=mask_token,
    )  # fmt: skip
    name = Path(model).resolve().name if Path(model).exists() else model
    _go(spec, out_dir or _folder(name), device, LOCAL, retry_failed=retry_failed, problems=problems)


@app.command()
def study(
    spec_file: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to run: see docs/studies.md.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="Default: runs/<name of the spec>.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the trials and the time; run none.")] = False,
    device: Device = "auto",
    workers: Annotated[str, typer.Option(help="local (this process) or ray.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="Of a Ray cluster; default: this machine.")] = None,
    num_workers: Annotated[int | None, typer.Option(help="Default: as many as there is room for.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="Default: 1 where there are GPUs.")] = None,
    cpus_per_worker: Annotated[float, typer.Option(help="Slots, and threads, of each worker.")] = 1.0,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one trial; then its worker is killed.")] = None,
    retry_failed: Retry = False,
) -> None:
    """Run a study of many models, sites, rules and tasks, and write a report. Run again to go on or to extend it."""
    from sparsedial.study.executors import Workers
    from sparsedial.study.spec import StudySpec

    spec = StudySpec.from_yaml(spec_file)
    folder = out_dir or _folder(spec_file.stem)
    where = Workers(workers, timeout, ray_address, num_workers, gpus_per_worker, cpus_per_worker)
    if dry_run:
        _preview(spec, folder, device, where.problems())
    else:
        _go(spec, folder, device, where, retry_failed=retry_failed)


@app.command()
def fsck(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's directory.")]) -> None:
    """Say what is missing, failed, corrupt, conflicting, invalid or stray in a study. Exits with 1 if anything is."""
    from sparsedial.study.fsck import KINDS
    from sparsedial.study.fsck import fsck as check
    from sparsedial.study.store import Store

    if not folder.is_dir():
        raise StoreError(f"{folder}: no such directory. Expected one that a run has written.")
    problems = check(Store(folder))
    for kind in dict.fromkeys(problem.kind for problem in problems):
        found = [problem for problem in problems if problem.kind == kind]
        out.print(f"[yellow]{kind}[/] ({len(found)}): {KINDS[kind]}")
        for problem in found:
            out.print(f"  {escape(printable(problem.text))}", soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    out.print("no problems")


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories that runs have written.")],
    out_dir: Annotated[Path | None, typer.Option("--out", help="Default: DIR itself; of several: runs/joined.")] = None,
    retain: Annotated[float | None, typer.Option(help="Instead of the runs' own.")] = None,
) -> None:
    """Write the report of a run again, or one of several runs joined, from their finished trials."""
    _report(folders, out_dir, retain)


def main() -> None:
    """Run the command line: expected errors are printed without a traceback and exit with 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(standalone_mode=True)
    except SparsedialError as error:
        err.print(f"[red]error:[/] {escape(printable(str(error)))}", soft_wrap=True)
        sys.exit(2)


def _report(folders: list[Path], out_dir: Path | None = None, retain: float | None = None) -> None:
    from sparsedial.report.page import write_report
    from sparsedial.report.table import critical_table
    from sparsedial.study.results import results
    from sparsedial.study.store import Store

    found = results([Store(folder) for folder in folders], retain)
    page = write_report(found, out_dir or (folders[0] if len(folders) == 1 else Path("runs") / "joined"))
    out.print(critical_table(found))
    for kind, colour, said in (("note", "cyan", found.notes), ("problem", "yellow", found.problems)):
        for line in said:
            out.print(f"[{colour}]{kind}:[/] {escape(printable(line))}", soft_wrap=True)
    out.print(f"report: {escape(str(page))}", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, with another exit code."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _go(
    spec: StudySpec, folder: Path, device: str, workers: Workers, *, retry_failed: bool, problems: Sequence[str] = ()
) -> None:
    """Run a study and write its report; exit with 1 where something of it is missing or wrong."""
    from sparsedial.study.fsck import fsck as check
    from sparsedial.study.run import run_study

    signal.signal(signal.SIGTERM, _terminate)
    try:
        with Screen() as screen:
            store = run_study(
                spec, folder, device=device, watcher=screen, problems=problems, workers=workers,
                retry_failed=retry_failed,
            )  # fmt: skip
    except KeyboardInterrupt as stopped:
        say("interrupted: finished trials are kept; run the same command again to go on")
        raise typer.Exit(143 if isinstance(stopped, _Terminated) else 130) from None
    _report([store.folder])
    if wrong := [problem for problem in check(store) if problem.kind != "stray"]:
        say(f"{len(wrong)} problem(s): sparsedial fsck {store.folder}")
        raise typer.Exit(1)


def _preview(spec: StudySpec, folder: Path, device: str, problems: Sequence[str]) -> None:
    from sparsedial.study.fsck import check_study
    from sparsedial.study.preview import preview
    from sparsedial.study.store import Store

    check_study(folder)
    tasks = spec.check(device, problems)
    found = preview(spec, {task.name: task.identity() for task in tasks}, Store(folder))
    for job in found.jobs:
        out.print(escape(printable(str(job))), soft_wrap=True)
    search = f", then at most {found.further} more as the search asks for them" if found.further else ""
    out.print(f"{found.finished} trials finished, {len(found.jobs)} to run{search}")
    for model in found.unknown:
        sites = "its sites as in the spec" if spec.sites else "all five sites assumed"
        out.print(f"not loaded yet: {escape(printable(model))}: {sites}", soft_wrap=True)
    if found.seconds is None:
        out.print("time: none of these models and tasks has a finished trial here to go by")
        return
    low, high = found.seconds
    most = f" to {_duration(high)}" if found.further else ""
    out.print(f"time: {_duration(low)}{most} on one worker like the last")
    for model, task in found.untimed:
        out.print(f"time: without {escape(printable(f'{model}, {task}'))}: no finished trial to go by", soft_wrap=True)


def _duration(seconds: float) -> str:
    size, unit = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / size:.{int(unit == 'h')}f} {unit}"


def _folder(name: str) -> Path:
    return Path("runs") / (re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "model")


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
