"""Discovery of a model's feed-forward networks (FFNs) by what they compute, not by what they are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn

from sparsedial.errors import ModelError, SpecError
from sparsedial.ffn.adapter_detection import leave_out_idle_adapters, separate_adapters
from sparsedial.ffn.attention_matching import AttentionMatcher
from sparsedial.ffn.data_flow_trace import DataFlow, DataFlowTracker
from sparsedial.ffn.discovery_errors import failed_call_message, no_ffn_message
from sparsedial.ffn.elementwise_trace import ProjectionCall, run_forward, trace_projections
from sparsedial.ffn.feed_forward import FFN, FFNs
from sparsedial.ffn.ffn_building import build_ffns
from sparsedial.ffn.layer_locator import LayerLocator
from sparsedial.ffn.projection_input import OUTER_SITES, OuterVectors
from sparsedial.ffn.trace_matching import match_ffns, separate_enclosed_ffns
from sparsedial.ffn.untraced_experts import find_idle_experts, find_stacked_experts, record_active_experts
from sparsedial.ffn.user_named_modules import match_by_patterns
from sparsedial.ffn.weights_per_token import count_weights_per_token


def find_ffns(
    model: nn.Module, *, inputs: Mapping[str, Any] | None = None, modules: Mapping[str, str] | None = None
) -> FFNs:
    """Find the FFNs of a transformer language model.

    The function traces one forward pass over six tokens and leaves the model unchanged. An FFN is a projection,
    *down*, that reads a nonlinear elementwise function of the outputs of one projection (plain:
    ``down(act(up(x)))``) or of two (gated: ``down(up(x) * act(gate(x)))``).

    The function supports separate and fused gate and up projections, `nn.Linear` and GPT-2's `Conv1D`, any activation,
    FFNs whose projections are direct children of the decoder layer, FFNs in parallel to the attention, and models
    inside a multimodal wrapper. In a mixture of experts, each expert is one FFN. The experts can be modules in a list,
    or their weights can be stacked in one parameter as in transformers.

    Bottleneck adapters beside the FFN of a layer are left out. They are listed in ``adapters``, and ``modules`` selects
    them.

    Args:
        model: The model with its weights.
        inputs: Keyword arguments of the model's forward (default: ``input_ids`` with six small token ids).
        modules: Patterns of the projections' paths for the roles "up", "down" and, if gated, "gate" (default: the
            projections are found by tracing). ``*`` matches any text. Any other role raises `SpecError`.

    Returns:
        The FFNs, ordered by layer and expert. FFNs and modules that seem to contain experts but cannot be sparsified
        are in ``unsupported``, with the reason. The vectors that attentions and the output layer read are in ``outer``.

    Raises:
        SpecError: The object is no torch module.
        ModelError: No FFN was found, or the model could not be called. The message describes the projections that
            were called, and how to name the modules with ``modules``.

    Example:
        >>> import sparsedial as sd
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...                      vocab_size=64)
        >>> ffns = sd.find_ffns(LlamaForCausalLM(config))
        >>> len(ffns), ffns[1].name, ffns[1].hidden, ffns[1].width, ffns[1].gated
        (2, 'model.layers.1.mlp', 16, 32, True)
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> config = MixtralConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        ...                        num_key_value_heads=2, num_local_experts=4, vocab_size=64)
        >>> ffns = sd.find_ffns(MixtralForCausalLM(config))
        >>> len(ffns), ffns[5].name, ffns[5].layer, ffns[5].expert
        (8, 'model.layers.1.mlp.experts.1', 1, 1)
    """
    check_module(model)
    traced_inputs = _example_inputs(model) if inputs is None else dict(inputs)
    if modules is not None:
        matches = match_by_patterns(model, modules)
        return _add_outer_vectors(model, build_ffns(LayerLocator(model), matches), traced_inputs)
    return _find_by_tracing(model, traced_inputs)


def check_module(model: object) -> None:
    """Check that an object is a torch module, and not the name of a model, a pipeline or a tokenizer.

    Args:
        model: The object.

    Raises:
        SpecError: It is something else.
    """
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"model: got an object of type {type(model).__name__}: expected a model in memory, such as the first one "
            "of the two that sparsedial.load_model returns"
        )


def _add_outer_vectors(model: nn.Module, ffns: list[FFN], inputs: dict[str, Any]) -> FFNs:
    """Return FFNs that the user named, with the vectors outside of them if the model can be traced."""
    tracker = DataFlowTracker(model, inputs)
    try:
        with tracker.observe():
            run_forward(model, inputs)
    except Exception as error:  # The forward is the model's own code, which can raise any exception.
        reason = f"the model could not be traced ({type(error).__name__}: {str(error).rstrip('.')})"
        return FFNs(ffns, outer=OuterVectors(missing=dict.fromkeys(OUTER_SITES, reason)))
    outer = _match_outer_vectors(model, tracker.result, ffns, inputs)
    return FFNs(ffns, outer=outer, weights_per_token=count_weights_per_token(model, tracker.result, ffns))


def _match_outer_vectors(model: nn.Module, flow: DataFlow, ffns: Sequence[FFN], inputs: dict[str, Any]) -> OuterVectors:
    paths = {module: name for name, module in model.named_modules()}
    return AttentionMatcher(LayerLocator(model), paths, flow, ffns).match(_token_shape(inputs))


def _find_by_tracing(model: nn.Module, inputs: dict[str, Any]) -> FFNs:
    paths = {module: name for name, module in model.named_modules()}
    tracker = DataFlowTracker(model, inputs)
    with record_active_experts(model) as active_counts:
        calls = _trace(model, inputs, tracker)
    tree = LayerLocator(model)
    matches, enclosed = separate_enclosed_ffns(match_ffns(calls, paths), calls)
    idle_matches, unsupported_lists = find_idle_experts(model, tree, matches, calls)
    matches += idle_matches
    stacks, unsupported_stacks = find_stacked_experts(model, matches, active_counts)
    matches, adapters = separate_adapters(model, tree, matches, stacks, calls)
    unsupported = enclosed | leave_out_idle_adapters(unsupported_lists, tree, adapters) | unsupported_stacks
    ffns = build_ffns(tree, matches, stacks, calls, _token_shape(inputs))
    if not ffns and not unsupported:
        raise ModelError(no_ffn_message(model, calls, paths))
    outer = _match_outer_vectors(model, tracker.result, ffns, inputs)
    weights_per_token = None if unsupported else count_weights_per_token(model, tracker.result, ffns)
    return FFNs(ffns, unsupported, adapters, outer, weights_per_token)


def _trace(model: nn.Module, inputs: dict[str, Any], tracker: DataFlowTracker) -> list[ProjectionCall]:
    try:
        with tracker.observe():
            calls = trace_projections(model, inputs)
    except Exception as error:  # The forward is the model's own code, which can raise any exception.
        raise ModelError(failed_call_message(model, inputs, error)) from error
    for call in calls:
        if call.device.type == "meta":
            raise ModelError(
                f"{type(model).__name__} has no weights: its activations are on the device 'meta', so they have no "
                "values. Load the weights before you search for FFNs."
            )
    return calls


def _example_inputs(model: nn.Module) -> dict[str, Any]:
    """Return six token ids that are in the model's vocabulary, on the model's device, also for a decoder."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    vocabulary_size = int(getattr(config, "vocab_size", None) or 8)
    input_ids = (torch.arange(3, 9) % vocabulary_size)[None].to(_input_device(model))
    inputs = {"input_ids": input_ids}
    if "decoder_input_ids" in _parameter_names(model):
        inputs["decoder_input_ids"] = input_ids  # An encoder-decoder model.
    return inputs


def _parameter_names(model: nn.Module) -> Collection[str]:
    """Return the names of the parameters of a model's forward. There are none if PyTorch does not know them."""
    try:
        return signature(model.forward).parameters
    except ValueError:  # The model was compiled by torch.jit.
        return ()


def _token_shape(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the token IDs, or an empty tuple if there are none."""
    input_ids = inputs.get("input_ids")
    return tuple(input_ids.shape) if isinstance(input_ids, torch.Tensor) else ()


def _input_device(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    # All weights are offloaded. The hooks that load them also move the inputs.
    return torch.device("cpu")
