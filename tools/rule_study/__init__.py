"""Tables and figures of docs/rules.md, docs/rules-and-sites.md and docs/criteria.md, from the directories of studies.

    python -m tools.rule_study rules DIR... --out FOLDER        # examples/rules-and-sites.yaml
    python -m tools.rule_study data-free DIR... --out FOLDER    # examples/data-free.yaml, examples/data_free.py
    python -m tools.rule_study criteria DIR... --out FOLDER     # examples/criteria.yaml

Each command prints tables in Markdown, and writes a CSV file with all numbers and an SVG figure. The parts of a study
that was divided by sites are read together, as are studies of several models.
"""
