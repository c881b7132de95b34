"""Studies of a diffusion model, beside an autoregressive one: from the spec to the report's tables."""

import pytest

from sparsedial.analysis.results import compute_results
from sparsedial.errors import SparsedialError, SpecError
from sparsedial.study.runner import run_study
from sparsedial.study.spec import StudySpec

OPTIONS = {"sequences": 6, "length": 12, "batch": 4}


def spec(*models, tasks=("self_prediction",), options=None, **more):
    options = {**OPTIONS, **(options or {})}
    if "denoising" in tasks:
        options.setdefault("diffusion_steps", 4)
    return StudySpec(
        models=models,
        sites=("intermediate",),
        values=(0.8,),
        tasks=tasks,
        dtype="float32",
        task_options=options,
        **more,
    )


def test_both_kinds_of_models_in_one_study(tmp_path):
    results = compute_results(run_study(spec("zoo:dense-1.3m", "zoo:diffusion-1.3m"), tmp_path, device="cpu"))
    assert set(results.critical["model"]) == {"zoo:dense-1.3m", "zoo:diffusion-1.3m"}
    assert set(results.critical["metric"]) == {"expected_agreement"}
    assert results.step_overlap.empty


def test_denoising_has_steps_and_reuse_is_another_task(tmp_path):
    for k in (1, 4):
        requested = spec("zoo:diffusion-1.3m", tasks=("denoising",), options={"reuse_mask": k}, kind="masked-diffusion")
        assert StudySpec.from_json(requested.to_json()) == requested
        store = run_study(requested, tmp_path / str(k), device="cpu")
    both = compute_results([store, type(store)(tmp_path / "1")])
    assert sorted(set(both.critical["task"])) == ["denoising (reuse mask 1)", "denoising (reuse mask 4)"]
    assert set(both.steps["step"]) == set(both.step_overlap["step"]) == {0, 1, 2, 3}
    second = both.step_overlap[(both.step_overlap["step"] == 1) & (both.step_overlap["state"] == "all")]
    alike = second.set_index("task")["overlap_previous"]
    assert alike["denoising (reuse mask 1)"] < 0.95 < alike["denoising (reuse mask 4)"]


def test_the_command_has_all_options(tmp_path):
    requested = spec(
        "zoo:diffusion-1.3m", tasks=("denoising",), options={"reuse_mask": 4}, kind="masked-diffusion", mask_token=1
    )
    words = " ".join(requested.command())
    for part in ("--kind masked-diffusion", "--mask-token 1", "--reuse-mask 4", "--diffusion-steps 4"):
        assert part in words


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (spec("zoo:diffusion-1.3m", kind="both"), "unknown kind 'both'"),
        (spec("zoo:diffusion-1.3m", tasks=("denoising",), options={"block_length": 5}), "does not divide 12 tokens"),
    ],
)
def test_invalid_options_are_reported_before_a_model_is_loaded(tmp_path, monkeypatch, requested, message):
    monkeypatch.setattr("sparsedial.study.worker.load_language_model", None)
    with pytest.raises(SpecError, match=message):
        run_study(requested, tmp_path)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("zoo:dense-1.3m", "masked-diffusion", "it is causal"),
        ("zoo:diffusion-1.3m", "causal", "it is masked-diffusion"),
    ],
)
def test_a_model_of_another_kind_fails_before_any_trial(tmp_path, model, kind, message):
    with pytest.raises(SparsedialError, match=message):
        run_study(spec(model, kind=kind), tmp_path, device="cpu")
    assert not list((tmp_path / "trials").glob("*/*.json"))


def test_an_exception_while_denoising_fails_the_trial(tmp_path, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("broken while denoising")

    monkeypatch.setattr("sparsedial.inference.sampled_denoising.MaskedTokens", broken)
    with pytest.raises(SparsedialError, match="broken while denoising"):
        run_study(spec("zoo:diffusion-1.3m", tasks=("denoising",)), tmp_path, device="cpu")
    assert not list((tmp_path / "trials").glob("*/*.json"))


def test_perplexity_is_refused_before_the_first_trial(tmp_path):
    requested = spec("zoo:diffusion-1.3m", criterion="perplexity")
    with pytest.raises(SpecError, match="is a masked-diffusion model, and no task has a text whose perplexity"):
        run_study(requested, tmp_path, device="cpu")
    assert not list((tmp_path / "prepared").glob("*"))
