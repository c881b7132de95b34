"""Studies of a made-up thinking model: its texts have given lengths."""

from dataclasses import replace

import numpy as np

from sparsedial.study.sample_table import SampleLabels
from tests.support.made_up_studies import SMALL, study

TASK = "gsm8k"
LIMIT = 100.0


def thinking_study(folder, lengthen, sites=("input",), values=(0.95, 0.8), examples=200, scores_finished_only=False):
    """Write a study in which the dense model generates texts of 30 to 70 tokens.

    Args:
        folder: Directory of the study.
        lengthen: Function from p to the factor by which texts become longer. They end at `LIMIT` tokens.
        sites: Sites of the rule.
        values: Values of p.
        examples: Number of examples.
        scores_finished_only: True if every finished text is right and every other one is wrong.
    """
    store = study(folder, [SMALL], (TASK,), sites, values, examples, generates=(TASK,))
    lengths = np.random.default_rng(5).uniform(30, 70, examples)
    for record in list(store.trials()):
        factor = 1.0 if record.identity.is_dense else lengthen(record.p)
        tokens = np.minimum(lengths * factor, LIMIT)
        limit_hit = (tokens == LIMIT).astype(float)
        columns = {
            "generated_tokens": tokens,
            "limit_hit": limit_hit,
            "prompt_tokens": np.full(examples, 20.0),
            "thinking_tokens": 0.8 * tokens,
            "answer_tokens": 0.2 * tokens,
            "has_thinking": np.ones(examples),
            "unclosed": limit_hit,
            "limit_hit_thinking": limit_hit,
        }
        scores = 1 - limit_hit if scores_finished_only else store.samples(record)
        details = {**record.result.details, **{name: float(values.mean()) for name, values in columns.items()}}
        result = replace(record.result, details=details, score=float(scores.mean()))
        counts = []
        for count in record.counts:
            if count.phase == "prefill":
                counts.append(count)
                continue
            counts.append(replace(count, segment="thinking"))
            counts.append(replace(count, segment="answer", dropped=0))
        store.trial_path(record.key).unlink()
        for path in (store.folder / "samples").glob(f"{record.key}*"):
            path.unlink()
        store.write_trial(replace(record, result=result, counts=tuple(counts)), scores, SampleLabels(columns=columns))
    return store
