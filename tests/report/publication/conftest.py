"""Results of every kind of model, for figures."""

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.publication.catalog import make_publication_figures
from sparsedial.report.publication.reference_rows import References
from tests.support.made_up_studies import LARGE, MIXTURE, SMALL, Model, study


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Results of two sizes of a family, a mixture of experts and a diffusion model on a task that generates text."""
    models = [SMALL, LARGE, MIXTURE, Model("dlm-10m", 10_000_000, layers=3, steps=4)]
    folder = tmp_path_factory.mktemp("publication")
    return compute_results(study(folder, models, ("gsm8k", "piqa"), ("input", "all_inputs"), generates=("gsm8k",)))


@pytest.fixture(scope="session")
def figures(results):
    """The figures of these results, by name."""
    drawn = make_publication_figures(results, References())
    return {figure.name: figure for figure in drawn.figures}
