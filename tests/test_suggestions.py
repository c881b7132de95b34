"""Misspelled names get useful suggestions, wherever they are given."""

import pytest

import sparsedial as sd
from sparsedial.errors import ModelError, SparsedialError, SpecError, TaskError
from sparsedial.models.model_aliases import describe_accepted_names
from sparsedial.models.zoo_package import find_model_folder
from sparsedial.rules import make_rule
from sparsedial.suggestions import closest_names
from sparsedial.tasks.lm_eval.task_index import find_task_manager, load_tasks_and_groups
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.spec import TaskSpec
from tests.support.lm_eval_tasks import write_tasks

BUILTIN = ["self_prediction", "restoration", "denoising", "next_token", "masked_token", "paper"]
LM_EVAL = ["persona_self-replication", "arc_easy", "arc_challenge", "piqa", "hellaswag", "lambada_standard", "mask_x"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("self-prediction", ["self_prediction"]), ("SelfPrediction", ["self_prediction"]),
        ("next token", ["next_token"]), ("denoise", ["denoising"]), ("arc-easy", ["arc_easy"]),
        ("hellaswg", ["hellaswag"]), ("HellaSwag", ["hellaswag"]), ("quicksort", []),
    ],
)  # fmt: skip
def test_builtin_names_come_first_and_case_and_punctuation_do_not_matter(name, expected):
    assert closest_names(name, BUILTIN, LM_EVAL) == expected


def test_the_best_preferred_name_comes_before_other_names():
    assert closest_names("self_predicton", BUILTIN, LM_EVAL)[0] == "self_prediction"


@pytest.mark.parametrize("name", ["smollm2-135", "SmolLM2_135M", "smolm2-135m", "smollm-135m"])
def test_a_misspelled_alias_is_recognised(name):
    assert describe_accepted_names(name).endswith("; did you mean 'smollm2-135m'?")


def test_a_misspelled_zoo_model_is_recognised():
    with pytest.raises(ModelError, match=r"; did you mean 'zoo:dense-0\.4m'\?$"):
        find_model_folder("zoo:dense-04m")


def test_misspelled_sites_and_rules_are_recognised(llama):
    with pytest.raises(SpecError, match=r"unknown site 'intermedate': .*; did you mean 'intermediate'\?"):
        sd.sparsify(llama, "intermedate", sd.TopP(0.9))
    with pytest.raises(SpecError, match=r"unknown rule 'topp': .*; did you mean 'top_p'\?"):
        make_rule("topp", 0.5)


def test_a_misspelled_task_of_this_package_is_recognised(tmp_path):
    write_tasks(tmp_path)
    local_tasks = find_task_manager(("tiny_choice",), tmp_path)  # without the index of lm-eval's own tasks
    with pytest.raises(TaskError, match=r"unknown task 'self-prediction': did you mean 'self_prediction'\?"):
        load_tasks_and_groups("self-prediction", local_tasks, BUILTIN)


@pytest.mark.parametrize(
    ("task", "shared_options"),
    [(TaskSpec("self_prediction"), {"limit": 5}), (TaskSpec("self_prediction", {"limit": 5}), {}),
     (TaskSpec("restoration"), {"limit": 5})],
)  # fmt: skip
def test_a_limit_for_a_task_that_samples_its_examples_names_the_right_option(task, shared_options):
    with pytest.raises(SparsedialError, match=r"option 'limit': did you mean 'sequences', the number of examples"):
        make_tasks([task], shared_options)


def test_a_limit_applies_to_the_tasks_that_have_one():
    sampled, read = make_tasks([TaskSpec("self_prediction"), TaskSpec("next_token")], {"limit": 5})
    assert (sampled.sequences, read.limit) == (64, 5)
    with pytest.raises(SpecError, match="did you mean 'limit', the number of examples of tasks with a data set"):
        make_tasks([TaskSpec("next_token")], {"sequences": 5})
