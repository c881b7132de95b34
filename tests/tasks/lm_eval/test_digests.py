"""Hashes of a task's code and requests: every edit that may change a number changes the identity."""

import functools
import json
import re
import sys

import numpy as np
import pytest
import torch

from sparsedial.errors import TaskError
from sparsedial.tasks.lm_eval.digests import digest
from tests.support.lm_eval_tasks import load_task, write_task

DOCUMENTS = [{"question": f"Tom had {number}", "answer": " ran"} for number in range(3)]
HELPER = "helper_of_the_edited_task"

FUNCTION = "doc_to_text: !function utils.prompt"
INNER = "def inner(doc, mark=0):\n    return BODY\n"
PROMPTS = {
    "function": (FUNCTION, INNER + "prompt = inner\n", ""),
    "partial": (FUNCTION, INNER + "from functools import partial\nprompt = partial(inner, mark=1)\n", ""),
    "object": (
        FUNCTION,
        INNER + "class Prompt:\n    def __call__(self, doc):\n        return inner(doc)\nprompt = Prompt()\n",
        "",
    ),
    "import": (FUNCTION, f"from {HELPER} import inner\nprompt = lambda doc: inner(doc)\n", INNER),
    "late import": (FUNCTION, f"def prompt(doc):\n    import {HELPER}\n    return {HELPER}.inner(doc)\n", INNER),
    "class": (
        "class: !function utils.Own\ndoc_to_text: '{{question}}'",
        INNER
        + """
from lm_eval.api.task import ConfigurableTask

class Own(ConfigurableTask):
    def __init__(self, config=None):
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def doc_to_text(self, doc, *_):
        return inner(doc)
""",
        "",
    ),
}

RESULTS = "process_results: !function utils.results"
ACCURACY = "metric: acc, aggregation: mean, higher_is_better: true"
OWN_MEAN = "metric: acc, aggregation: !function utils.mean, higher_is_better: true"
SCORINGS = {
    "function": (RESULTS, ACCURACY, "def results(doc, answers):\n    return {'acc': BODY}\n", ""),
    "partial": (
        RESULTS,
        ACCURACY,
        "import functools\ndef inner(doc, answers, value):\n    return {'acc': value}\n"
        "results = functools.partial(inner, value=BODY)\n",
        "",
    ),
    "closure": (
        RESULTS,
        ACCURACY,
        f"from {HELPER} import VALUE\ndef make(value):\n    def results(doc, answers):\n"
        "        return {'acc': value}\n    return results\nresults = make(VALUE)\n",
        "VALUE = BODY\n",
    ),
    "state": (
        RESULTS,
        ACCURACY,
        "class Results:\n    def __init__(self, value):\n        self.value = value\n"
        "    def __call__(self, doc, answers):\n        return {'acc': self.value}\nresults = Results(BODY)\n",
        "",
    ),
    "import": (RESULTS, ACCURACY, f"import {HELPER} as h\ndef results(d, a):\n    return h.results()\n",
               "def results():\n    return {'acc': BODY}\n"),
    "aggregation": ("", OWN_MEAN, f"from {HELPER} import mean\n",
                    "def mean(values):\n    assert BODY is not None\n    return sum(values) / len(values)\n"),
}  # fmt: skip


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that loads a task with the given code from a folder of its own. All have the same data."""
    folders = iter(range(100))

    def load(lines, metric, code, helper, body):
        folder = tmp_path / str(next(folders))
        folder.mkdir()
        task = {"output_type": "loglikelihood", "doc_to_target": "{{answer}}"}
        write_task(folder, "edited", task, DOCUMENTS, data_folder=tmp_path)
        path = folder / "edited.yaml"
        path.write_text(path.read_text() + f"{lines}\nmetric_list:\n  - {{{metric}}}\n")
        (folder / "utils.py").write_text(code.replace("BODY", body))
        (folder / f"{HELPER}.py").write_text(helper.replace("BODY", body))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, HELPER, raising=False)
        return load_task(folder, "edited")

    return load


@pytest.mark.parametrize("kind", PROMPTS)
def test_an_edit_of_the_prompt_changes_the_identity(load, kind):
    lines, code, helper = PROMPTS[kind]
    first, second = "'Tom: ' + doc['question']", "doc['question'].upper()"
    identity = load(lines, ACCURACY, code, helper, first).identity()
    assert json.loads(json.dumps(identity)) == identity
    assert load(lines, ACCURACY, code, helper, first).identity() == identity  # wherever the files are
    assert load(lines, ACCURACY, code, helper, second).identity()["requests"] != identity["requests"]


@pytest.mark.parametrize("kind", SCORINGS)
def test_an_edit_of_the_scoring_changes_the_identity(load, kind):
    lines, metric, code, helper = SCORINGS[kind]
    lines = f"doc_to_text: '{{{{question}}}}'\n{lines}"
    identity = load(lines, metric, code, helper, "1.0").identity()
    assert load(lines, metric, code, helper, "1.0").identity() == identity
    edited = load(lines, metric, code, helper, "0.5").identity()
    assert edited["requests"] == identity["requests"]
    assert (edited["config"], edited["code"]) != (identity["config"], identity["code"])


def test_data_that_the_code_has_read_changes_the_identity(load, tmp_path):
    table = tmp_path / "table.json"
    code = (
        f"import json\nTABLE = json.load(open({str(table)!r}))\ndef results(d, a):\n    return {{'acc': TABLE['x']}}\n"
    )
    digests = []
    for value in (1, 1, 2):
        table.write_text(json.dumps({"x": value}))
        digests.append(load(f"doc_to_text: x\n{RESULTS}", ACCURACY, code, "", "").identity()["config"])
    assert digests[0] == digests[1] != digests[2]


def test_a_cache_that_fills_up_does_not_change_the_identity(load):
    code = "CACHE = {}\ndef results(d, a):\n    CACHE[len(CACHE)] = d\n    return {'acc': 1.0}\n"
    task = load(f"doc_to_text: x\n{RESULTS}", ACCURACY, code, "", "")
    before = digest(task.lm_eval_task.config.process_results)
    task.lm_eval_task.process_results({}, [])
    assert digest(task.lm_eval_task.config.process_results) == before


def test_code_that_is_not_part_of_the_identity_is_reported(load):
    code = "import importlib\ndef results(d, a):\n    return importlib.import_module(d['module']).results(d, a)\n"
    with pytest.warns(UserWarning, match=r"'edited' loads code that is not part .* \(utils.py: import_module\)"):
        task = load(f"doc_to_text: x\n{RESULTS}", ACCURACY, code, "", "")
    assert task.identity()["unread_code"] == ["utils.py: import_module"]


def test_a_prompt_that_fails_is_an_error(load):
    code = "def prompt(doc):\n    return {'Tom had 0': 'x'}[doc['question']]\n"
    task = load(FUNCTION, ACCURACY, code, "", "")
    with pytest.raises(TaskError, match=r"'edited': lm-eval cannot create its requests.*KeyError: 'Tom had 1'"):
        task.identity()


def test_unseeded_random_numbers_do_not_change_the_identity(load):
    code = "import random\ndef prompt(doc):\n    return str(random.random())\n"
    identities = [load(FUNCTION, ACCURACY, code, "", "").identity() for _ in range(2)]
    assert identities[0] == identities[1]


def same_function():
    return 1


first_function = lambda: 1  # noqa: E731
second_function = lambda: 1  # noqa: E731


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (functools.partial(max, 1), functools.partial(max, 2)),
        (re.compile("a"), re.compile("b")),
        (np.zeros(3), np.ones(3)),
        (torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)),
        ({1, 2}, {1, 3}),
        ({1: "x"}, {2: "x"}),
        (b"a", b"b"),
        (max, min),
        (first_function, second_function),
        (functools.lru_cache(same_function), same_function),
        (eval("lambda: 1"), eval("lambda: 2")),  # functions without a source file
    ],
)
def test_different_values_have_different_digests(first, second):
    assert digest(first) != digest(second)
    assert digest([first]) == digest([first])


def test_containers_in_cycles_have_a_digest():
    cycle = [1]
    cycle.append(cycle)
    assert digest(cycle) != digest([1, [1]])
