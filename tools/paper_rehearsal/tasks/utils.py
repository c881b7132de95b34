"""Data and metrics of the local tasks, which lm-eval calls.

The models of the rehearsal have random weights, so an answer is judged by its form, and the correct option of a
question is the shortest one. Scores at chance would leave nothing to retain.
"""

import json
from pathlib import Path

from datasets import Dataset, DatasetDict


def read_documents(file, **_):
    """Return the documents of a file beside this one, as the split "test"."""
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return DatasetDict({"test": Dataset.from_list([json.loads(line) for line in lines])})


def judge_answer(document, answers):
    """Return an exact match if the answer has none of the letters that the document forbids."""
    return {"exact_match": float(_avoids(answers[0], document["avoid"]))}


def judge_instructions(document, answers):
    """Return the strict accuracies of ifeval, for instructions to avoid a letter."""
    followed = [_avoids(answers[0], letter) for letter in document["avoid"]]
    return {"prompt_level_strict_acc": all(followed), "inst_level_strict_acc": followed}


def _avoids(text, letters):
    return not any(letter in text.lower() for letter in letters)


def average_instructions(items):
    """Return the mean over all instructions of all documents."""
    flags = [flag for item in items for flag in item]
    return sum(flags) / len(flags)


def build_programs(resps, docs):
    """Return the prompts, each with the model's continuation."""
    return [[doc["prompt"] + text for text in texts] for texts, doc in zip(resps, docs, strict=True)]


def pass_at_k(references, predictions, k):
    """Return the share of programs that were continued. No program is run."""
    [programs] = predictions
    return {f"pass@{k[0]}": sum(not program.endswith("return") for program in programs) / len(programs)}
