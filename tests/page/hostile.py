"""Names and texts that run a script wherever they are not escaped."""

from dataclasses import replace

HOSTILE = (
    '<script>window.attacked=1</script>"onload="window.attacked=2',
    "'\"><img src=x onerror=window.attacked=3>",
    "</script><script>window.attacked=4</script>",
    "--><svg onload=window.attacked=5></svg><!--",
    "javascript:window.attacked=6",
    "</title><style>*{background:url(https://attacker.example/a)}</style>",
    "`${window.attacked=7}`",
    "\x1b[31m\u202ered\x00",
)


def hostile_results(results):
    """Return results in which every free text is hostile.

    Args:
        results: The results of a study with hostile names.
    """
    texts = list(HOSTILE) * (len(results.changed_examples) // len(HOSTILE) + 1)
    examples = results.changed_examples.assign(
        id=texts[: len(results.changed_examples)],
        question=texts[1 : 1 + len(results.changed_examples)],
        dense_answer=texts[2 : 2 + len(results.changed_examples)],
        sparse_answer=texts[3 : 3 + len(results.changed_examples)],
    )
    provenance = {**results.provenance, HOSTILE[0]: {HOSTILE[2]: [{HOSTILE[1]: HOSTILE[5]}]}}
    return replace(
        results, changed_examples=examples, problems=list(HOSTILE), notes=list(HOSTILE), title=HOSTILE[5],
        provenance=provenance,
    )  # fmt: skip
