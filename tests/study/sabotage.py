"""Makes a chosen trial kill its own process, hang or run out of memory, for real, in a worker that a test has started.

The orders are JSON lines in a file named by the environment variable SABOTAGE: ``what`` (kill, hang, nap, oom, nan),
``trial`` (its task, site and dial value begin so), ``when`` (before or after its commit), ``times``. Each strike is a
line in a file beside it.
"""

import json
import os
import signal
import time
from pathlib import Path


def install():
    """Patch this process's trials."""
    import torch

    from sparsedial.errors import NonFiniteError
    from sparsedial.study.store import Store
    from sparsedial.study.trial import Trial

    run, write = Trial.run, Store.write_trial

    def strike(when, words):
        path = Path(os.environ["SABOTAGE"])
        for number, line in enumerate(path.read_text().splitlines() if path.exists() else []):
            order = json.loads(line)
            struck = path.with_suffix(f".{number}")
            strikes = len(struck.read_text().splitlines()) if struck.exists() else 0
            if order["when"] != when or not words.startswith(order["trial"]) or strikes >= order["times"]:
                continue
            with struck.open("a") as file:
                file.write(f"{os.getpid()} {words}\n")
            if order["what"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif order["what"] in ("hang", "nap"):
                time.sleep(600 if order["what"] == "hang" else 3)
            else:
                raise {"oom": torch.OutOfMemoryError, "nan": NonFiniteError}[order["what"]]("sabotaged")

    def sabotaged_run(self, *args, **kwargs):
        strike("before", f"{self.task.name} {self.site} {self.rule.value if self.rule else ''}")
        return run(self, *args, **kwargs)

    def sabotaged_write(self, record, samples):
        write(self, record, samples)
        rule = record["identity"]["rule"]
        strike("after", f"{record['labels']['task']} {record['identity']['site']} {rule['value'] if rule else ''}")

    Trial.run, Store.write_trial = sabotaged_run, sabotaged_write


class Orders:
    """What a test orders, and what came of it."""

    def __init__(self, path):
        self.path = path

    def __call__(self, what, trial="self_prediction input 0.9", *, when="before", times=1):
        with self.path.open("a") as file:
            file.write(json.dumps({"what": what, "trial": trial, "when": when, "times": times}) + "\n")

    def strikes(self, number=0):
        """The process ids that were struck by an order."""
        struck = self.path.with_suffix(f".{number}")
        return [int(line.split()[0]) for line in struck.read_text().splitlines()] if struck.exists() else []

    def withdraw(self):
        """All orders, and their counts."""
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink()
