"""The training data of the thinking model: a tokenizer of characters, and problems packed into windows.

    python -m tools.zoo.thinking_corpus CORPUS [--windows N]

The folder has the layout of the corpus of the other models, so `tools.zoo.train` reads it. A token that the model
reads but does not learn is stored as its bitwise complement, a negative number.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import numpy as np

from tools.zoo.recipes import WINDOW
from tools.zoo.thinking_problems import (
    CORRECT,
    SYMBOLS,
    WRONG,
    Problem,
    TextPart,
    draw_held_out_problems,
    draw_training_problems,
)

START = "<|start|>"
END_OF_TURN = "<|end|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
UNKNOWN = "<|unknown|>"
THINK = "<think>"
END_THINK = "</think>"
SPECIAL_TOKENS = (START, END_OF_TURN, UNKNOWN, USER, ASSISTANT)
CHARACTERS = (*digits, *ascii_lowercase, *SYMBOLS, "=", CORRECT, WRONG, "?")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}<|assistant|>{% else %}<|user|>"
    "{% endif %}{{ message.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
DIRECT_SHARE = 0.05  # of the training problems: answered after an empty thinking
SEED = 0
OPEN_WINDOWS = 16  # that the next conversation may be put into
TRAINING_WINDOWS = 32_000


def make_tokenizer() -> Any:
    """Return a tokenizer with one token per character, and one for each marker of a conversation or of thinking.

    Example:
        >>> tokenizer = make_tokenizer()
        >>> tokenizer.tokenize("<think>b=07+5=12,</think>12")
        ['<think>', 'b', '=', '0', '7', '+', '5', '=', '1', '2', ',', '</think>', '1', '2']
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = (*SPECIAL_TOKENS, THINK, END_THINK, *CHARACTERS)
    ids = {text: token_id for token_id, text in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    # As in other thinking models, the markers of thinking are no special tokens, so they stay in decoded texts.
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in (THINK, END_THINK)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_conversation(problem: Problem, mistakes: random.Random | None, *, is_direct: bool) -> Iterator[TextPart]:
    """Yield the training text of a problem, of which the model learns only its own turn.

    Args:
        problem: The problem.
        mistakes: Random numbers of the mistakes in the thinking, or None for no mistakes.
        is_direct: If True, the thinking is empty, and only the answer is learned.

    Yields:
        TextPart: Parts of the text.
    """
    yield TextPart(f"{START}{USER}{problem.question()}{END_OF_TURN}{ASSISTANT}", is_learned=False)
    if is_direct:
        yield TextPart(THINK + END_THINK, is_learned=False)
    else:
        yield TextPart(THINK)
        yield from problem.thinking(mistakes)
        yield TextPart(END_THINK)
    yield TextPart(problem.answer() + END_OF_TURN)


def encode_parts(parts: Iterable[TextPart], tokenizer: Any) -> list[int]:
    """Return the token IDs of a text, complemented where they are not learned.

    Args:
        parts: Parts of the text.
        tokenizer: Tokenizer from `make_tokenizer`.

    Returns:
        Token IDs.

    Example:
        >>> encode_parts([TextPart("<think>", is_learned=False), TextPart("</think>")], make_tokenizer())
        [-6, 6]
    """
    token_ids = []
    for part in parts:
        for token in tokenizer.tokenize(part.text):
            token_id = tokenizer.convert_tokens_to_ids(token)
            token_ids.append(token_id if part.is_learned else ~token_id)
    return token_ids


def pack_problems(problems: Iterator[Problem], windows: int, tokenizer: Any, seed: int) -> np.ndarray:
    """Return windows of whole conversations. The rest of a window is filled with end tokens that are not learned.

    Args:
        problems: Problems to take from.
        windows: Number of windows.
        tokenizer: Tokenizer from `make_tokenizer`.
        seed: Random seed of the mistakes.

    Returns:
        Token IDs as `encode_parts` returns them, shape [windows * WINDOW], int16.
    """
    random_numbers = random.Random(seed)
    packed = np.full((windows, WINDOW), ~tokenizer.pad_token_id, dtype=np.int16)
    used = [0] * windows
    is_full = False
    first_open = 0
    while not is_full:
        is_direct = random_numbers.random() < DIRECT_SHARE
        conversation = write_conversation(next(problems), random_numbers, is_direct=is_direct)
        token_ids = encode_parts(conversation, tokenizer)
        candidates = range(first_open, min(first_open + OPEN_WINDOWS, windows))
        row = next((row for row in candidates if used[row] + len(token_ids) <= WINDOW), None)
        if row is None:
            first_open += 1
            is_full = first_open == windows
            continue
        packed[row, used[row] : used[row] + len(token_ids)] = token_ids
        used[row] += len(token_ids)
    return packed.reshape(-1)


def write_corpus(folder: Path, windows: int = TRAINING_WINDOWS) -> None:
    """Write the training data, the held-out problems and the tokenizer.

    Args:
        folder: Folder to write to. It is created if necessary.
        windows: Number of training windows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    problems = draw_training_problems(random.Random(SEED))
    np.save(folder / "train.npy", pack_problems(problems, windows, tokenizer, SEED), allow_pickle=False)
    held_out = draw_held_out_problems()
    lines = [json.dumps(describe_problem(problem)) + "\n" for problem in held_out]
    (folder / "heldout.jsonl").write_text("".join(lines))
    held_out_windows = pack_problems(iter(held_out), len(held_out) // 4, tokenizer, SEED)
    np.save(folder / "heldout.npy", held_out_windows, allow_pickle=False)


def describe_problem(problem: Problem) -> dict[str, Any]:
    """Return a problem as plain JSON, with its question, its answer and its number of steps."""
    return {"question": problem.question(), "answer": problem.answer(), "steps": problem.steps}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="Folder to write.")
    parser.add_argument("--windows", type=int, default=TRAINING_WINDOWS, help="Training windows. Default: 32000.")
    arguments = parser.parse_args()
    write_corpus(arguments.corpus, arguments.windows)


if __name__ == "__main__":
    main()
