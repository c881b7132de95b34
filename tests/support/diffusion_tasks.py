"""Small tasks for diffusion models."""

import json

from sparsedial.tasks.registry import task_option_names
from tests.support.tasks import make_task

SMALL = {"sequences": 6, "length": 12, "batch": 4, "limit": 6}


def make_small_task(name, **options):
    """Return a task with few and short examples."""
    small = {option: value for option, value in SMALL.items() if option in task_option_names(name)}
    return make_task(name, **{**small, **options})


def prepare_from_disk(task, lm):
    """Return the examples of a task after a round trip through JSON, as a resumed run reads them."""
    return json.loads(json.dumps(task.prepare(lm)))
