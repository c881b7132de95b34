"""The folder in which the blocks of a page run."""

import pytest

from tests.docs.blocks import ROOT
from tests.support.plugins import registrations_undone


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """An empty folder with links to the repository's files, as the current folder. Registrations are undone."""
    for name in ("examples", "docs", "benchmarks", "packages"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with registrations_undone():
        yield tmp_path
