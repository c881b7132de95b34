"""Definitions by name: registered ones, those of entry points, unknown names, and names that exist already."""

import subprocess
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import sparsedial as sd
from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.sites import find_site, site_registry
from sparsedial.registry import Registry
from sparsedial.rules import RULES, Rule, make_rule
from sparsedial.study.spec import StudySpec
from sparsedial.tasks.registry import is_data_free, make_tasks, task_registry
from sparsedial.tasks.spec import TaskSpec
from tests.support.plugins import write_metadata

pytestmark = pytest.mark.usefixtures("registrations")


def define_rule(share=0.5):
    """Return a new class, as a cell of a notebook does each time that it is run."""

    @dataclass(frozen=True)
    class Half(Rule):
        p: float
        name: ClassVar[str] = "half"

        def keep_mask(self, magnitudes):
            return (magnitudes > 0) & (torch.arange(magnitudes.shape[-1]) >= (1 - self.p) * share)

    return Half


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Return a function that installs a package of one module with entry points."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(name, code, **groups):
        (folder / f"{name}.py").write_text(code)
        entry_points = {f"sparsedial.{group}": points for group, points in groups.items()}
        write_metadata(folder, name, "1.5", entry_points)
        monkeypatch.delitem(sys.modules, name, raising=False)

    yield install


def test_a_registered_rule_is_found_by_its_name():
    rule_class = sd.register_rule(define_rule())
    assert make_rule("half", 0.5) == rule_class(0.5)
    assert "half" in RULES and "half" in list(RULES)
    assert StudySpec(models=("zoo:dense-0.4m",), rules=("half",), values=(0.5, 1.0)).problems("cpu") == []


def test_a_cell_that_is_run_again_replaces_its_rule():
    first = sd.register_rule(define_rule())
    second = sd.register_rule(define_rule())
    assert RULES["half"] is second is not first


def test_another_class_of_the_same_name_is_an_error():
    sd.register_rule(define_rule())

    @dataclass(frozen=True)
    class Other(define_rule()):
        name: ClassVar[str] = "half"

    with pytest.raises(SpecError, match=r"Other: the rule 'half' exists already, in tests.test_registry.define_rule"):
        sd.register_rule(Other)


@pytest.mark.parametrize("name", ["top_p", "max_p"])
def test_a_builtin_name_cannot_be_taken(name):
    rule_class = define_rule()
    rule_class.name = name
    with pytest.raises(SpecError, match=f"the rule '{name}' exists already, in sparsedial"):
        sd.register_rule(rule_class)


@pytest.mark.parametrize("name", ["", "a,b", "a b", None, 3, "-p"])
def test_a_name_must_fit_on_the_command_line(name):
    rule_class = define_rule()
    rule_class.name = name
    with pytest.raises(SpecError, match="expected text of letters"):
        sd.register_rule(rule_class)


def test_unknown_names_suggest_registered_ones(llama):
    sd.register_rule(define_rule())
    with pytest.raises(SpecError, match=r"unknown rule 'halv': .*did you mean 'half'"):
        make_rule("halv", 0.5)

    @sd.register_site
    class Both(sd.Site):
        name = "input_and_intermediate"
        vectors = ("input", "intermediate")

    with pytest.raises(SpecError, match=r"unknown site 'input_and_intermedate'.*did you mean 'input_and_intermediate'"):
        sd.sparsify(llama, "input_and_intermedate", sd.TopP(0.5))
    problems = StudySpec(models=("zoo:dense-0.4m",), rules=("halv",), sites=("Input",)).problems("cpu")
    assert [("did you mean 'half'" in line, "did you mean 'input'" in line) for line in problems] == [
        (False, True),
        (True, False),
    ]


RULE_MODULE = """
from dataclasses import dataclass
from typing import ClassVar
import sparsedial as sd

@sd.register_rule
@dataclass(frozen=True)
class Positive(sd.Rule):
    p: float
    name: ClassVar[str] = "positive"

    def keep_mask(self, magnitudes):
        return magnitudes > 0
"""


def test_an_entry_point_is_loaded_when_its_name_is_asked_for(packages):
    packages("positive_package", RULE_MODULE, rules={"positive": "positive_package:Positive"})
    assert "positive" in RULES and "positive" in list(RULES)
    assert "positive_package" not in sys.modules
    assert make_rule("positive", 0.5).name == "positive"
    assert "positive_package" in sys.modules


def test_a_class_without_the_decorator_can_be_an_entry_point(packages):
    code = RULE_MODULE.replace("@sd.register_rule\n", "")
    packages("plain_package", code, rules={"positive": "plain_package:Positive"})
    assert make_rule("positive", 0.5).value == 0.5


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('too old')", "RuntimeError: too old"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("x = 1", "has no attribute 'Positive'"),
        ("Positive = 3", "expected a subclass of sparsedial.Rule, got 3"),
        (RULE_MODULE.replace('"positive"', '"other"'), "it defines no rule of this name"),
    ],
)
def test_a_broken_package_is_named_when_its_name_is_asked_for(packages, code, reason):
    packages("broken_package", code, rules={"positive": "broken_package:Positive"})
    assert make_rule("top_p", 0.5) == sd.TopP(0.5)
    with pytest.raises(SpecError, match=r"unknown rule 'positiv': expected .*positive"):
        make_rule("positiv", 0.5)
    for _ in range(2):
        with pytest.raises(SpecError) as error:
            make_rule("positive", 0.5)
        assert "package broken_package 1.5" in str(error.value)
        assert reason in str(error.value)
    [problem] = StudySpec(models=("zoo:dense-0.4m",), rules=("positive",)).problems("cpu")
    assert "broken_package 1.5" in problem


def test_two_packages_with_one_name_are_an_error(packages):
    for name in ("first_package", "second_package"):
        packages(name, RULE_MODULE, rules={"positive": f"{name}:Positive"})
    with pytest.raises(SpecError, match=r"several packages declare it: first_package 1.5 and second_package 1.5"):
        make_rule("positive", 0.5)


def test_a_program_cannot_take_the_name_of_an_entry_point(packages):
    packages("positive_package", RULE_MODULE, rules={"half": "positive_package:Positive"})
    with pytest.raises(SpecError, match=r"the rule 'half' exists already, in the package positive_package 1.5"):
        sd.register_rule(define_rule())


def test_entry_points_of_sites_and_tasks(packages, llama):
    code = (
        "import sparsedial as sd\n\nclass Both(sd.Site):\n    name = 'both'\n    vectors = ('input', 'intermediate')\n"
    )
    packages("both_package", code, sites={"both": "both_package:Both"}, tasks={"broken_task": "both_package:missing"})
    assert find_site("both").vector_names == ("input", "intermediate")
    assert "both" in site_registry() and "broken_task" in task_registry()
    assert not is_data_free("arc_easy")
    with pytest.raises(SpecError, match=r"task 'broken_task': the package both_package 1.5"):
        make_tasks([TaskSpec("broken_task")])


def test_a_package_that_is_installed_later_is_found(packages):
    with pytest.raises(SpecError):
        make_rule("positive", 0.5)
    packages("late_package", RULE_MODULE, rules={"positive": "late_package:Positive"})
    assert make_rule("positive", 0.5).value == 0.5


def test_importing_the_package_reads_no_entry_points(packages):
    packages("broken_package", "raise RuntimeError", rules={"positive": "broken_package:Positive"})
    code = (
        "import importlib.metadata as metadata, sys\n"
        "groups = []\n"
        "find = metadata.entry_points\n"
        "metadata.entry_points = lambda **arguments: groups.append(str(arguments)) or find(**arguments)\n"
        "import sparsedial\n"
        "assert not any('sparsedial' in group for group in groups), groups\n"
        "assert 'sparsedial.tasks.registry' not in sys.modules\n"
        "assert 'broken_package' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_site_that_a_model_does_not_have_is_an_error(gpt2):
    @sd.register_site
    class UpAndGate(sd.Site):
        name = "up_and_gate"
        vectors = ("up", "gate")

        def skippable_macs(self, ffn):
            return {"up": 0.1, "gate": 0.1}

    with pytest.raises(ModelError, match=r"no site 'up_and_gate': the FFN is plain.*Available sites: input"):
        sd.sparsify(gpt2, "up_and_gate", sd.TopP(0.5))


def test_a_registry_counts_its_names():
    registry = Registry("colour", "sparsedial.no_such_group", {"red": 1}, add_loaded=print)
    registry.add("blue", 2, owner=str)
    assert len(registry) == 2 and dict(registry) == {"red": 1, "blue": 2}
