"""A real browser, and pages that it opens. Without a browser, these tests fail."""

import os
import shutil
from dataclasses import dataclass, field, replace

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.report.html_page import write_report
from tests.page.hostile import HOSTILE, hostile_results
from tests.support.made_up_studies import Model, study

SITES = ("input", "up", "gate", "intermediate", "all_inputs")
SIZES = {"phone": 390, "tablet": 768, "desktop": 1280}

ONE = Model("model-135m", 134_515_008, layers=6)
FAMILY = (Model("family-base-100m", 10**8, layers=4), Model("family-instruct-400m", 4 * 10**8, strength=1.4, layers=4))
MIXTURE = Model("mixture-7b-a1b", 7 * 10**9, layers=4, experts=8, active=10**9)
DIFFUSION = Model("diffusion-10m", 10**7, layers=3, steps=5)


@dataclass
class Visit:
    """A page in the browser, and what happened while it was open.

    Attributes:
        page: The page of playwright.
        messages: Messages of the console, and errors.
        requests: Addresses of all requests.
    """

    page: object
    messages: list = field(default_factory=list)
    requests: list = field(default_factory=list)


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium."""
    from playwright.sync_api import sync_playwright

    executable = os.environ.get("SPARSEDIAL_BROWSER") or shutil.which("chromium")
    if executable is None:
        pytest.fail("no chromium was found: run `make setup-browser`, or set SPARSEDIAL_BROWSER to its path")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens a file, with a width, a colour scheme and, if wanted, without scripts."""
    contexts = []

    def open_page(path, width=SIZES["desktop"], scheme="light", **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        visited = Visit(context.new_page())
        visited.page.on("console", lambda message: visited.messages.append(message.text))
        visited.page.on("pageerror", lambda error: visited.messages.append(str(error)))
        visited.page.on("request", lambda request: visited.requests.append(request.url))
        visited.page.goto(path.as_uri())
        return visited

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    """The page of one model at five sites, alone in its directory."""
    folder = tmp_path_factory.mktemp("single")
    store = study(folder / "study", [ONE], ("arc_easy",), SITES, labelled=True, values=(0.98, 0.9, 0.8))
    return keep_page(write_report(compute_results(store), folder / "report"), folder)


@pytest.fixture(scope="session")
def several(tmp_path_factory):
    """The page of four models: two of a family, a mixture of experts and a diffusion model."""
    folder = tmp_path_factory.mktemp("several")
    models = [*FAMILY, MIXTURE, DIFFUSION]
    tasks = ("arc_easy", "gsm8k")
    store = study(folder / "study", models, tasks, ("input", "all_inputs"), generates=("gsm8k",), labelled=True)
    results = replace(compute_results(store), problems=["a trial is missing"], notes=["a note"])
    return keep_page(write_report(results, folder / "report"), folder)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """The page of two models that are put side by side."""
    folder = tmp_path_factory.mktemp("pair")
    store = study(folder / "study", FAMILY, ("arc_easy",), ("input", "gate"), labelled=True)
    return keep_page(write_report(compute_results(store), folder / "report"), folder)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """The page of results whose names and example texts try to run scripts."""
    folder = tmp_path_factory.mktemp("hostile")
    models = [Model(f"{HOSTILE[0]}-100m", 10**8, experts=4), Model(f"{HOSTILE[1]}-1b", 10**9, steps=3)]
    store = study(folder / "study", models, tuple(HOSTILE[2:4]), ("input",), generates=(HOSTILE[2],), labelled=True)
    results = hostile_results(compute_results(store))
    return keep_page(write_report(results, folder / "report"), folder)


def keep_page(page, folder):
    """Return a copy of the page without the files beside it, as if it had been mailed."""
    return shutil.copy(page, folder / "mailed.html")
