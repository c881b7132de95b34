"""Arguments that cannot be used: one clear error before any work starts."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM

import sparsedial as sd
from sparsedial.errors import AttachError, ModelError, SparsedialError, SpecError, TaskError
from sparsedial.measurement.arguments import describe_study
from sparsedial.study.progress_listener import NullListener
from sparsedial.tasks.base import Scores
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.spec import TaskSpec
from tests.measurement.conftest import Confidence

FIXED = Confidence()


class Named(Confidence):
    """Task with a name of the user's choice."""

    def __init__(self, name):
        super().__init__()
        object.__setattr__(self, "name", name)


@dataclass(frozen=True)
class Nameless(sd.Rule):
    share: float

    def keep_mask(self, magnitudes):
        return magnitudes >= self.share


@dataclass(frozen=True)
class Unregistered(Nameless):
    name: ClassVar[str] = "unregistered"


@dataclass(frozen=True)
class Impostor(Nameless):
    name: ClassVar[str] = "top_p"


class LastLayer(sd.Site):
    name = "last_layer"
    vectors = ("input",)


CASES = {
    "an object that is no model": (lambda model: ({},), {}, "got an object of type dict: expected the name of a model"),
    "a list in a list": (lambda model: (model,), {"p": [[0.9]]}, "without lists inside"),
    "nothing": (lambda model: (None,), {}, "got an object of type NoneType"),
    "a class": (lambda model: (LlamaForCausalLM,), {}, "got an object of type type"),
    "a module": (lambda model: (nn.Linear(2, 2),), {}, "Linear has no configuration of transformers"),
    "a wrapper without config": (lambda model: (nn.DataParallel(model),), {}, "Pass the model that a wrapper of"),
    "no tokenizer": (lambda model: (model,), {"tasks": ["self_prediction", "next_token"]},
                     "has no tokenizer, which the tasks next_token need"),
    "unknown site": (lambda model: (model,), {"sites": "inptu"}, "did you mean 'input'"),
    "unknown rule": (lambda model: (model,), {"rule": "top-p"}, "did you mean 'top_p'"),
    "unknown task": (lambda model: (model,), {"tasks": "self_predicton"}, "did you mean 'self_prediction'"),
    "unknown model": (lambda model: ("smollm2-135",), {}, "did you mean 'smollm2-135m'"),
    "unknown argument": (lambda model: (model,), {"site": "input"}, "unknown argument 'site': did you mean 'sites'"),
    "unknown option": (lambda model: (model,), {"sequnces": 4}, "'sequnces': did you mean 'sequences'"),
    "an option of another task": (lambda model: (model,), {"num_fewshot": 4}, "unknown task option 'num_fewshot'"),
    "wrong types": (lambda model: (model,), {"retain": "much", "layers": 1.5}, "layers.0.: expected a whole number"),
    "a rule that is not registered": (lambda model: (model,), {"rule": Unregistered}, "Unregistered: the class is not"),
    "a value of it": (lambda model: (model,), {"rule": [Unregistered(0.5)]}, "Unregistered: the class is not"),
    "a rule without a name": (lambda model: (model,), {"rule": Nameless}, "a name of its own, such as name: ClassVar"),
    "a rule with the name of another": (lambda model: (model,), {"rule": Impostor}, "Impostor: the class is not"),
    "a site class": (lambda model: (model,), {"sites": [LastLayer]}, "expected its name, 'last_layer', and @"),
    "a site object": (lambda model: (model,), {"sites": LastLayer()}, "expected its name, 'last_layer'"),
    "no site": (lambda model: (model,), {"sites": [3]}, "site 3: expected the name of a site"),
    "several problems": (lambda model: (model,), {"sites": "inptu", "retain": 2.0, "sequences": 0}, "3 problems"),
    "options of objects": (lambda model: (model,), {"tasks": FIXED, "limit": 3}, "limit: options of tasks, but every"),
    "values out of range": (lambda model: (model,), {"p": [0.5, 2]}, "p=2.0"),
    "no rule": (lambda model: (model,), {"rule": 3}, "rule 3: expected the name of a rule"),
    "rules of different values": (lambda model: (model,), {"rule": [sd.TopP(0.9), sd.TopK(0.5)]}, "different values"),
    "rules and p": (lambda model: (model,), {"rule": [sd.TopP(0.9)], "p": 0.5}, "cannot be combined with p"),
    "device": (lambda model: (model,), {"device": "cuda"}, "applies only to a model that is loaded by its name"),
    "dtype": (lambda model: (model,), {"dtype": "float32"}, "applies only to a model that is loaded by its name"),
    "tokenizer of a name": (lambda model: ("zoo:dense-0.4m", object()), {}, "applies only to a model in memory"),
    "a task without methods": (lambda model: (model,), {"tasks": [object()]}, "has no name, reuse_mask, identity"),
    "a task class": (lambda model: (model,), {"tasks": [TaskSpec]}, "Write TaskSpec"),
    "a task without a name": (lambda model: (model,), {"tasks": [Named("")]}, "name '': expected text as the name"),
    "an average": (lambda model: (model,), {"tasks": [Named("average")]}, "name 'average': reports use this name for"),
    "averages": (lambda model: (model,), {"tasks": [Named("average of a, b")]}, "reports use this name for the aver"),
    "kind": (lambda model: (model,), {"kind": "masked-diffusion"}, "declared as masked-diffusion, but it is causal"),
    "a layer that is missing": (lambda model: (model,), {"layers": [7]}, "Unknown layer"),
    "a directory": (lambda model: (model,), {"out": "/proc/nowhere"}, "/proc/nowhere"),
    "no directory": (lambda model: (model,), {"out": 3}, "out 3: expected a directory, or None"),
    "an empty directory name": (lambda model: (model,), {"out": ""}, "out '': expected a directory, or None"),
    "an executor by name": (lambda model: (model,), {"executor": "ray"}, "executor 'ray': expected a config"),
    "no progress": (lambda model: (model,), {"progress": "x"}, "progress 'x': expected True, False, or an"),
    "a listener class": (lambda model: (model,), {"progress": NullListener}, "expected True, False, or an object with"),
    "no tokenizer but text": (lambda model: (model, "gpt2"), {}, "tokenizer: got str 'gpt2': expected the"),
    "a model as tokenizer": (lambda model: (model, model), {}, "tokenizer: got LlamaForCausalLM"),
    "an empty name": (lambda model: ("",), {}, "model '': the name is empty. Expected a hub ID"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(llama, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    positional, keywords, message = CASES[case]
    with pytest.raises(SparsedialError, match=message):
        sd.measure(*positional(llama), **{"progress": False, **keywords})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("site", ["input", "intermediate"])
def test_a_model_that_is_sparsified_or_accelerated(own_llama, small, site, tmp_path):
    """Its dense trial would be stored as that of the dense model."""
    arguments = {**small, "sites": site, "out": tmp_path / "out"}
    with sd.sparsify(own_llama, "input", sd.TopK(0.1)), pytest.raises(AttachError, match="Leave the `with` block"):
        sd.measure(own_llama, **arguments)
    with sd.accelerate(own_llama, "input", sd.TopK(0.1)) as fast:
        for model in (fast, own_llama):
            with pytest.raises(AttachError, match=r"call restore\(\)"):
                sd.measure(model, **arguments)
    assert not (tmp_path / "out").exists()
    sd.measure(own_llama, **arguments)


def test_a_site_that_the_model_lacks(gpt2):
    with pytest.raises(ModelError, match="gate"):
        sd.measure(gpt2, sites=["input", "gate"], progress=False)


def test_a_model_without_ffns():
    config = MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=96, state_size=4)
    with pytest.raises(ModelError, match="FFN"):
        sd.measure(MambaForCausalLM(config), progress=False)


def test_a_model_without_weights(llama):
    with torch.device("meta"):
        empty = LlamaForCausalLM(llama.config)
    with pytest.raises(ModelError, match="meta"):
        sd.measure(empty, progress=False)


def test_a_task_whose_identity_does_not_name_it(llama, task):
    class Nameless(type(task)):
        def identity(self):
            return {"version": 1}

    with pytest.raises(SpecError, match=r"its identity\(\) returned"):
        sd.measure(llama, tasks=Nameless(), progress=False)


def describe(model="m", **arguments):
    defaults = {"sites": None, "tasks": "self_prediction", "rule": "top_p", "p": None, "layers": None,
                "task_options": {}, "dtype": "auto", "trust_remote_code": False}  # fmt: skip
    return describe_study(model, **{**defaults, **arguments})[0]


def test_one_entry_or_several_and_numbers_of_any_library(tmp_path):
    assert describe(sites="input").sites == ("input",)
    assert describe(sites=("input", "gate", "input")).sites == ("input", "gate")
    assert describe(p=0.5).values == (0.5,)
    assert describe(p=np.linspace(0.5, 1, 3)).values == (0.5, 0.75, 1.0)
    assert describe(p=torch.tensor([0.5])).values == (0.5,)
    assert describe(layers=2).layers == (2,)
    assert describe(layers=range(2)).layers == describe(layers=np.arange(2)).layers == (0, 1)
    assert describe(tasks={"name": "piqa", "limit": 3}).tasks == (TaskSpec("piqa", {"limit": 3}),)
    assert describe(tasks=TaskSpec("piqa")).tasks == describe(tasks=("piqa",)).tasks == (TaskSpec("piqa"),)
    assert describe(model=tmp_path).models == (str(tmp_path),)
    assert describe(tasks="piqa", task_options={"include_path": tmp_path}).task_options == {
        "include_path": str(tmp_path)
    }


def test_a_site_that_is_no_name_cannot_be_sparsified(llama):
    for site in (LastLayer, LastLayer(), 3):
        with pytest.raises(SpecError, match="expected"):
            sd.sparsify(llama, site, sd.TopP(0.5)).__enter__()


@pytest.mark.parametrize(
    ("metric", "values", "message"),
    [
        (3, np.ones(4), "the metric is 3: expected a name"),
        ("share", [1.0, 0.0], "of type list: expected a NumPy array"),
        ("share", np.ones((4, 2)), r"shape \[4, 2\]"),
        ("share", np.array(["a", "b"]), "dtype <U1"),
    ],
)
def test_scores_of_another_kind_name_the_task(llama, metric, values, message):
    class Odd(Confidence):
        def score(self, lm, examples, sparsifier, progress):
            return Scores(metric, values, higher_is_better=True)

    with pytest.raises(TaskError, match=message):
        sd.measure(llama, sites="input", p=0.9, tasks=[Odd()])


def test_a_sparse_model_with_other_examples_than_the_dense_one(llama):
    class Filtering(Confidence):
        def score(self, lm, examples, sparsifier, progress):
            scores = super().score(lm, examples)
            return scores if sparsifier is None else replace(scores, values=scores.values[:5])

    with pytest.raises(TaskError, match=r"returned 5 scores: expected 8, as many as for the dense model"):
        sd.measure(llama, sites="input", p=0.9, tasks=[Filtering()], progress=False)


def test_a_block_with_other_scores_than_examples(llama):
    class Short(SelfPrediction):
        def score(self, lm, examples, sparsifier, progress):
            scores = super().score(lm, examples, sparsifier, progress)
            return replace(scores, values=scores.values[:5])

    with pytest.raises(TaskError, match=r"self_prediction: its score\(\) returned 5 scores: expected 8, one for each"):
        sd.measure(llama, sites="input", p=0.9, tasks=[Short(sequences=8, length=6)], progress=False)
