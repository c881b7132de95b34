"""Problems follow the rules of arithmetic, their thinking leads to the answer, and mistakes are repaired in it."""

import random
import re
from itertools import islice, pairwise

import pytest

from tools.zoo.thinking_problems import (
    HELD_OUT_PROBLEMS,
    HELD_OUT_SEED,
    MAX_STEPS,
    MIN_STEPS,
    Operation,
    Problem,
    draw_held_out_problems,
    draw_problem,
    draw_training_problems,
)

STEP = re.compile(r"([a-k])=(\d\d)([-+*])(\d)=(\d\d)([,!])")


def text_of(parts):
    return "".join(part.text for part in parts)


def evaluate_question(question):
    """Return the value of the variable that a question asks for, by running it as Python."""
    *definitions, asked = question.split(",")
    variables = {}
    for definition in definitions:
        name, expression = definition.split("=")
        variables[name] = eval(re.sub(r"^0(\d)", r"\1", expression), {}, variables) % 100
    return variables[asked.removesuffix("?")]


def test_answers_are_what_python_computes():
    for problem in draw_held_out_problems(100):
        assert int(problem.answer()) == evaluate_question(problem.question())


def test_a_step_of_the_thinking_continues_the_one_before():
    problem = Problem(98, (Operation("+", 5), Operation("-", 9), Operation("*", 7)))
    assert problem.question() == "a=98,b=a+5,c=b-9,d=c*7,d?"
    assert text_of(problem.thinking()) == "b=98+5=03,c=03-9=94,d=94*7=58,"
    assert problem.answer() == "58"


def test_a_mistake_is_not_learned_and_its_step_is_repeated():
    random_numbers = random.Random(3)
    number_of_mistakes = 0
    for _ in range(200):
        problem = draw_problem(random_numbers)
        clean = text_of(problem.thinking())
        parts = list(problem.thinking(random_numbers))
        steps = STEP.findall(text_of(parts))
        kept = [step for step in steps if step[-1] == ","]
        assert "".join(f"{v}={a}{s}{n}={r}{mark}" for v, a, s, n, r, mark in kept) == clean
        for step, following in pairwise(steps):
            if step[-1] == "!":
                number_of_mistakes += 1
                assert step[0] == following[0]
                assert f"{step[0]}={step[1]}{step[2]}{step[3]}={step[4]}," not in clean
        unlearned = [part.text for part in parts if not part.is_learned]
        assert len(unlearned) == text_of(parts).count("!")
    assert 60 < number_of_mistakes < 200  # about one in ten of 1,200 steps


def test_training_never_sees_a_held_out_problem():
    held_out = draw_held_out_problems()
    assert len(set(held_out)) == HELD_OUT_PROBLEMS
    assert held_out[:20] == draw_held_out_problems(20)
    same_numbers = random.Random(HELD_OUT_SEED)  # would give the held-out problems first
    assert not set(islice(draw_training_problems(same_numbers), 50)) & set(held_out)


@pytest.mark.parametrize("steps", [MIN_STEPS, MAX_STEPS])
def test_problems_of_every_length_are_held_out(steps):
    counts = [problem.steps for problem in draw_held_out_problems()]
    assert 35 < counts.count(steps) < 80
