"""Tiny tasks of lm-eval, one for each kind of request, and lm-eval's own answers to compare with."""

import json

import yaml

from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.loader import TaskSelection, load_lm_eval_tasks
from sparsedial.tasks.lm_eval.options import LmEvalSettings

DOCUMENTS = [
    {"question": "What falls?", "options": ["rain", "rainbows", "a stone", "rail"], "gold": 0},
    {"question": "Who sings at night, when all of the others sleep?", "options": ["owl", "cat"], "gold": 1},
    {"question": "x", "options": ["y", "z", "yes"], "gold": 2},
    {"question": "Long? " + "very long, " * 13, "options": ["no", "yes, it is", "yes, is it"], "gold": 1},
    {"question": "Seven?", "options": ["7", "8"], "gold": 0},
]
MEAN = {"aggregation": "mean", "higher_is_better": True}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_target": "gold",
    "doc_to_choice": "{{options}}",
    "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{question}}",
    "doc_to_target": " {{options[gold]}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", **MEAN},
    ],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
}
WRITE = {
    "output_type": "generate_until",
    "doc_to_text": "{{question[:60]}}",
    "doc_to_target": "{{options[gold]}}",
    "generation_kwargs": {"until": ["4", "k"], "do_sample": False, "max_gen_toks": 12},
    "filter_list": [{"name": "stripped", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", **MEAN}],
}
TASKS = {"tiny_choice": CHOICE, "tiny_last": LAST_WORD, "tiny_rolling": ROLLING, "tiny_write": WRITE}


def write_tasks(folder):
    """Write the YAML files and the data of all tiny tasks, a group, and two tasks with something wrong."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    for name, task in TASKS.items():
        write_yaml(folder / f"{name}.yaml", {"task": name, **common, **task})
    write_yaml(folder / "all.yaml", {"group": "tiny_all", "task": ["tiny_choice", "tiny_write"]})
    f1_metrics = [*CHOICE["metric_list"], {"metric": "f1"}]
    write_yaml(folder / "f1.yaml", {"task": "tiny_f1", **common, **CHOICE, "metric_list": f1_metrics})
    missing_data = {"dataset_kwargs": {"data_files": {"test": str(folder / "missing.jsonl")}}}
    write_yaml(folder / "missing.yaml", {"task": "tiny_missing", **common, **CHOICE, **missing_data})


def write_task(folder, name, task, documents, data_folder=None):
    """Write one task with its own documents, which may be in another folder."""
    data_folder = data_folder or folder
    data = data_folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(data_folder / "cache")},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    write_yaml(folder / f"{name}.yaml", {**common, **task})


def write_yaml(path, content):
    """Write one YAML file."""
    path.write_text(yaml.safe_dump(content))


def load_tasks(names, folder, **settings):
    """Return the tasks of these names in a folder."""
    return load_lm_eval_tasks([TaskSelection(names, LmEvalSettings(include_path=folder, **settings))])


def load_task(folder, name, **settings):
    """Return one task in a folder."""
    [task] = load_tasks([name], folder, **settings)
    return task


def make_hflm(lm, batch_size=1):
    """Return lm-eval's own model around a loaded model."""
    with silence_lm_eval():
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=batch_size)


def lm_eval_responses(task, lm, **arguments):
    """Return lm-eval's own answers to its own requests."""
    with silence_lm_eval():
        task.lm_eval_task.build_all_requests(limit=task.settings.limit, **arguments)
        instances = task.lm_eval_task.instances
        return getattr(make_hflm(lm), instances[0].request_type)(instances, disable_tqdm=True)
