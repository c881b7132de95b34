"""Tasks that are registered: classes with options, objects, and what is wrong with others."""

from dataclasses import dataclass, replace

import pytest

import sparsedial as sd
from sparsedial.errors import SpecError
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.registry import TaskDefinition, is_data_free, make_tasks, register_task, task_option_names
from sparsedial.tasks.spec import TaskSpec
from tests.support.custom_tasks import SumOfLogits

pytestmark = pytest.mark.usefixtures("registrations")


def test_a_class_has_options():
    assert register_task(SumOfLogits) is SumOfLogits
    assert task_option_names("sum_of_logits") == ("rows",)
    specs = [TaskSpec("sum_of_logits", {"rows": 5}), TaskSpec("next_token")]
    assert make_tasks(specs, {"limit": 2}) == [NextToken(limit=2), SumOfLogits(rows=5)]
    assert not is_data_free("sum_of_logits")
    with pytest.raises(SpecError, match=r"unknown option 'row': did you mean 'rows'\?"):
        make_tasks([TaskSpec("sum_of_logits", {"row": 5})])
    with pytest.raises(SpecError, match="named twice with different options"):
        make_tasks([TaskSpec("sum_of_logits", {"rows": 5}), TaskSpec("sum_of_logits")])


def test_an_object_has_no_options():
    task = SumOfLogits(rows=7)
    sd.register_task(task)
    assert make_tasks([TaskSpec("sum_of_logits")]) == [task]
    assert task_option_names("sum_of_logits") == ()
    with pytest.raises(SpecError, match="unknown option 'rows'"):
        make_tasks([TaskSpec("sum_of_logits", {"rows": 5})])


def test_a_definition_separates_the_options_from_the_task():
    @dataclass(frozen=True)
    class Options:
        pairs: int = 1

        def create(self):
            return replace(SumOfLogits(), rows=2 * self.pairs)

    register_task(TaskDefinition("sum_of_logits", Options, Options.create, is_data_free=True))
    assert make_tasks([TaskSpec("sum_of_logits", {"pairs": 3})]) == [SumOfLogits(rows=6)]
    assert is_data_free("sum_of_logits")


def test_a_class_states_that_it_needs_no_data():
    register_task(dataclass(frozen=True)(type("Sampled", (SumOfLogits,), {"name": "sampled", "is_data_free": True})))
    assert is_data_free("sampled")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (type("Empty", (), {}), "Empty: name, reuse_mask, identity, prepare, score missing"),
        (3, "int: name, reuse_mask, identity, prepare, score missing"),
        (type("Plain", (SumOfLogits,), {}), "on the line below @register_task"),
        (NextToken, "the task 'next_token' exists already, in sparsedial"),
        (dataclass(frozen=True)(type("Bad", (SumOfLogits,), {"name": "a,b"})), "name 'a,b': expected text"),
        (dataclass(frozen=True)(type("Bad", (SumOfLogits,), {"name": ""})), "name '': expected text as the name"),
        (
            dataclass(frozen=True)(type("Bad", (SumOfLogits,), {"name": "average"})),
            "use this name for the average over",
        ),
        (TaskDefinition("average", SumOfLogits, SumOfLogits), "use this name for the average over tasks"),
        (
            dataclass(frozen=True, kw_only=True)(
                type("Required", (SumOfLogits,), {"name": "required", "__annotations__": {"path": "str"}})
            ),
            "the option 'path' has no default",
        ),
    ],
    ids=["empty", "number", "no dataclass", "exists", "name", "no name", "average", "definition", "default"],
)
def test_what_is_registered_is_checked(task, message):
    with pytest.raises(SpecError) as error:
        register_task(task)
    assert message in str(error.value)
