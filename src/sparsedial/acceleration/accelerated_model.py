"""A model that skips the weights of dropped entries in its decode steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from sparsedial.acceleration.acceleration_plan import AccelerationPlan
from sparsedial.acceleration.backend import Backend, load_backend
from sparsedial.acceleration.compiled_decoding import DecodingPatch
from sparsedial.acceleration.kernel_attachment import KernelAttachment
from sparsedial.acceleration.projections import Prefill, WhenSlower
from sparsedial.acceleration.report import AccelerationReport
from sparsedial.acceleration.saved_plan import EvidenceSource, describe_plan, make_saved_plan
from sparsedial.acceleration.saved_settings import SavedSettings
from sparsedial.acceleration.supported_models import check_dtype, check_ffns
from sparsedial.errors import AttachError, ModelError, SpecError, StorageError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import SITES, FFNs
from sparsedial.ffn.sites import check_site, find_site
from sparsedial.hooks.ffn_selection import check_model_contains, select_ffns
from sparsedial.hooks.rule_applier import RuleTable
from sparsedial.hooks.rule_assignment import RuleChoice, choose_vectors, describe_rules
from sparsedial.hooks.rule_binding import bind_rules
from sparsedial.rules import Calibration


def accelerate(  # noqa: PLR0913  # the options of one call
    model: nn.Module,
    site: str,
    rule: RuleChoice,
    *,
    layers: Iterable[int] | None = None,
    prefill: Prefill = "dense",
    when_slower: WhenSlower = "mask",
    linear_layers: bool = True,
    ffns: FFNs | None = None,
    calibration: Calibration | None = None,
) -> AcceleratedModel:
    """Return a model that skips the weights of dropped entries in its decode steps.

    The weights of the FFNs are stored once, in a layout that the kernels can skip parts of. The given model is changed
    until `AcceleratedModel.restore` is called. Its parameters keep their names, shapes and values.

    A call of a projection with at most eight token vectors is a decode step. It keeps the same entries as `sparsify`,
    and equal inputs give equal bits. Any other call is prefill. Calls of the accelerated model have no gradients; those
    of ``dense_model`` that require gradients apply the rule with its gradient and read all weights.

    Args:
        model: A transformers model with dense FFNs. The weights are `nn.Linear` or `Conv1D`, on one device.
        site: "input", "up", "gate", "intermediate" or "all_inputs".
        rule: `TopP`, `TopK`, `MaxP` or another rule, or a choice of rules as in `sparsify`.
        layers: Indices of the layers to accelerate. Defaults to None: all layers.
        prefill: "dense" to run prefill without the rule, "sparse" to apply the rule. Either way, prefill reads all
            weights. Defaults to "dense".
        when_slower: What a decode step runs where the rule and a kernel are not faster than a dense product, as
            measured on this machine. "mask" applies the rule nevertheless and reads all weights, so that the model is
            the same function everywhere. "dense" leaves out the rule. Defaults to "mask".
        linear_layers: True to compute the other linear layers, such as those of attention, the output layer and the
            FFNs of other layers, with a dense kernel in decode steps on a CPU, if it is measured to be faster than
            PyTorch. Their sums are added in another order. False to leave them unchanged. Defaults to True.
        ffns: Result of `find_ffns` for this model. Defaults to None: they are found now.
        calibration: What `sparsedial.calibrate` returned for this model, rule and site. Defaults to None, for rules
            that need none.

    Returns:
        The accelerated model, which can be called as the model was. It is also a context manager. A `ModelError` is
        raised if the model has no FFN, or weights that are quantised, sharded, tied or of an unsupported dtype or
        device, or if its FFNs are experts of a mixture of experts.

    Raises:
        SpecError: The site, the rule, a layer, ``prefill`` or ``when_slower`` is unknown.
        AttachError: The FFNs are accelerated or sparsified already, also at other sites.
        ModelError: This is no model, or its weights cannot be accelerated.

    Example:
        >>> import sparsedial as sd, torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...                                      num_attention_heads=2, vocab_size=64))
        >>> with sd.accelerate(model, site="all_inputs", rule=sd.TopK(0.5)) as fast:
        ...     _ = fast.generate(torch.arange(12)[None], min_new_tokens=4, max_new_tokens=4, pad_token_id=0)
        ...     report = fast.report()
        >>> report.calls, report.dense_calls, round(report.read_share, 2)
        (12, 0, 0.5)
    """
    _check_choices(site, prefill, when_slower)
    if not isinstance(model, nn.Module):
        raise ModelError(f"accelerate: the model is {model!r}: expected a torch.nn.Module. Use sparsedial.load_model.")
    if isinstance(model, AcceleratedModel):
        raise AttachError("accelerate: the model is accelerated already. Call restore() first.")
    if ffns is None:
        ffns = find_ffns(model)
    selected = select_ffns(ffns, layers)
    check_model_contains(model, selected)
    vectors, rules = choose_vectors(selected, site, rule)
    plan = AccelerationPlan(site, prefill, when_slower, linear_layers, vectors, rules, calibration)
    return _accelerate_vectors(model, plan)


def _check_choices(site: str, prefill: str, when_slower: str) -> None:
    if prefill not in get_args(Prefill):
        raise SpecError(f"prefill {prefill!r}: expected one of {', '.join(get_args(Prefill))}")
    if when_slower not in get_args(WhenSlower):
        raise SpecError(f"when_slower {when_slower!r}: expected one of {', '.join(get_args(WhenSlower))}")
    if find_site(site).name not in SITES:
        raise SpecError(f"accelerate: site {site!r}: expected one of {', '.join(SITES)}")


def accelerate_as_saved(model: nn.Module, settings: SavedSettings) -> AcceleratedModel:
    """Accelerate a model as it was when it was saved.

    Args:
        model: The model, which has the FFNs of the saved one.
        settings: Contents of the file beside its weights.

    Returns:
        The accelerated model.

    Raises:
        ModelError: The model does not have the FFNs that the settings name, or cannot be accelerated.
    """
    fast = _accelerate_vectors(model, make_saved_plan(model, settings))
    fast.evidence = settings.evidence
    return fast


def _accelerate_vectors(model: nn.Module, plan: AccelerationPlan) -> AcceleratedModel:
    ffns = plan.list_ffns()
    device = check_ffns(model, ffns)
    check_site(ffns, plan.site)
    backend = load_backend(device)
    check_dtype(ffns, backend)
    table = RuleTable(bind_rules(plan.rules, plan.vectors, plan.calibration))
    return AcceleratedModel(model, plan, backend, KernelAttachment(model, plan, backend, table.bound))


class AcceleratedModel(nn.Module):
    """A model that skips the weights of dropped entries in its decode steps. Use `accelerate` to create one.

    It has all attributes and methods of the model, such as ``generate`` and ``config``. Attributes of the model are set
    on ``dense_model``.

    Args:
        model: The model.
        plan: What is accelerated.
        backend: The kernels.
        kernels: The kernels that are attached to the model.

    Attributes:
        dense_model: The model. It is accelerated, too, until `restore` is called.
        site: Name of the site.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        evidence: Why these rules were chosen, as plain JSON. None if nothing was saved with the model.
    """

    def __init__(self, model: nn.Module, plan: AccelerationPlan, backend: Backend, kernels: KernelAttachment) -> None:
        super().__init__()
        self.dense_model = model
        self.site = plan.site
        self.prefill = plan.prefill
        self.when_slower = plan.when_slower
        self.evidence: Mapping[str, Any] | None = None
        self.training = model.training
        self._plan = plan
        self._backend = backend
        self._kernels = kernels
        self._compiles_decoding = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("dense_model"), name)

    def __repr__(self) -> str:
        state = ""
        if self._kernels.is_removed:
            state = ", restored"
        name = type(self.dense_model).__name__
        rule = describe_rules(self._plan.rules)
        options = f"prefill={self.prefill!r}, when_slower={self.when_slower!r}"
        return f"AcceleratedModel({name}, site={self.site!r}, rule={rule}, {options}{state})"

    def __enter__(self) -> AcceleratedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def __deepcopy__(self, memo: dict[int, Any]) -> AcceleratedModel:
        """Raise an error, because the kernels refer to the weights of this model."""
        raise AttachError("An accelerated model cannot be copied. Copy fast.dense_model, which gives a dense model.")

    def __reduce__(self) -> Any:
        """Raise an error, because a pickle would need the kernels."""
        raise AttachError("An accelerated model cannot be pickled. Use fast.save_pretrained(directory).")

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, without gradients.

        Args:
            *args: Positional arguments of the model's forward.
            **kwargs: Keyword arguments of the model's forward.

        Returns:
            What the model returns.
        """
        return self.dense_model(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the weights of the model, with the names that they have in it.

        Args:
            *args: Positional arguments of ``nn.Module.state_dict``.
            **kwargs: Keyword arguments of ``nn.Module.state_dict``.

        Returns:
            The weights by their names.
        """
        return self.dense_model.state_dict(*args, **kwargs)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """Return an iterator over the parameters of the model, with the names that they have in it.

        Args:
            *args: Positional arguments of ``nn.Module.named_parameters``.
            **kwargs: Keyword arguments of ``nn.Module.named_parameters``.

        Returns:
            Pairs of a name and a parameter.
        """
        return self.dense_model.named_parameters(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy weights into the model.

        Args:
            state_dict: The weights, with the names of `state_dict`.
            strict: True to raise an error if the names differ. Defaults to True.
            assign: True to use the given tensors instead of copies. Their layout is not that of the kernels, so FFNs
                with such weights run dense, with the rule. Defaults to False.

        Returns:
            The names that are missing or not expected.
        """
        return self.dense_model.load_state_dict(state_dict, strict=strict, assign=assign)

    def compile_decoding(self, **options: Any) -> None:
        """Compile decode steps with ``torch.compile``, for generation with a cache of a fixed size.

        The cache is requested by ``fast.generate(..., cache_implementation="static")``. Calls with one new token per
        sequence, for at most eight sequences, run the compiled code, which has little of Python's part of norms and
        attention. Prompts and other calls run as before. The first step compiles, which takes up to a minute and needs
        a C++ compiler on a CPU. A larger cache or another number of sequences compiles again. Compiled code may differ
        in the last bits. `restore` ends it, and a saved model does not have it.

        On a GPU, ``generate`` compiles its decode steps itself if the cache has a fixed size.

        Args:
            **options: Arguments of ``torch.compile``. ``dynamic`` defaults to False.

        Raises:
            AttachError: The decode steps are compiled already, or the model was restored.

        Example:
            >>> import sparsedial as sd, torch
            >>> from transformers import LlamaConfig, LlamaForCausalLM
            >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            ...                                      num_attention_heads=2, vocab_size=64))
            >>> with sd.accelerate(model, site="all_inputs", rule=sd.TopP(0.9)) as fast:
            ...     fast.compile_decoding(backend="eager")  # without backend=: a C++ compiler
            ...     prompt = torch.arange(12)[None]
            ...     tokens = fast.generate(prompt, cache_implementation="static", max_new_tokens=4, pad_token_id=0)
            >>> tokens.shape[1] > 12
            True
        """
        if self._kernels.is_removed:
            raise AttachError("compile_decoding: the model was restored. Call accelerate again.")
        if self._compiles_decoding:
            raise AttachError("compile_decoding: the decode steps are compiled already.")
        self._kernels.add_patch(DecodingPatch(self.dense_model, **options))
        self._compiles_decoding = True

    def report(self) -> AccelerationReport:
        """Return what was read and skipped since the last `reset`, or until `restore`.

        Returns:
            The report. Calls that read all weights are listed as dense, whatever the reason.
        """
        return self._kernels.make_report()

    def reset(self) -> None:
        """Set the counts of the report to zero."""
        self._kernels.reset()

    def restore(self) -> nn.Module:
        """Make the model dense again. Its weights have the same bits as before, in their original layout.

        Returns:
            The model that was accelerated.
        """
        self._kernels.remove()
        return self.dense_model

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        evidence: Mapping[str, Any] | EvidenceSource | None = None,
        **options: Any,
    ) -> None:
        """Save the model and how it is accelerated.

        The directory is that of an ordinary model, with the file ``sparsedial.json`` beside the weights.
        `sparsedial.load_model` brings back the accelerated model, and ``from_pretrained`` loads the dense one. The
        tokenizer is saved by its own method.

        Args:
            folder: Directory, which is created if necessary.
            evidence: Why these rules were chosen: the result of `measure` or of `make_evidence`, or any plain JSON.
                Defaults to None: the attribute ``evidence``.
            **options: Further arguments of the model's ``save_pretrained``.

        Raises:
            SpecError: The evidence is not plain JSON, or ``state_dict`` is given. Nothing was written.
            ModelError: The model is not one of transformers.
            StorageError: The directory is a file.
        """
        if "state_dict" in options:
            raise SpecError("save_pretrained: state_dict is given: expected no weights. Those of the model are saved.")
        if Path(folder).is_file():
            raise StorageError(f"save_pretrained: {os.fspath(folder)} is a file: expected a directory.")
        model: Any = self.dense_model
        if not hasattr(model, "save_pretrained"):
            raise ModelError(f"save_pretrained: {type(model).__name__} is no model of transformers: expected one.")
        if evidence is None:
            evidence = self.evidence
        settings = describe_plan(self._plan, self._backend.describe_device(), evidence)  # before anything is written
        state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=state, **options)
        settings.write(Path(folder))
