"""The tables and figures of rules, calibration data and criteria, from studies of the smallest zoo model."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import sparsedial as sd
from tools.rule_study import calibration_data, criteria, rules_and_sites
from tools.rule_study.study_curves import read_study_curves

ROOT = Path(__file__).parents[2]
SENTENCES = {
    "animals": ("The cat sat on the mat and slept.", "A fox ran over the field at night."),
    "numbers": ("Two and two are four, and three is less.", "Seven is more than six and less than eight."),
}


def measure(folder, **options):
    sd.measure(
        "zoo:dense-0.4m", device="cpu", dtype="float32", out=folder, progress=False, p=[0.9, 0.7, 0.5], **options
    )


def test_rules_are_compared_with_top_p_by_both_criteria(tmp_path):
    measure(tmp_path, sites="input", rule=["top_p", "top_k", "weighted_top_k"], sequences=12, length=8)
    table = rules_and_sites.make_table(read_study_curves([tmp_path]))
    assert len(table.rows) == 3 * 2
    baseline = table.rows[table.rows["rule"] == "top_p"]
    assert baseline["difference"].isna().all()
    others = table.rows[table.rows["rule"] != "top_p"]
    assert (others["low"] <= others["high"]).all()
    lines = [line for line in table.markdown.splitlines() if line.startswith("| `top_k` |")]
    assert lines
    assert table.markdown.count("| rule | `input` |") == 3
    assert "zoo:dense-0.4m, critical sparsity by perplexity" in table.markdown


def test_the_sites_of_a_model_are_summarized():
    differences = [(-0.05, -0.09, -0.01), (0.02, 0.01, 0.03), (0.01, -0.02, 0.04), (None, -0.2, 0.2)]
    rows = pd.DataFrame(differences, columns=["difference", "low", "high"])
    rows = rows.assign(rule="top_k", model="m", criterion="score")
    table = rules_and_sites._summarize(rows, ["m", "other"], ("difference", "low", "high"))
    assert table.splitlines()[2:] == ["| `top_k` | -5.0 to +2.0; 1 less, 1 more of 3 | – |"]


def test_parts_of_a_study_are_read_together(tmp_path):
    for site in ("input", "up"):
        measure(tmp_path / site, sites=site, rule=["top_p", "top_k"], sequences=6, length=6)
    parts = read_study_curves([tmp_path / "input", tmp_path / "up"])
    assert [(curve.site, curve.rule) for curve in parts] == [
        ("input", "top_k"), ("up", "top_k"), ("input", "top_p"), ("up", "top_p"),
    ]  # fmt: skip
    assert {(curve.model, curve.family) for curve in parts} == {("zoo:dense-0.4m", "dense")}
    table = rules_and_sites.make_table(parts)
    assert "| `top_k` |" in table.markdown
    (line,) = [line for line in table.markdown.splitlines() if "| `input` | `up` |" in line][:1]
    assert line == "| rule | `input` | `up` |"


def test_trends_are_those_of_a_family_and_other_models_are_subtracted(tmp_path):
    measure(tmp_path, sites="input", sequences=12, length=8)
    (curve,) = read_study_curves([tmp_path])
    larger = replace(curve, model="larger", parameters=10 * curve.parameters)
    other = replace(curve, model="other", family="other", parameters=100 * curve.parameters)
    tables = criteria.make_table([curve, larger, other]).markdown.split("\n\n")
    assert len(tables) == 3
    (trend,) = tables[1].splitlines()[2:]
    assert trend.startswith("| `input` | self_prediction | 2 | ") and "+0.0 (" in trend
    (pair,) = tables[2].splitlines()[2:]
    assert pair.startswith("| `input` | self_prediction | other − larger | +0.0 (")
    assert len(criteria.make_table([curve, other]).markdown.split("\n\n")) == 2


def test_the_criteria_are_compared_with_their_difference(tmp_path):
    measure(tmp_path, sites="input", tasks=["self_prediction", "next_token"], sequences=12, length=8, limit=12)
    table = criteria.make_table(read_study_curves([tmp_path]))
    assert table.rows["task"].tolist() == ["next_token", "self_prediction"]
    for row in table.rows.to_dict("records"):
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_trends_over_sizes_are_compared():
    zero = (0.0, -0.1, 0.1)
    assert criteria._subtract((0.3, 0.2, 0.4), zero) == pytest.approx((0.3, 0.3 - 0.02**0.5, 0.3 + 0.02**0.5))
    assert criteria._subtract((0.3, None, None), zero) == (0.3, None, None)


@pytest.mark.slow
def test_calibration_on_the_tested_task_and_on_another_are_compared(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, sentences in SENTENCES.items():
        lines = [f'{{"text": "{sentence}"}}\n' for sentence in sentences]
        (texts / f"{name}.jsonl").write_text("".join(lines * 4))
        (texts / f"{name}.calibration.jsonl").write_text("".join(lines * 8))
    out = tmp_path / "study"
    command = [sys.executable, "examples/data_free.py", "zoo:dense-0.4m", str(texts), "--out", str(out), "--limit", "8"]
    subprocess.run([*command, "--sites", "intermediate", "--device", "cpu", "--length", "8"], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "tools.rule_study", "data-free", str(out), "--out", str(tmp_path)]
    command += ["--tables", str(tmp_path / "tables")]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "`threshold`" in printed
    rows = pd.read_csv(tmp_path / "tables" / "data-free.csv")
    assert set(rows["task"]) == {"animals", "numbers", calibration_data.ALL_TASKS}
    assert set(rows["comparison"]) == set(calibration_data.COMPARISONS)
    means = rows.groupby(["rule", "comparison"])["difference"]
    tasks = rows[rows["task"] != calibration_data.ALL_TASKS].groupby(["rule", "comparison"])["difference"].mean()
    averages = rows[rows["task"] == calibration_data.ALL_TASKS].set_index(["rule", "comparison"])["difference"]
    assert averages.sort_index().tolist() == pytest.approx(tasks.sort_index().tolist())
    assert means.ngroups == len(averages)
    assert (tmp_path / "data-free.svg").read_text().startswith("<svg")
