"""Build the distributions, check them, install them into a fresh environment and run them there.

    python -m tools.distributions --torch torch==2.13.0

The files are in ``dist/`` afterwards. The environment is temporary and outside of the checkout, so that only what was
installed can be imported.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 2_000_000
ZOO_MODEL = "zoo:dense-0.4m"
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)[^)]*\)")
REQUIRED_FILES = (
    "sparsedial/py.typed",
    "sparsedial/analysis/references/paper.json",
    "sparsedial/study/cost/cards.json",
)
SMALL = ("--p", "0.9,0.5", "--sequences", "8", "--length", "8")

FEW_TRIALS = {"p": [0.9, 0.5], "sequences": 8, "length": 8}
"""Arguments of ``measure`` that keep the README's example short."""

README_SETTINGS = f"""
import functools
import sparsedial
sparsedial.measure = functools.partial(sparsedial.measure, **{FEW_TRIALS})
"""


def main() -> None:
    """Build, check, install and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", default="torch", help="Requirement of torch. It is installed first, by itself.")
    parser.add_argument("--only-build", action="store_true", help="Build and check the files, without installing them.")
    arguments = parser.parse_args()
    folder = ROOT / "dist"
    build(folder)
    wheels = check_files(folder)
    if not arguments.only_build:
        with tempfile.TemporaryDirectory() as temporary:
            check_installation(Path(temporary), wheels, arguments.torch)
    for path in sorted(folder.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")


def build(folder: Path) -> None:
    """Build a wheel and a source distribution of each package. The wheel is built from the source distribution.

    Args:
        folder: Receives the files. Its earlier content is deleted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for project in (ROOT, ROOT / "packages" / "zoo"):
        run([sys.executable, "-m", "build", "--outdir", str(folder), str(project)])


def check_files(folder: Path) -> list[Path]:
    """Check the metadata and the contents of the distributions.

    Args:
        folder: Directory of the files.

    Returns:
        The wheels of sparsedial and of the zoo.

    Raises:
        SystemExit: Something is wrong.
    """
    files = sorted(folder.iterdir())
    run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files)])
    # W002: models of the zoo may have equal configurations, and each needs its own.
    run([sys.executable, "-m", "check_wheel_contents", "--ignore", "W002", *map(str, folder.glob("*.whl"))])
    [wheel] = folder.glob("sparsedial-*.whl")
    [zoo_wheel] = folder.glob("sparsedial_zoo-*.whl")
    expect(wheel.stat().st_size < MAX_WHEEL_BYTES, f"{wheel.name}: larger than {MAX_WHEEL_BYTES} bytes")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata_name] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(metadata_name).decode()
    for name in REQUIRED_FILES:
        expect(name in names, f"{wheel.name}: {name} is missing")
    for field in ("Project-URL: ", "Classifier: ", "Keywords: ", "License-Expression: ", "Provides-Extra: eval"):
        expect(field in metadata, f"{wheel.name}: no {field.strip()} in its metadata")
    links = RELATIVE_LINK.findall(metadata)
    expect(not links, f"{wheel.name}: relative links in the description, which a package index cannot follow: {links}")
    for archive_path in folder.glob("*.tar.gz"):
        with tarfile.open(archive_path) as archive:
            unexpected = [name for name in archive.getnames() if "/tests/" in name or "/runs/" in name]
        expect(not unexpected, f"{archive_path.name}: unexpected files, such as {unexpected[:3]}")
    return [wheel, zoo_wheel]


def check_installation(folder: Path, wheels: Sequence[Path], torch: str) -> None:
    """Install the wheels into a fresh environment and use them as the README says.

    Args:
        folder: An empty directory outside of the checkout.
        wheels: The wheels of sparsedial and of the zoo.
        torch: Requirement of torch.

    Raises:
        SystemExit: Something does not work.
    """
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", str(ROOT / "constraints.txt")]
    run([*pip, torch])
    run([*pip, *map(str, wheels)])
    command = [str(python), "-m", "sparsedial"]
    run([*command, "--version"], folder)
    run([*command, "inspect", ZOO_MODEL], folder)
    run([*command, "run", ZOO_MODEL, "--site", "input,intermediate", *SMALL, "--out", "light"], folder)
    expect((folder / "light" / "critical.csv").is_file(), "a run without extras wrote no tables")
    expect(
        not (folder / "light" / "report.html").exists(), "the extra for reports is installed without being asked for"
    )
    for extra, arguments in {
        "eval": ["run", ZOO_MODEL, "--tasks", "arc_easy"],
        "report": ["report", "light"],
        "gguf": ["run", "model.gguf"],
        "ray": ["study", "study.yaml", "--workers", "ray"],
    }.items():
        (folder / "model.gguf").write_bytes(b"GGUF")
        (folder / "study.yaml").write_text(f"models: [{ZOO_MODEL}]\nvalues: [0.9]\n")
        check_missing_extra([*command, *arguments], folder, extra)
    run([*pip, f"{wheels[0]}[report]"])
    run([*command, "report", "light"], folder)
    expect((folder / "light" / "report.html").is_file(), "the report was not written")
    run([str(python), "-c", README_SETTINGS + read_example()], folder)
    expect((folder / "report.html").is_file(), "the README's example wrote no report")


def check_missing_extra(command: Sequence[str], folder: Path, extra: str) -> None:
    """Check that a command ends with code 2 and names the line that installs an extra.

    Args:
        command: A command that needs the extra.
        folder: Directory in which it is run.
        extra: Name of the extra, which is not installed.

    Raises:
        SystemExit: It does not.
    """
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    line = f"pip install 'sparsedial[{extra}]'"
    expect(process.returncode == 2 and line in process.stderr, f"{extra}: {process.returncode}, {process.stderr}")


def read_example() -> str:
    """Return the Python lines of the README, for a model of the zoo."""
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return textwrap.dedent(example).replace("smollm2-135m", ZOO_MODEL)


def run(command: Sequence[str], folder: Path | None = None) -> None:
    """Run a command, print its duration, and end if it fails.

    Args:
        command: The command.
        folder: Its working directory. Defaults to this process's.
    """
    print("+", " ".join(command).replace(str(ROOT), "."), flush=True)
    start = time.monotonic()
    status = subprocess.run(command, cwd=folder).returncode
    print(f"  {time.monotonic() - start:.1f} s", flush=True)
    expect(status == 0, f"exit code {status}: {command}")


def expect(condition: bool, problem: str) -> None:
    """End with a message if a condition does not hold.

    Args:
        condition: What has to be true.
        problem: The message.

    Raises:
        SystemExit: The condition does not hold.
    """
    if not condition:
        raise SystemExit(f"distributions: {problem}")


if __name__ == "__main__":
    main()
