"""A generation task that a model solves when it is dense: its targets are the texts that the dense model writes."""

from sparsedial.inference.generation import Prompt
from sparsedial.inference.generation_engine import generate
from tests.support.lm_eval_tasks import MEAN, write_task

QUESTIONS = ("The dog", "A cat sat on", "Once there was a red", "She said that", "In the morning the sun", "He ran")
LIMIT = 10


def write_solvable_task(folder, lm, name="tiny_solvable", questions=QUESTIONS, limit=LIMIT, until=("\n",)):
    """Write the YAML file and the data of the task, and return the texts that are its targets."""
    prompts = [
        Prompt(lm.tokenizer(question)["input_ids"], until, limit, {"do_sample": False}) for question in questions
    ]
    texts = []
    for text in generate(lm.model, lm.tokenizer, prompts):
        decoded = lm.tokenizer.decode(text.tokens, skip_special_tokens=True)
        for stop in until:
            decoded = decoded.split(stop)[0]
        texts.append(decoded)
    documents = [{"question": question, "text": text} for question, text in zip(questions, texts, strict=True)]
    task = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{text}}",
        "generation_kwargs": {"until": list(until), "do_sample": False, "max_gen_toks": limit},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    }
    write_task(folder, name, task, documents)
    return texts
