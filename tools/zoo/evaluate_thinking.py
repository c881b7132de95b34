"""Evaluates a thinking model of the zoo on the held-out problems, with greedy decoding.

    python -m tools.zoo.evaluate_thinking FOLDER [--problems N] [--dtype float32]

It prints one JSON object with the results, and whether they reach the four bars. The exit status is 1
if it does not.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tools.zoo.thinking_corpus import END_OF_TURN, END_THINK, THINK, write_conversation
from tools.zoo.thinking_problems import HELD_OUT_PROBLEMS, WRONG, Problem, draw_held_out_problems

MAX_NEW_TOKENS = 256
BATCH = 125
MIN_EXACT = 0.9
MIN_CLOSED = 0.99
MIN_RANK_CORRELATION = 0.8
MAX_EXACT_WITHOUT_THINKING = 0.3


@dataclass(frozen=True)
class ThinkingAnswer:
    """What the model wrote about one problem.

    Attributes:
        is_closed: True if the thinking ends.
        thinking_tokens: Tokens between the markers of thinking, or up to the limit.
        answer: Text after the thinking, empty if it does not end.
    """

    is_closed: bool
    thinking_tokens: int
    answer: str


@dataclass(frozen=True)
class ThinkingEvaluation:
    """Results of a thinking model.

    Attributes:
        problems: Number of problems.
        exact: Share of the problems with the right answer.
        closed: Share of the problems whose thinking ends.
        rank_correlation: Spearman's rank correlation of the steps of a problem and the tokens of its thinking.
        exact_without_thinking: Share of the right answers if the thinking is forced to be empty.
        mean_thinking_tokens: Mean number of tokens between the markers of thinking.
        noticed_mistakes: Share of the mistakes in a given thinking that the model marks as wrong. There is no bar.
    """

    problems: int
    exact: float
    closed: float
    rank_correlation: float
    exact_without_thinking: float
    mean_thinking_tokens: float
    noticed_mistakes: float

    @property
    def passes(self) -> bool:
        """True if the model can be part of the zoo."""
        return (
            self.exact >= MIN_EXACT
            and self.closed >= MIN_CLOSED
            and self.rank_correlation >= MIN_RANK_CORRELATION
            and self.exact_without_thinking <= MAX_EXACT_WITHOUT_THINKING
        )


def evaluate(model: Any, tokenizer: Any, problems: Sequence[Problem]) -> ThinkingEvaluation:
    """Evaluate a model.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        problems: Problems to solve.

    Returns:
        The results.
    """
    answers = answer_problems(model, tokenizer, problems)
    direct_answers = answer_problems(model, tokenizer, problems, with_thinking=False)
    tokens = [float(answer.thinking_tokens) for answer in answers]
    steps = [float(problem.steps) for problem in problems]
    return ThinkingEvaluation(
        problems=len(problems),
        exact=_exact_share(answers, problems),
        closed=sum(answer.is_closed for answer in answers) / len(answers),
        rank_correlation=rank_correlation(steps, tokens),
        exact_without_thinking=_exact_share(direct_answers, problems),
        mean_thinking_tokens=sum(tokens) / len(tokens),
        noticed_mistakes=_noticed_share(model, tokenizer, list(write_mistakes(problems))),
    )


def answer_problems(
    model: Any, tokenizer: Any, problems: Sequence[Problem], *, with_thinking: bool = True
) -> list[ThinkingAnswer]:
    """Return greedy answers.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        problems: Problems to solve.
        with_thinking: If False, the prompt ends with an empty thinking. Defaults to True.

    Returns:
        One answer per problem.
    """
    prompts = []
    for problem in problems:
        messages = [{"role": "user", "content": problem.question()}]
        options = {"add_generation_prompt": True, "enable_thinking": with_thinking}
        prompts.append(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    prefix = [] if with_thinking else [THINK, END_THINK]
    answers = []
    for tokens in _continue_texts(model, tokenizer, prompts, MAX_NEW_TOKENS):
        answers.append(read_answer([*prefix, *tokens]))
    return answers


def write_mistakes(problems: Sequence[Problem]) -> Iterator[str]:
    """Yield conversations that break off after a step with a mistake, for about every second problem."""
    for index, problem in enumerate(problems):
        text = ""
        for part in write_conversation(problem, random.Random(index), is_direct=False):
            if part.text == WRONG:
                yield text
                break
            text += part.text


def _noticed_share(model: Any, tokenizer: Any, mistakes: Sequence[str]) -> float:
    """Return the share of the conversations that the model continues with `WRONG`."""
    continuations = list(_continue_texts(model, tokenizer, mistakes, max_new_tokens=1))
    return continuations.count([WRONG]) / max(1, len(continuations))


@torch.inference_mode()
def _continue_texts(model: Any, tokenizer: Any, texts: Sequence[str], max_new_tokens: int) -> Iterator[list[str]]:
    """Yield the generated tokens of each text, with greedy decoding."""
    for first in range(0, len(texts), BATCH):
        encoding = tokenizer(
            list(texts[first : first + BATCH]),
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_tensors="pt",
        )
        output = model.generate(
            input_ids=encoding["input_ids"].to(model.device),
            attention_mask=encoding["attention_mask"].to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        for row in output[:, encoding["input_ids"].shape[1] :].tolist():
            yield tokenizer.convert_ids_to_tokens(row)


def read_answer(tokens: Sequence[str]) -> ThinkingAnswer:
    """Split generated tokens into thinking and answer.

    Args:
        tokens: Generated tokens, possibly with padding after the end of the turn.

    Example:
        >>> read_answer(["<think>", "b", "=", "</think>", "1", "2", "<|end|>", "<|end|>"])
        ThinkingAnswer(is_closed=True, thinking_tokens=2, answer='12')
    """
    turn = list(tokens)
    if END_OF_TURN in turn:
        turn = turn[: turn.index(END_OF_TURN)]
    is_closed = END_THINK in turn
    end = turn.index(END_THINK) if is_closed else len(turn)
    thinking_tokens = end - (THINK in turn[:end])
    return ThinkingAnswer(is_closed, thinking_tokens, "".join(turn[end + 1 :]))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, with the mean rank for equal values. It is 0 if all values are equal.

    Example:
        >>> round(rank_correlation([1, 2, 3, 3], [10, 20, 30, 40]), 4)
        0.9487
    """
    ranks = torch.tensor([_mean_ranks(first), _mean_ranks(second)])
    return float(torch.corrcoef(ranks)[0, 1].nan_to_num(0.0))


def _mean_ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def _exact_share(answers: Sequence[ThinkingAnswer], problems: Sequence[Problem]) -> float:
    pairs = zip(answers, problems, strict=True)
    return sum(answer.answer == problem.answer() for answer, problem in pairs) / len(problems)


def main() -> None:
    """Run the command line."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Folder of the model, with its tokenizer.")
    parser.add_argument("--problems", type=int, default=HELD_OUT_PROBLEMS, help="Number of problems. Default: 500.")
    parser.add_argument("--dtype", default="float32", help="Dtype of the computation. Default: float32.")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, arguments.dtype)
    model = AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=dtype).to(device)
    tokenizer = AutoTokenizer.from_pretrained(arguments.folder)
    evaluation = evaluate(model, tokenizer, draw_held_out_problems(arguments.problems))
    print(json.dumps({**asdict(evaluation), "passes": evaluation.passes}))
    if not evaluation.passes:
        sys.exit(1)


if __name__ == "__main__":
    main()
