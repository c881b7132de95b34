"""Make a chosen trial kill its own process, hang, run out of memory or see NaN, for real.

It works in any process that a test starts and that calls `install`. The orders are JSON lines in the file that the
environment variable SABOTAGE names. Every time an order is carried out, a line is added to a file beside it.
"""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HANG_SECONDS = 600
NAP_SECONDS = 3


@dataclass(frozen=True)
class Order:
    """One fault.

    Attributes:
        fault: "kill", "hang", "help" (fork a helper that hangs, and wait for it), "nap", "oom" or "nan".
        trial: Beginning of the trial's task, site and value of p, separated by blanks.
        when: "before" the trial is run, or "after" it has been stored.
        times: Largest number of times that the order is carried out.
    """

    fault: str
    trial: str
    when: str
    times: int


def install():
    """Patch `Trial.run` and `Store.write_trial` in this process."""
    from sparsedial.study.store import Store
    from sparsedial.study.trial_evaluation import Trial

    run = Trial.run
    write_trial = Store.write_trial

    def sabotaged_run(self, *args, **kwargs):
        carry_out_orders("before", describe(self.task.name, self.site, self.rule))
        return run(self, *args, **kwargs)

    def sabotaged_write(self, record, samples, *labels):
        write_trial(self, record, samples, *labels)
        carry_out_orders("after", describe(record.task.name, record.identity.site, record.identity.rule))

    Trial.run = sabotaged_run
    Store.write_trial = sabotaged_write


def describe(task, site, rule):
    """Return a trial in words, such as "self_prediction input 0.9"."""
    value = "" if rule is None else rule.value
    return f"{task} {site} {value}"


def carry_out_orders(when, trial):
    """Carry out every order for this trial that is not used up."""
    path = Path(os.environ["SABOTAGE"])
    for number, order in enumerate(read_orders(path)):
        strikes = path.with_suffix(f".{number}")
        count = len(strikes.read_text().splitlines()) if strikes.exists() else 0
        if order.when != when or not trial.startswith(order.trial) or count >= order.times:
            continue
        with strikes.open("a") as file:
            file.write(f"{os.getpid()} {trial}\n")
        cause(order.fault)


def read_orders(path):
    """Return all orders of a file that need not exist."""
    if not path.exists():
        return []
    return [Order(**json.loads(line)) for line in path.read_text().splitlines()]


def cause(fault):
    """Kill this process, wait, or raise an error."""
    import torch

    from sparsedial.errors import NonFiniteError

    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hang":
        time.sleep(HANG_SECONDS)
    elif fault == "help":
        helper = multiprocessing.get_context("fork").Process(target=hang_as_helper)
        helper.start()
        helper.join()
    elif fault == "nap":
        time.sleep(NAP_SECONDS)
    elif fault == "oom":
        raise torch.OutOfMemoryError("sabotaged")
    elif fault == "nan":
        raise NonFiniteError("sabotaged")


def hang_as_helper():
    """Note the number of this process, and hang."""
    with Path(os.environ["SABOTAGE"]).with_suffix(".helpers").open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(HANG_SECONDS)


class Orders:
    """Writes orders, and tells which processes carried them out.

    Args:
        path: File of the orders.
    """

    def __init__(self, path):
        self.path = path

    def __call__(self, fault, trial="self_prediction input 0.9", *, when="before", times=1):
        """Add an order."""
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(Order(fault, trial, when, times))) + "\n")

    def strikes(self, number=0):
        """Return the process IDs in which an order was carried out."""
        path = self.path.with_suffix(f".{number}")
        if not path.exists():
            return []
        return [int(line.split()[0]) for line in path.read_text().splitlines()]

    def helpers(self):
        """Return the process IDs of the helpers that were forked."""
        path = self.path.with_suffix(".helpers")
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def withdraw(self):
        """Remove all orders and their counts."""
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink()
