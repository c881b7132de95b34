"""The index of lm-eval's own tasks, made once instead of once for each folder of tasks: it takes seconds."""

from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from sparsedial.tasks.lm_eval import task_index


@contextmanager
def lm_eval_indexed_once():
    """Let all complete indexes of this process share the entries of lm-eval."""
    make_manager = task_index._complete_task_manager
    own_entries = {}

    def make_manager_of_shared_entries(include_path, state):
        from lm_eval.tasks import manager

        build = manager.TaskIndex.build
        own_folder = Path(manager.__file__).parent

        def build_index(paths):
            if not own_entries:
                own_entries.update(build([own_folder]))
            assert paths[0] == own_folder  # folders of the user come later and override it
            return {**own_entries, **build(paths[1:])}

        with mock.patch.object(manager.TaskIndex, "build", staticmethod(build_index)):
            return make_manager(include_path, state)

    with mock.patch.object(task_index, "_complete_task_manager", make_manager_of_shared_entries):
        yield
