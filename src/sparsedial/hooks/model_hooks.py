"""Hooks that detect when the forward of a model, or of a model inside it, begins and ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from sparsedial.cache_arguments import CACHE_ARGUMENTS
from sparsedial.errors import AttachError
from sparsedial.ffn.feed_forward import VectorOwner
from sparsedial.hooks.finished_rows import GeneratePatch, can_observe_generation
from sparsedial.hooks.forward_arguments import ModelTraits
from sparsedial.hooks.forward_coordinator import ForwardCoordinator
from sparsedial.hooks.reach_check import REPLICA, find_bypass
from sparsedial.hooks.site_attachment import SparsifiedVector
from sparsedial.tracing_state import is_tracing


class ModelHooks:
    """Hooks on a model and on the models inside it, such as `LlamaModel` in `LlamaForCausalLM`.

    The models inside a model may be called directly. A model inside a wrapper knows its tokens and their mask even if
    the arguments of the wrapper do not say so.

    Args:
        model: The model.
        vectors: Vectors that are sparsified, one per counter.
        coordinator: Is told when a forward begins and ends.
    """

    def __init__(self, model: nn.Module, vectors: Sequence[SparsifiedVector], coordinator: ForwardCoordinator) -> None:
        self._model = model
        self._vectors = vectors
        self._coordinator = coordinator
        self._models = [module for module in model.modules() if module is model or _processes_tokens(module)]
        coordinator.tracker.models = self._models
        self._modules_of = {module: set(module.modules()) for module in self._models}
        self._exception_before: BaseException | None = None
        if len(self._models) > 1:
            coordinator.innermost_models = [self._find_innermost_model(vector.ffn) for vector in vectors]

    def attach(self) -> Iterator[RemovableHandle | GeneratePatch]:
        """Register the hooks.

        Yields:
            RemovableHandle | GeneratePatch: Handle that removes a hook or a patch.
        """
        for index, module in enumerate(self._models):
            before = partial(self._before_forward, index, _positional_parameters(module), _read_traits(module))
            yield module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
            yield module.register_forward_hook(partial(self._after_forward, index), always_call=True)
            if can_observe_generation(module):
                yield GeneratePatch(module, self._coordinator.tracker)

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelHooks:
        """Return the same object. The hooks of a copied model recognise that they belong to another model."""
        return self

    def _before_forward(
        self,
        index: int,
        parameters: tuple[str, ...],
        traits: ModelTraits,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if is_tracing():
            return
        if module is not self._models[index]:
            if getattr(module, "_is_replica", False):
                raise AttachError(f"The model {REPLICA}.")
            return  # a copy of the model, which has the hook, too
        if not self._coordinator.tracker.is_inside_forward and not torch.compiler.is_compiling():
            self._exception_before = sys.exc_info()[1]
        arguments = {**dict(zip(parameters, args, strict=False)), **kwargs} if args else kwargs
        self._coordinator.enter_model(index, arguments, traits)

    def _after_forward(self, index: int, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_tracing() or module is not self._models[index]:
            return
        # The output is None after an exception, and also if the forward returns nothing.
        failed = output is None and sys.exc_info()[1] is not self._exception_before
        has_reached_vectors = self._coordinator.leave_model(index, failed)
        if not has_reached_vectors:
            self._check_bypass(module)

    def _find_innermost_model(self, ffn: VectorOwner) -> int:
        """Return the index of the innermost hooked model that contains an FFN, or projections outside of the FFNs."""
        innermost = 0
        for index, model in enumerate(self._models):
            if ffn.anchor in self._modules_of[model]:
                innermost = index
        return innermost

    def _check_bypass(self, model: nn.Module) -> None:
        """Raise an error if the code of a model may have bypassed the modules of its FFNs."""
        for vector in self._vectors:
            ffn = vector.ffn
            cause = find_bypass(self._model, ffn.name)
            if cause is not None and ffn.anchor in self._modules_of[model]:
                raise AttachError(
                    "A forward pass of the model was dense, because no sparsified vector was reached: "
                    f"{ffn.name} {cause}."
                )


def _processes_tokens(module: nn.Module) -> bool:
    """Return True for a Hugging Face model or a torch.nn.Transformer, which read tokens and their mask."""
    is_hugging_face_model = hasattr(module, "config") and hasattr(module, "get_input_embeddings")
    return is_hugging_face_model or isinstance(module, (nn.TransformerEncoder, nn.TransformerDecoder))


def _read_traits(module: nn.Module) -> ModelTraits:
    modalities = getattr(module, "input_modalities", ("text",))
    main_input = getattr(module, "main_input_name", "input_ids")
    return ModelTraits(
        reads_text="text" in modalities and main_input in ("input_ids", "inputs_embeds"),
        accepts_cache=not signature(module.forward).parameters.keys().isdisjoint(CACHE_ARGUMENTS),
    )


def _positional_parameters(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of a module's forward that may be given by position."""
    names = []
    for parameter in signature(module.forward).parameters.values():
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return tuple(names)
