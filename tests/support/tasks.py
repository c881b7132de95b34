"""Tasks created by name, as studies create them."""

from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec


def make_task(name, **options):
    """Return the only task of that name, with these options."""
    [task] = make_tasks([TaskSpec(name, options)])
    return task
