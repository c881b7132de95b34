"""Evaluation of the part of a model that follows its last hidden state, without the layers before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from sparsedial.hooks.sparsifier_pause import pause_sparsifiers

BaseModelOutputs = dict[str, list[Any]]
CHECKED_POSITIONS = 8
"""Positions whose logits are compared to find the output stage."""
CHECKED_TOKENS = 4
"""Tokens whose logits are also computed without those of the others. They are spread over the vocabulary."""


@dataclass(frozen=True)
class OutputStage:
    """The part of a model that turns the last hidden states into logits.

    It is evaluated by the model's own forward, in which the base model returns given hidden states. It thus includes
    everything that the model does after its output embedding, such as a soft cap or a scale. Use `find_output_stage`
    to create one, because not every model can be evaluated in this way.

    Attributes:
        base: Path of the base model, whose output contains the last hidden states.
        output_type: Class of the base model's output.
        device: Device of the last hidden states.
        is_divisible: True if the logits of single tokens can be computed without those of the others. Defaults to
            False.
    """

    base: str
    output_type: Callable[..., Any]
    device: torch.device
    is_divisible: bool = False

    def logits(self, model: nn.Module, hidden: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits of positions whose last hidden states are known. Attached sparsifiers count nothing.

        Args:
            model: The model.
            hidden: Last hidden states, shape [positions, D], on any device.
            tokens: Token IDs whose logits are computed, shape [count], if the stage is divisible. Defaults to None,
                which means the whole vocabulary.

        Returns:
            Logits of shape [positions, vocabulary] or [positions, count].
        """
        output = self._make_output(hidden[None].to(self.device))
        inputs = torch.zeros(1, len(hidden), dtype=torch.int64, device=self.device)  # only their shape is read
        with ExitStack() as stack:
            stack.enter_context(pause_sparsifiers())
            stack.enter_context(_replace_forward(model.get_submodule(self.base), lambda *_, **__: output))
            if tokens is not None:
                embedding = _output_embedding(model)
                stack.enter_context(_replace_forward(embedding, _select_rows(embedding, tokens)))
            logits: torch.Tensor = model(input_ids=inputs, use_cache=False).logits
        return logits[0]

    def _make_output(self, hidden: torch.Tensor) -> Any:
        """Return an output of the base model that contains only the last hidden states."""
        if self.output_type is torch.Tensor:
            return hidden
        if self.output_type is tuple:
            return (hidden,)
        return self.output_type(last_hidden_state=hidden)


def find_output_stage(model: nn.Module, inputs: torch.Tensor) -> OutputStage | None:
    """Return the output stage of a model, after comparing its logits with those of a forward pass.

    Args:
        model: Causal language model.
        inputs: A few token IDs that the model can read, int64 of shape [1, tokens].

    Returns:
        The output stage, or None if no part of the model can be evaluated alone.
    """
    with pause_sparsifiers(), record_base_models(model) as outputs:
        logits = model(input_ids=inputs, use_cache=False).logits
    return match_output_stage(model, outputs, logits)


@contextmanager
def record_base_models(model: nn.Module) -> Iterator[BaseModelOutputs]:
    """Record the outputs of the modules that may return the last hidden states of a model.

    Args:
        model: Causal language model.

    Yields:
        BaseModelOutputs: The outputs of each module inside the `with` block, by its path.
    """
    outputs: BaseModelOutputs = {}
    with ExitStack() as stack:
        for base in _list_base_models(model):
            outputs[base] = stack.enter_context(_record_outputs(model.get_submodule(base)))
        yield outputs


def match_output_stage(model: nn.Module, outputs: BaseModelOutputs, logits: torch.Tensor) -> OutputStage | None:
    """Return the output stage that turns the recorded outputs of a forward pass into its logits.

    Args:
        model: The model.
        outputs: Outputs of one forward pass, from `record_base_models`.
        logits: Logits of the same forward pass, shape [rows, tokens, vocabulary].

    Returns:
        The output stage, or None if no part of the model can be evaluated alone. A few positions are compared.
    """
    expected = logits[0, :CHECKED_POSITIONS].float()
    for base, base_outputs in outputs.items():
        if len(base_outputs) != 1:
            continue
        try:
            stage = _match_base_model(model, base, base_outputs[0], expected)
        except Exception:  # the code of a model may fail in any way if its base model returns only hidden states
            continue
        if stage is not None:
            return stage
    return None


def last_hidden_state(output: Any) -> torch.Tensor:
    """Return the last hidden states in the output of a base model.

    Args:
        output: The output: a tensor, or a tuple or record that begins with it.

    Returns:
        The hidden states, shape [rows, tokens, D].
    """
    if isinstance(output, torch.Tensor):
        return output
    hidden: torch.Tensor = output[0]
    return hidden


def _match_base_model(model: nn.Module, base: str, output: Any, expected: torch.Tensor) -> OutputStage | None:
    """Return the output stage after a base model, or None if it gives other logits than the whole model."""
    hidden = last_hidden_state(output)[0, : len(expected)]
    stage = OutputStage(base, type(output), hidden.device)
    # In reverse order, so that an output stage that ignores the given hidden states is detected.
    logits = stage.logits(model, hidden.flip(0)).flip(0).float()
    if logits.shape != expected.shape:
        return None
    largest = expected.nan_to_num(0, posinf=0, neginf=0).abs().max()
    tolerance = max(1e-4, 8 * torch.finfo(hidden.dtype).eps) * largest
    is_equal = [_are_close(logits, expected, tolerance)]
    # On the device from the start, because a copy from the CPU would wait for all earlier work of the device.
    last = expected.shape[-1] - 1
    tokens = torch.linspace(last, 0, CHECKED_TOKENS, dtype=torch.float32, device=expected.device).long()
    some_logits = _evaluate_some_tokens(stage, model, hidden, tokens)
    if some_logits is not None:
        wanted = expected.index_select(1, tokens)
        if some_logits.shape == wanted.shape:
            is_equal.append(_are_close(some_logits, wanted, tolerance))
    answers: list[bool] = torch.stack(is_equal).tolist()  # once, because it waits for the device
    if not answers[0]:
        return None
    return replace(stage, is_divisible=answers[1:] == [True])


def _evaluate_some_tokens(
    stage: OutputStage, model: nn.Module, hidden: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor | None:
    """Return the logits of a few tokens alone, or None if this fails."""
    embedding = _output_embedding(model)
    if type(embedding) is not nn.Linear or "forward" in vars(embedding):
        return None  # quantised, offloaded, or with an adapter
    try:
        return stage.logits(model, hidden, tokens).float()
    except Exception:  # code that expects the whole vocabulary may fail in any way
        return None


def _are_close(values: torch.Tensor, expected: torch.Tensor, tolerance: torch.Tensor) -> torch.Tensor:
    """Return whether all values differ by at most the tolerance, or are the same infinity: a boolean on the device."""
    return (((values - expected).abs() <= tolerance) | (values == expected)).all()


def _output_embedding(model: nn.Module) -> Any:
    get_output_embeddings: Callable[[], Any] = getattr(model, "get_output_embeddings", lambda: None)
    return get_output_embeddings()


def _select_rows(embedding: nn.Linear, tokens: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a forward of the output embedding that computes the logits of these tokens only."""
    rows = tokens.to(embedding.weight.device)
    weight = embedding.weight[rows]
    bias = None if embedding.bias is None else embedding.bias[rows]
    return lambda hidden: nn.functional.linear(hidden, weight, bias)


def _list_base_models(model: nn.Module) -> list[str]:
    """Return the paths of the modules that may return the last hidden states of a model."""
    find_decoder: Callable[[], Any] = getattr(model, "get_decoder", lambda: None)
    candidates = [getattr(model, getattr(model, "base_model_prefix", "") or "model", None), find_decoder()]
    searched = {id(candidate) for candidate in candidates if candidate is not None}
    names = []
    for name, module in model.named_modules():
        if not searched:  # usually after one module, before the names of all others are known
            break
        if id(module) in searched:
            searched.remove(id(module))
            if name:
                names.append(name)
    return names


@contextmanager
def _record_outputs(module: nn.Module) -> Iterator[list[Any]]:
    """Append the output of a module to a list whenever it is called."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


@contextmanager
def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward of a module inside the `with` block."""
    previous = vars(module).get("forward")  # set on the instance by other code, such as accelerate
    module.forward = forward
    try:
        yield
    finally:
        if previous is None:
            del module.forward
        else:
            module.forward = previous
