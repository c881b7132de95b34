"""Definitions of the terms of a report. Each is shown once, where its term first stands."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sparsedial.analysis.labels import is_average
from sparsedial.analysis.results import Results
from sparsedial.curves.critical import RIGHT_CENSORED
from sparsedial.report.page.html_elements import escape
from sparsedial.study.criterion import RETAIN_BY_PERPLEXITY
from sparsedial.study.requirement_text import describe_condition, is_by_perplexity

SITES = {
    "input": "input: the vector that the FFN reads",
    "up": "up: the output of the up projection",
    "gate": "gate: the output of the gate projection after its activation function",
    "intermediate": "intermediate: the product of up and gate, which the down projection reads",
    "all_inputs": "all_inputs: both input and intermediate, the vectors that the FFN's weight matrices multiply",
    "attention_input": "attention_input: the hidden state that the projections of an attention read",
    "attention_output": "attention_output: the output of an attention, which its output projection reads",
    "lm_head_input": "lm_head_input: the vector that the output layer reads",
}
"""Definitions of the built-in sites."""

RULES = {
    "top_p": "top_p keeps the fewest entries of a vector, in descending order of magnitude, whose magnitudes sum to at "
    "least p times the L1 norm of the vector; p = 1 is the dense model",
    "top_k": "top_k keeps a fixed share of the entries, those of the largest magnitude",
    "max_p": "max_p keeps the entries whose magnitude is at least p times the largest one",
}
"""Definitions of the built-in rules."""

METRICS = {
    "agreement": "agreement: the share of tokens, sampled from the dense model, that are the model's first choice",
    "expected_agreement": "expected_agreement: the mean probability, under the dense model, of the token that the "
    "model ranks first",
}

RETENTION = (
    "Retention",
    "The score of the sparse model divided by the score of the dense model, on the same examples. If lower scores are "
    "better, the dense score divided by the sparse score.",
)
RETENTION_BY_PERPLEXITY = (
    "Retention",
    "1 minus the increase of the mean negative log-likelihood over that of the dense model, on the same texts. A "
    f"perplexity 1% higher is a retention of {100 * RETAIN_BY_PERPLEXITY:.1f}%.",
)
P = (
    "p",
    "The parameter of the rule. Its row in a table belongs to the number that answers: the lower end of a wide "
    "interval, else the estimate.",
)
MACS = (
    "Skippable MACs",
    "The share of the FFN's multiply-accumulates (MACs) that a runtime can skip, because one of their factors is zero. "
    "At a site outside of the FFN: of the multiply-accumulates of the projections that read the vector.",
)
WEIGHTS = (
    "Of all weights",
    "The same as a share of all weights that the model reads for one token: those of the FFNs, the attentions, the "
    "output layer and the norms, without the table of embeddings. In a mixture of experts, an expert counts in "
    "proportion to the tokens that it reads.",
)
CENSORED = (
    "Right-censored (≥)",
    "The last measured point still meets the condition, so the value is a lower bound.",
)
AT_LEAST = (
    "At least",
    "The lower end of the interval, which can be relied on with 97.5% confidence. It is named first where the interval "
    "is wider than the study requests (±2 percentage points by default).",
)


def define_answer_terms(results: Results) -> str:
    """Return the definitions of the terms in the answer: the sites, the rules, the tasks and critical sparsity.

    Args:
        results: The results. Only terms that occur in them are defined.

    Returns:
        HTML. Empty without results.
    """
    critical = results.critical
    if critical.empty:
        return ""
    sites = set(map(str, critical["site"]))
    rules = set(re.findall(r"[a-z]+_[a-z]+", " ".join(map(str, critical["rule"]))))
    entries = {
        "Sparsity": "The share of the entries of an activation vector that are dropped, which means set to zero.",
        "Site": "The vector whose entries are dropped. " + _join(SITES, sites),
        "Rule": _join(RULES, rules),
        "Critical sparsity": f"The highest sparsity at which {describe_condition(results.retain)}. It is interpolated "
        "between the dense model and the measured points. Both ends of its 95% confidence interval (CI) are measured "
        "points: the last one that is shown to meet this condition, and the first one from which on every point is "
        "shown to fail it.",
        **_define_tasks(results),
    }
    if (critical["status"] == RIGHT_CENSORED).any():
        entries[CENSORED[0]] = CENSORED[1]
    return define(*entries.items())


def define_retention(results: Results) -> str:
    """Return the definition of retention.

    Args:
        results: The results.

    Returns:
        HTML.
    """
    return define(RETENTION_BY_PERPLEXITY if is_by_perplexity(results.retain) else RETENTION)


def define(*terms: tuple[str, str]) -> str:
    """Return a list of definitions.

    Args:
        *terms: The terms with their definitions, not escaped. Terms with an empty definition are left out.

    Returns:
        HTML.
    """
    entries = ""
    for term, text in terms:
        if text:
            entries += f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>"
    return f'<dl class="terms">{entries}</dl>'


def _join(definitions: Mapping[str, str], names: set[str]) -> str:
    """Return the definitions of some names as one sentence. Empty if none of them is defined."""
    text = "; ".join(definitions[name] for name in definitions if name in names)
    if not text:
        return ""
    return f"{text}."


def _define_tasks(results: Results) -> dict[str, str]:
    tasks = set(map(str, results.critical["task"]))
    entries = {}
    if "self_prediction" in " ".join(tasks):
        entries["Self-prediction"] = (
            "A task without data: the model continues its own text, and the sparse model is scored on the tokens that "
            "the dense model samples."
        )
    metrics = set(map(str, results.critical["metric"]))
    known = _join(METRICS, metrics)
    if known:
        entries["Agreement"] = f"The metric of self-prediction. {known} The dense score is below 1."
    if any(map(is_average, tasks)):
        entries["Average"] = (
            "The mean score over the tasks at each p, as in the paper, if all scores lie between 0 and 1 and higher is "
            "better. Otherwise it is an average of retentions. Tasks whose dense score cannot be told from chance are "
            "left out."
        )
    return entries
