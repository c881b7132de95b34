"""What changes near the critical sparsity: the answers to single examples, and the predicted tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from sparsedial.analysis.breakdowns import Row, curve_columns
from sparsedial.analysis.example_texts import ExampleTexts, shorten_end
from sparsedial.analysis.json_cells import parse_whole_numbers
from sparsedial.analysis.retention_curves import LabelledCurve
from sparsedial.analysis.trial_set import TrialSet
from sparsedial.study.pooled_trials import PooledTrial
from sparsedial.study.records import TrialRecord
from sparsedial.tasks.example_blocks import ExampleBlock, find_block

EXAMPLES = "examples"
TOKENS = "tokens"

MAX_LISTED_EXAMPLES = 6
"""Number of changed examples that are listed per curve."""

MAX_LISTED_TOKENS = 5
"""Number of tokens that are listed per curve."""

MAX_ANSWER_CHARACTERS = 160


@dataclass
class ChangedAnswers:
    """The rows of the tables of changed answers.

    Attributes:
        changes: One row per curve: how many answers differ from those of the dense model.
        examples: Examples whose answer changed, at most `MAX_LISTED_EXAMPLES` per curve. Lost ones come first.
        tokens: The predicted tokens that changed most often, at most `MAX_LISTED_TOKENS` per curve.
    """

    changes: list[Row] = field(default_factory=list)
    examples: list[Row] = field(default_factory=list)
    tokens: list[Row] = field(default_factory=list)

    def add_curve(
        self, curve: LabelledCurve, trials: Sequence[PooledTrial], trial_set: TrialSet, texts: ExampleTexts
    ) -> None:
        """Compare the answers of one sparse trial with those of the dense model.

        Args:
            curve: The curve of one task.
            trials: The trial nearest to the critical sparsity, alone in a list.
            trial_set: The trials of all studies.
            texts: Reader of the texts of examples.
        """
        (trial,) = trials
        table = _join_answers(trial_set, curve.dense, trial)
        if table.empty:
            return
        columns = {**curve_columns(curve.label, trials), "sparsity": trial.result.sparsity}
        dense_tokens, sparse_tokens = _read_tokens(table)
        if dense_tokens is not None and sparse_tokens is not None:
            self._add_tokens(columns, dense_tokens, sparse_tokens, trial, texts)
        elif dense_tokens is None:
            questions = _read_questions(trial_set, curve.dense, texts)
            self._add_examples(columns, table, questions, higher_is_better=trial.result.higher_is_better is not False)

    def _add_examples(
        self, columns: Row, table: pd.DataFrame, questions: dict[int, str], higher_is_better: bool
    ) -> None:
        gain = table["score"] - table["dense_score"]
        if not higher_is_better:
            gain = -gain
        is_changed = gain != 0.0
        if "prediction" in table:
            is_changed |= table["prediction"] != table["dense_prediction"]
        numbers = {"lost": int((gain < 0).sum()), "gained": int((gain > 0).sum())}
        counts = {"kind": EXAMPLES, "compared": len(table), "changed": int(is_changed.sum())}
        self.changes.append({**columns, **counts, **numbers})
        order = gain[is_changed].sort_values(kind="stable").index[:MAX_LISTED_EXAMPLES]
        for row in table.loc[order].to_dict("records"):
            example = int(row["example"])
            self.examples.append(
                {
                    **columns,
                    "example": example,
                    "id": str(row.get("id", example)),
                    "question": questions.get(example),
                    "dense_answer": _shorten(row.get("dense_prediction")),
                    "sparse_answer": _shorten(row.get("prediction")),
                    "dense_score": row["dense_score"],
                    "sparse_score": row["score"],
                }
            )

    def _add_tokens(
        self, columns: Row, dense: np.ndarray, sparse: np.ndarray, trial: TrialRecord, texts: ExampleTexts
    ) -> None:
        is_changed = dense != sparse
        numbers = {"lost": None, "gained": None}
        counts = {"kind": TOKENS, "compared": len(dense), "changed": int(is_changed.sum())}
        self.changes.append({**columns, **counts, **numbers})
        positions = Counter(dense.tolist())
        pairs = list(zip(dense[is_changed].tolist(), sparse[is_changed].tolist(), strict=True))
        by_token = Counter(map(itemgetter(0), pairs))
        common = sorted(by_token.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED_TOKENS]
        replacements = {}
        for token, _ in common:
            others = Counter(sparse[is_changed & (dense == token)].tolist())
            replacements[token] = min(others.items(), key=lambda item: (-item[1], item[0]))
        shown = {*replacements, *map(itemgetter(0), replacements.values())}
        names = texts.decode_tokens(trial.model, shown)
        for token, count in common:
            other, other_count = replacements[token]
            self.tokens.append(
                {
                    **columns,
                    "token_id": token,
                    "token": names.get(token),
                    "positions": positions[token],
                    "changed": count,
                    "replacement_id": other,
                    "replacement": names.get(other),
                    "replacement_count": other_count,
                }
            )


def _join_answers(trial_set: TrialSet, dense: PooledTrial, sparse: PooledTrial) -> pd.DataFrame:
    """Return the examples that both trials scored, with their answers if both recorded them."""
    dense_table = _read_answers(trial_set, dense)
    sparse_table = _read_answers(trial_set, sparse)
    if dense_table.empty or sparse_table.empty:
        return pd.DataFrame()
    columns = ["example", "score"]
    if "prediction" in dense_table and "prediction" in sparse_table:
        columns.append("prediction")
    names = {"score": "dense_score", "prediction": "dense_prediction"}
    return sparse_table.merge(dense_table[columns].rename(columns=names), on="example", how="inner")


def _read_answers(trial_set: TrialSet, record: PooledTrial) -> pd.DataFrame:
    tables = []
    for block in record.blocks:
        table = trial_set.find_sample_table(block)
        if table is None:
            continue
        if "example" not in table:
            limits = find_block(block.identity.task) or ExampleBlock(0, len(table))
            table = table.assign(example=range(limits.first, limits.first + len(table)))
        tables.append(table)
    if not tables:
        return pd.DataFrame()
    return pd.concat(tables, ignore_index=True)


def _read_questions(trial_set: TrialSet, dense: PooledTrial, texts: ExampleTexts) -> dict[int, str]:
    questions: dict[int, str] = {}
    for block in dense.blocks:
        questions.update(texts.read_questions(trial_set.find_store(block), block))
    return questions


def _read_tokens(table: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the tokens that the dense and the sparse model predict, or None if the answers are no tokens."""
    if "dense_prediction" not in table:
        return None, None
    dense = list(map(parse_whole_numbers, table["dense_prediction"]))
    sparse = list(map(parse_whole_numbers, table["prediction"]))
    if not all(dense) or not all(sparse) or list(map(len, _known(dense))) != list(map(len, _known(sparse))):
        return None, None
    return np.concatenate(list(_known(dense))), np.concatenate(list(_known(sparse)))


def _known(rows: Sequence[list[int] | None]) -> Iterator[list[int]]:
    for row in rows:
        if row is not None:
            yield row


def _shorten(answer: Any) -> str | None:
    if not isinstance(answer, str):
        return None
    return shorten_end(answer.strip(), MAX_ANSWER_CHARACTERS)
