"""Requests of a task to a model: the same prompts and tokens as in lm-eval.

The prompts come from the task. The tokens come from lm-eval's Hugging Face model (`HFLM`), which is created with the
tokenizer and the configuration but without weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsedial.errors import TaskError
from sparsedial.inference.run_context import Progress, ignore_progress
from sparsedial.tasks.lm_eval.encoder import silence_lm_eval
from sparsedial.tasks.lm_eval.generation_options import DEFAULT_GENERATION_OPTIONS, GenerationOptions

REQUESTS_PER_BATCH = 32
"""Requests encoded per call of `silence_lm_eval`, which takes as long as encoding one request."""
LOGLIKELIHOOD = "loglikelihood"
ROLLING_LOGLIKELIHOOD = "loglikelihood_rolling"
GENERATION = "generate_until"
REQUEST_KINDS = (LOGLIKELIHOOD, ROLLING_LOGLIKELIHOOD, GENERATION)


@dataclass(frozen=True)
class ContinuationToScore:
    """Continuation to score, and the index of its context.

    Attributes:
        context: Index of the context among `PreparedRequests.contexts`.
        continuation: Token ids to score, at least one.
    """

    context: int
    continuation: list[int]


@dataclass(frozen=True)
class LoglikelihoodRequest:
    """Request for the log-likelihood of a text, which is the sum over its windows.

    A request without windows, for example about an empty document, has the log-likelihood 0.

    Attributes:
        doc: Index of the document.
        idx: Index of the request among those of its document.
        repeats: Number of identical answers that lm-eval expects.
        kind: ``loglikelihood`` or ``loglikelihood_rolling``.
        windows: Continuations to score.
    """

    doc: int
    idx: int
    repeats: int
    kind: str
    windows: tuple[ContinuationToScore, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        windows = [[window.context, window.continuation] for window in self.windows]
        return {"doc": self.doc, "idx": self.idx, "repeats": self.repeats, "kind": self.kind, "windows": windows}


@dataclass(frozen=True)
class GenerationRequest:
    """Request to generate a text.

    Attributes:
        doc: Index of the document.
        idx: Index of the request among those of its document.
        repeats: Number of texts that lm-eval expects.
        context: Index of the prompt among `PreparedRequests.contexts`.
        until: Stop strings. The text ends before the first of them.
        limit: Maximum number of generated tokens.
        options: Further arguments of ``generate``, for example ``do_sample``.
    """

    doc: int
    idx: int
    repeats: int
    context: int
    until: tuple[str, ...]
    limit: int
    options: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """lm-eval's name of this kind of request."""
        return GENERATION

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "doc": self.doc,
            "idx": self.idx,
            "repeats": self.repeats,
            "kind": self.kind,
            "until": list(self.until),
            "limit": self.limit,
            "options": dict(self.options),
            "context": self.context,
        }


Request = LoglikelihoodRequest | GenerationRequest


@dataclass(frozen=True)
class PreparedRequests:
    """All requests of a task, in the tokens of one model.

    Attributes:
        max_length: Maximum number of tokens that the model reads.
        contexts: Distinct token lists that requests refer to by index.
        requests: Requests in lm-eval's order.
        max_shared_length: Maximum number of tokens of windows whose common prefixes are computed once.
    """

    max_length: int
    contexts: tuple[list[int], ...]
    requests: tuple[Request, ...]
    max_shared_length: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; `from_json` reads it back."""
        return {
            "max_length": self.max_length,
            "contexts": list(self.contexts),
            "requests": [request.to_json() for request in self.requests],
            "share_up_to": self.max_shared_length,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PreparedRequests:
        """Return the requests in ``data``.

        Args:
            data: Plain JSON from `to_json`, with the keys ``max_length``, ``contexts``, ``requests`` and
                ``share_up_to``, which is the maximum shared length.
        """
        requests = tuple(map(_request_from_json, data["requests"]))
        return cls(data["max_length"], tuple(data["contexts"]), requests, data["share_up_to"])

    def token_rows(self) -> list[list[int]]:
        """Return all token lists of the requests."""
        rows = list(self.contexts)
        for request in self.loglikelihood_requests().values():
            rows += [window.continuation for window in request.windows]
        return rows

    def documents(self) -> set[int]:
        """Return the indices of the documents that have a request."""
        return {request.doc for request in self.requests}

    def document_tokens(self) -> dict[int, list[int]]:
        """Return the tokens of the first prompt of each document. Without a prompt, those of the text that is scored.

        Returns:
            Token IDs by the index of the document.
        """
        tokens: dict[int, list[int]] = {}
        for request in self.requests:
            if request.doc in tokens:
                continue
            if isinstance(request, GenerationRequest):
                tokens[request.doc] = self.contexts[request.context]
            elif request.windows:
                first = request.windows[0]
                is_whole_text = request.kind == ROLLING_LOGLIKELIHOOD
                tokens[request.doc] = first.continuation if is_whole_text else self.contexts[first.context]
        return tokens

    def loglikelihood_requests(self) -> dict[int, LoglikelihoodRequest]:
        """Return the requests for log-likelihoods, by their index."""
        selected = {}
        for index, request in enumerate(self.requests):
            if isinstance(request, LoglikelihoodRequest):
                selected[index] = request
        return selected

    def generation_requests(self) -> dict[int, GenerationRequest]:
        """Return the requests for texts, by their index."""
        selected = {}
        for index, request in enumerate(self.requests):
            if isinstance(request, GenerationRequest):
                selected[index] = request
        return selected


def encode_requests(
    task_name: str,
    instances: Sequence[Any],
    encoder: Any,
    progress: Progress = ignore_progress,
    *,
    needs_context: bool = True,
    generation: GenerationOptions = DEFAULT_GENERATION_OPTIONS,
) -> PreparedRequests:
    """Return the requests of a task in tokens.

    Args:
        task_name: Name of the task, for error messages.
        instances: lm-eval's requests, as its task made them.
        encoder: lm-eval's model without weights, from `make_weightless_hflm`.
        progress: Called with the requests done and in total.
        needs_context: True if the model cannot predict the first token of a text. Defaults to True.
        generation: Options of generated texts that replace those of the task. Defaults to none.

    Returns:
        The requests. Their ``max_shared_length`` is 0.

    Raises:
        TaskError: A request is of an unknown kind, has no context, has generation arguments that cannot be read, or
            does not fit into the model together with the text that is generated.
    """
    for instance in instances:
        if instance.request_type not in REQUEST_KINDS:
            raise TaskError(
                f"task {task_name!r} asks for {instance.request_type!r}: expected one of {', '.join(REQUEST_KINDS)}"
            )
    request_encoder = _RequestEncoder(task_name, encoder, needs_context, generation)
    requests: list[Request] = []
    for first in range(0, len(instances), REQUESTS_PER_BATCH):
        with silence_lm_eval():
            for instance in instances[first : first + REQUESTS_PER_BATCH]:
                requests.append(request_encoder.encode(instance))
        progress(len(requests), len(instances))
    return PreparedRequests(encoder.max_length, request_encoder.contexts(), tuple(requests))


class _RequestEncoder:
    """Encoder of single requests that stores every distinct context once."""

    def __init__(self, task_name: str, encoder: Any, needs_context: bool, generation: GenerationOptions) -> None:
        self._task_name = task_name
        self._encoder = encoder
        self._needs_context = needs_context
        self._generation = generation
        self._index_by_context: dict[tuple[int, ...], int] = {}

    def contexts(self) -> tuple[list[int], ...]:
        """Return the distinct contexts, in the order of their indices."""
        return tuple(map(list, self._index_by_context))

    def encode(self, instance: Any) -> Request:
        """Return a request of lm-eval in tokens."""
        if instance.request_type == GENERATION:
            return self._encode_generation(instance)
        windows = []
        for context, continuation in self._encoder.windows(instance):
            self._check_window(instance, context, continuation)
            windows.append(ContinuationToScore(self._context_index(context), list(continuation)))
        return LoglikelihoodRequest(
            instance.doc_id, instance.idx, instance.repeats or 1, instance.request_type, tuple(windows)
        )

    def _context_index(self, context: Sequence[int]) -> int:
        """Return the index of a context, which is stored if it is new."""
        return self._index_by_context.setdefault(tuple(context), len(self._index_by_context))

    def _check_window(self, instance: Any, context: Sequence[int], continuation: Sequence[int]) -> None:
        where = f"task {self._task_name!r}, document {instance.doc_id}"
        if not context and self._needs_context:
            raise TaskError(
                f"{where}: the context has no token, so the model cannot predict what follows. The request is "
                f"{instance.args!r:.200}. Expected an empty context or one with text: lm-eval removes spaces at its end"
            )
        if len(continuation) > self._encoder.max_length:
            raise TaskError(
                f"{where}: the continuation has {len(continuation)} tokens, expected at most the "
                f"{self._encoder.max_length} tokens that the model can read"
            )

    def _check_prompt(self, instance: Any, prompt: int, limit: int) -> None:
        """Raise an error if a prompt and the longest text that may follow it do not fit into the model."""
        max_length = self._encoder.max_length
        if prompt + limit <= max_length:
            return
        advice = "Use fewer examples in the prompt (--num-fewshot), or a model with a longer context."
        if prompt < max_length:
            advice = f"Lower --max-gen-toks to {max_length - prompt} or less. {advice}"
        raise TaskError(
            f"task {self._task_name!r}, document {instance.doc_id}: the prompt has {prompt} tokens and up to {limit} "
            f"are generated, expected at most the {max_length} tokens that the model can read. {advice}"
        )

    def _read_generation_arguments(self, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the options of a generated text, with ``max_gen_toks``, and its stop strings."""
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        encoder = self._encoder
        eos = None
        if encoder.eot_token_id is not None:
            eos = encoder.tok_decode(encoder.eot_token_id, skip_special_tokens=False)
        try:
            options = self._generation.apply(normalize_gen_kwargs(dict(arguments), encoder.max_gen_toks))
            until = handle_stop_sequences(options.pop("until", None), eos=eos)
        except (TypeError, ValueError) as error:
            raise TaskError(
                f"task {self._task_name!r}: its generation_kwargs {dict(arguments)!r:.200} cannot be read: {error}"
            ) from error
        wrong = [stop for stop in until if not isinstance(stop, str)]
        if wrong:
            raise TaskError(
                f"task {self._task_name!r}: the stop string {wrong[0]!r:.80} under until is no text: put it in quotes, "
                "or leave it out"
            )
        if options["max_gen_toks"] < 1:
            raise TaskError(
                f"task {self._task_name!r}: max_gen_toks {options['max_gen_toks']} under generation_kwargs: expected "
                "at least 1"
            )
        return options, until

    def _encode_generation(self, instance: Any) -> GenerationRequest:
        """Return the prompt, stop strings, limit and sampling options as `HFLM.generate_until` makes them."""
        encoder = self._encoder
        text = instance.args[0]
        options, until = self._read_generation_arguments(instance.args[1])
        limit = int(options.pop("max_gen_toks"))
        max_prompt_length = encoder.max_length - limit
        if max_prompt_length < 1:
            raise TaskError(
                f"task {self._task_name!r} may generate {limit} tokens, which leaves no room for a prompt: the "
                f"model can read {encoder.max_length} tokens. Lower --max-gen-toks, or use a model with a longer "
                "context."
            )
        tokens, _ = encoder.tok_batch_encode([text])
        self._check_prompt(instance, len(tokens[0]), limit)
        if not len(tokens[0]):
            raise TaskError(
                f"task {self._task_name!r}, document {instance.doc_id}: the prompt {text!r} has no token, expected at "
                "least one: remove the document, or give the task a prompt that is not empty"
            )
        return GenerationRequest(
            doc=instance.doc_id,
            idx=instance.idx,
            repeats=instance.repeats or 1,
            context=self._context_index(tokens[0].tolist()),
            until=tuple(until),
            limit=limit,
            options=options,
        )


def _request_from_json(data: Mapping[str, Any]) -> Request:
    if data["kind"] == GENERATION:
        return GenerationRequest(
            doc=data["doc"],
            idx=data["idx"],
            repeats=data["repeats"],
            context=data["context"],
            until=tuple(data["until"]),
            limit=data["limit"],
            options=data["options"],
        )
    windows = tuple(ContinuationToScore(context, continuation) for context, continuation in data["windows"])
    return LoglikelihoodRequest(data["doc"], data["idx"], data["repeats"], data["kind"], windows)
