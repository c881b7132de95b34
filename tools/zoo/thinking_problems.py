"""Arithmetic problems for the thinking model of the zoo, with the thinking that solves them.

A problem is a chain of variables modulo 100, each computed from the one before. The thinking writes one line of
characters per step and repeats a step that contains a mistake:

>>> problem = Problem(7, (Operation("+", 5), Operation("*", 3)))
>>> problem.question()
'a=07,b=a+5,c=b*3,c?'
>>> "".join(part.text for part in problem.thinking())
'b=07+5=12,c=12*3=36,'
>>> problem.answer()
'36'
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

MODULUS = 100
SYMBOLS = ("+", "-", "*")
SUMMANDS = tuple(range(1, 10))
FACTORS = (3, 7, 9)  # have no factor in common with the modulus, so that all results stay equally likely
MIN_STEPS = 2
MAX_STEPS = 10
CORRECT = ","  # written after a step
WRONG = "!"  # written after a step with a mistake, which is then repeated
MISTAKE_SHARE = 0.1  # of the steps that a training problem writes
HELD_OUT_PROBLEMS = 500
HELD_OUT_SEED = 20_000
STEP_LENGTH = len("b=07+5=12")


@dataclass(frozen=True)
class Operation:
    """One step of a problem.

    Attributes:
        symbol: One of `SYMBOLS`.
        number: Number to add, subtract or multiply by, one digit.
    """

    symbol: str
    number: int

    def apply(self, value: int) -> int:
        """Return the result for a value, modulo `MODULUS`."""
        if self.symbol == "+":
            return (value + self.number) % MODULUS
        if self.symbol == "-":
            return (value - self.number) % MODULUS
        return value * self.number % MODULUS

    def __str__(self) -> str:
        return f"{self.symbol}{self.number}"


@dataclass(frozen=True)
class TextPart:
    """A piece of a training text.

    Attributes:
        text: Characters and special tokens.
        is_learned: True if the model learns to predict the text.
    """

    text: str
    is_learned: bool = True


@dataclass(frozen=True)
class Problem:
    """A chain of operations.

    Attributes:
        start: Value of the first variable, 0 to 99.
        operations: The operations, each on the result of the one before.
    """

    start: int
    operations: tuple[Operation, ...]

    @property
    def steps(self) -> int:
        """Number of operations."""
        return len(self.operations)

    def results(self) -> list[int]:
        """Return the value of every variable, the first one included."""
        values = [self.start]
        for operation in self.operations:
            values.append(operation.apply(values[-1]))
        return values

    def question(self) -> str:
        """Return the question, which defines all variables and asks for the last one."""
        parts = [f"a={self.start:02}"]
        for index, operation in enumerate(self.operations):
            parts.append(f"{ascii_lowercase[index + 1]}={ascii_lowercase[index]}{operation}")
        return ",".join([*parts, f"{ascii_lowercase[self.steps]}?"])

    def answer(self) -> str:
        """Return the value of the last variable, two digits."""
        return f"{self.results()[-1]:02}"

    def thinking(self, mistakes: random.Random | None = None) -> Iterator[TextPart]:
        """Yield the thinking in parts.

        Args:
            mistakes: Random numbers of the mistakes. A mistake itself is not learned, but its detection and the
                repetition of the step are. Defaults to None, no mistakes.

        Yields:
            TextPart: Parts, whose texts joined together are the thinking.
        """
        for index, (value, operation) in enumerate(zip(self.results(), self.operations, strict=False)):
            variable = ascii_lowercase[index + 1]
            while mistakes is not None and mistakes.random() < MISTAKE_SHARE:
                yield from _mistaken_step(variable, value, operation, mistakes)
            yield TextPart(_format_step(variable, value, operation, operation.apply(value)) + CORRECT)


def draw_problem(random_numbers: random.Random) -> Problem:
    """Return a random problem of `MIN_STEPS` to `MAX_STEPS` steps.

    Args:
        random_numbers: Source of random numbers.

    Returns:
        The problem. All numbers of steps and all values of the first variable are equally likely.
    """
    operations = []
    for _ in range(random_numbers.randint(MIN_STEPS, MAX_STEPS)):
        symbol = random_numbers.choice(SYMBOLS)
        operations.append(Operation(symbol, random_numbers.choice(FACTORS if symbol == "*" else SUMMANDS)))
    return Problem(random_numbers.randrange(MODULUS), tuple(operations))


def draw_held_out_problems(count: int = HELD_OUT_PROBLEMS) -> list[Problem]:
    """Return the problems that no training text contains. They are all different.

    Args:
        count: Number of problems. Fewer problems are the first of more. Default: 500.
    """
    random_numbers = random.Random(HELD_OUT_SEED)
    problems: dict[Problem, None] = {}
    while len(problems) < count:
        problems[draw_problem(random_numbers)] = None
    return list(problems)


def draw_training_problems(random_numbers: random.Random) -> Iterator[Problem]:
    """Yield random problems without end, except the held-out ones.

    Args:
        random_numbers: Source of random numbers.

    Yields:
        Problem: The next problem.
    """
    held_out = set(draw_held_out_problems())
    while True:
        problem = draw_problem(random_numbers)
        if problem not in held_out:
            yield problem


def _format_step(variable: str, value: int, operation: Operation, result: int) -> str:
    return f"{variable}={value:02}{operation}={result:02}"


def _mistaken_step(
    variable: str, value: int, operation: Operation, random_numbers: random.Random
) -> Sequence[TextPart]:
    """Return a step with one wrong number or symbol, followed by `WRONG`."""
    correct = _format_step(variable, value, operation, operation.apply(value))
    kind = random_numbers.choice(("value", "operation", "result", "result"))
    mistaken_value = value
    mistaken_operation = operation
    if kind == "value":
        mistaken_value = _change_digit(value, random_numbers)
    elif kind == "operation":
        mistaken_operation = _change_operation(operation, random_numbers)
    result = mistaken_operation.apply(mistaken_value)
    if kind == "result":
        result = _change_digit(result, random_numbers)
    mistaken = _format_step(variable, mistaken_value, mistaken_operation, result)
    first_difference = next(i for i in range(STEP_LENGTH) if mistaken[i] != correct[i])
    return (
        TextPart(mistaken[:first_difference]),
        TextPart(mistaken[first_difference:], is_learned=False),
        TextPart(WRONG),
    )


def _change_digit(value: int, random_numbers: random.Random) -> int:
    """Return a two-digit number that differs in one digit, or in both."""
    shift = random_numbers.randrange(1, MODULUS)
    if random_numbers.random() < 2 / 3:
        shift = random_numbers.randrange(1, 10)
        if random_numbers.random() < 1 / 2:
            return value // 10 * 10 + (value + shift) % 10
        return (value + 10 * shift) % MODULUS
    return (value + shift) % MODULUS


def _change_operation(operation: Operation, random_numbers: random.Random) -> Operation:
    """Return an operation with another symbol or another number."""
    if operation.number in FACTORS and random_numbers.random() < 1 / 2:
        symbols = [symbol for symbol in SYMBOLS if symbol != operation.symbol]
        return replace(operation, symbol=random_numbers.choice(symbols))
    numbers = FACTORS if operation.symbol == "*" else SUMMANDS
    return replace(operation, number=random_numbers.choice([n for n in numbers if n != operation.number]))
