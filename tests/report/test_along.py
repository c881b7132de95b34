"""The figures along the denoising steps, from counts that are known."""

import numpy as np
import pytest
from made_up_studies import Model, study
from test_figures import rows, text_of

from sparsedial.report import along, drawing
from sparsedial.report.charts import details
from sparsedial.study import profiles
from sparsedial.study.results import results


def steps(site, vectors, shift=0.0):
    """Three steps of two layers: of 10 masked tokens two are revealed in each."""
    made = []
    for layer in range(2):
        for vector in vectors:
            for step in range(3):
                for state, tokens in (("masked", 10 - 2 * step), ("revealed", 1 + 2 * step)):
                    compared = tokens if step else 0
                    made.append({
                        "layer": layer, "module": f"l{layer}", "site": vector, "expert": None, "step": step,
                        "state": state, "tokens": tokens, "dropped": 40 * tokens + (10 if state == "masked" else 0),
                        "total": 100 * tokens, "sparsity": None, "compared": compared,
                        "consecutive": 0.6 + 0.1 * layer + shift if compared else None,
                        "drift": 0.5 - 0.1 * step if compared else None,
                    })  # fmt: skip
    return made


def record(p=0.9, **kwargs):
    return {"identity": {"rule": {"value": p}}, "stats": [], "steps": steps("input", ("input",), **kwargs)}


LABEL = dict.fromkeys(profiles.LABELS, "x")


def test_likeness_is_weighed_by_the_tokens_that_had_a_step_before():
    found = {(r["step"], r["state"]): r for r in profiles.likeness_rows(LABEL, [record(), record(shift=0.1)])}
    assert set(found) == {(s, t) for s in range(3) for t in ("masked", "revealed", "all")}
    assert found[1, "all"]["consecutive"] == pytest.approx(0.7)  # 0.6 and 0.7 by layer, and 0.1 more in one trial
    assert found[2, "masked"]["drift"] == pytest.approx(0.3)
    assert np.isnan(found[0, "all"]["consecutive"])
    assert found[1, "masked"]["sparsity"] == pytest.approx((40 * 8 + 10) / 800)
    assert found[1, "all"]["sparsity"] == pytest.approx((40 * 11 + 10) / 1100)
    before = {name: value for name, value in record().items() if name != "steps"}  # of an earlier version, or no steps
    assert profiles.likeness_rows(LABEL, [before]) == []


@pytest.fixture
def found(tmp_path, monkeypatch):
    import made_up_studies

    plain = made_up_studies._record

    def stepped(model, own, task, site, rule, generates):
        made = plain(model, own, task, site, rule, generates)
        if site and model.steps:
            made["steps"] = steps(site, made_up_studies.VECTORS.get(site, (site,)))
        return made

    monkeypatch.setattr(made_up_studies, "_record", stepped)
    models = [Model("dlm", 10_000_000, layers=2, steps=3), Model("plain", 10_000_000)]
    return results(study(tmp_path, models, ("denoising",), ("input", "all_inputs")))


def test_only_models_with_steps_have_these_figures(found):
    names = [name for name, _, _ in details(found)]
    assert [name for name in names if name.startswith(("overlap", "revealed"))] == ["overlap", "revealed"]


def test_the_overlap_is_drawn_from_the_second_step_on(found):
    chart = along.overlap(found.likeness)
    drawn = rows(chart)
    assert {row["panel"] for row in drawn} == {"input", "all_inputs: input", "all_inputs: intermediate"}
    assert sorted({(row["step"], row["of"]) for row in drawn}) == [
        (step, of) for step in (1, 2) for of in ("with the first step", "with the step before")
    ]
    assert "Jaccard index" in text_of(drawing.to_svg(chart))


def test_masked_and_revealed_tokens_are_two_lines(found):
    drawn = rows(along.revealed(found.likeness))
    assert len(drawn) == 3 * 3 * 2  # panels, steps, states
    assert {row["of"] for row in drawn} == {"masked", "revealed"}


def test_without_steps_there_is_nothing_to_draw(found):
    with pytest.raises(ValueError, match="nothing to draw"):
        along.overlap(found.likeness[found.likeness["step"] == 0])
