"""A model that skips the weights of dropped entries in its decode steps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, get_args

import torch
from torch import nn

from sparsedial.acceleration.backend import Backend, load_backend
from sparsedial.acceleration.compiled_decoding import DecodingPatch
from sparsedial.acceleration.kept_output_projections import OTHER_VECTOR, KeptOutputProjections
from sparsedial.acceleration.linear_layers import LinearPatch, patch_linear_layers
from sparsedial.acceleration.projections import (
    FilteredOutputProjections,
    KeptInputProjections,
    Prefill,
    ProjectionPatch,
    Projections,
    ProjectionSettings,
    WhenSlower,
)
from sparsedial.acceleration.report import AccelerationReport, VectorCounts, make_report
from sparsedial.acceleration.saved_settings import FILE_NAME, SavedRule, SavedSettings
from sparsedial.acceleration.supported_models import check_dtype, check_ffns
from sparsedial.acceleration.timing_table import EXPECTED_SHARE, LimitTable
from sparsedial.acceleration.weight_layout import WeightLayout
from sparsedial.acceleration.whole_ffns import FfnPatch, find_formula, make_decode_ffn
from sparsedial.errors import AttachError, ModelError, SpecError
from sparsedial.ffn.discovery import find_ffns
from sparsedial.ffn.feed_forward import FFN, SITES, FFNs
from sparsedial.ffn.sites import check_site, find_site
from sparsedial.hooks.dense_copies import DenseCopies
from sparsedial.hooks.ffn_selection import check_model_contains, select_ffns
from sparsedial.hooks.module_patch import ForwardPatch, InputPatch, OutputPatch
from sparsedial.hooks.rule_applier import RuleTable
from sparsedial.hooks.rule_assignment import RuleAssignment, RuleChoice, choose_vectors, describe_rules
from sparsedial.hooks.rule_binding import bind_rules
from sparsedial.hooks.site_attachment import SparsifiedVector, list_vectors
from sparsedial.hooks.vector_reservation import release_vectors, reserve_vectors
from sparsedial.kernels.dispatch import BoundRule
from sparsedial.rules import Calibration, Rule


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
    and equal inputs give equal bits. Any other call is prefill. The model cannot be trained while it is accelerated.

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
    saved = {(entry.module, entry.vector): entry for entry in settings.rules}
    vectors: list[SparsifiedVector] = []
    rules: list[Rule] = []
    for vector in list_vectors(find_ffns(model), settings.site):
        entry = saved.pop((vector.ffn.name, vector.name), None)
        if entry is not None:
            vectors.append(replace(vector, counter=len(vectors)))
            rules.append(entry.make_rule())
    if saved:
        raise ModelError(
            f"{FILE_NAME} names {next(iter(saved))[0]}, which the model does not have: expected the file and the "
            "weights of one model. Save the model again."
        )
    prefill: Prefill = "sparse" if settings.prefill == "sparse" else "dense"
    when_slower: WhenSlower = "dense" if settings.when_slower == "dense" else "mask"
    calibration = settings.make_calibration()
    plan = AccelerationPlan(
        settings.site, prefill, when_slower, settings.linear_layers, vectors, tuple(rules), calibration
    )
    fast = _accelerate_vectors(model, plan)
    fast.evidence = settings.evidence
    return fast


class EvidenceSource(Protocol):
    """Object that describes what was measured, such as the result of `sparsedial.measure`."""

    def make_evidence(self, site: str, rule: Rule | None = None) -> dict[str, Any]:
        """Return what was measured at a site, as plain JSON.

        Args:
            site: Name of the site.
            rule: The rule of the model, or None for all rules.
        """
        ...


@dataclass(frozen=True)
class AccelerationPlan:
    """Describes what is accelerated, and how.

    Attributes:
        site: Name of the site.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        linear_layers: True to use the dense kernel for all other linear layers.
        vectors: The vectors that have a rule.
        rules: The rule of each vector.
        calibration: What the rules need to know about the model, or None.
    """

    site: str
    prefill: Prefill
    when_slower: WhenSlower
    linear_layers: bool
    vectors: Sequence[SparsifiedVector]
    rules: RuleAssignment
    calibration: Calibration | None

    def list_ffns(self) -> list[FFN]:
        """Return the FFNs that have a vector with a rule, each once.

        Raises:
            SpecError: A vector is outside of the FFNs.
        """
        ffns = {}
        for vector in self.vectors:
            if not isinstance(vector.ffn, FFN):
                raise SpecError(f"site {self.site!r}: it is outside of the FFNs: expected a site of FFNs")
            ffns[id(vector.ffn)] = vector.ffn
        return list(ffns.values())


def _accelerate_vectors(model: nn.Module, plan: AccelerationPlan) -> AcceleratedModel:
    ffns = plan.list_ffns()
    device = check_ffns(model, ffns)
    check_site(ffns, plan.site)
    backend = load_backend(device)
    check_dtype(ffns, backend)
    table = RuleTable(bind_rules(plan.rules, plan.vectors, plan.calibration))
    fast = AcceleratedModel(model, plan, backend)
    fast._attach(table.bound)
    return fast


class AcceleratedModel(nn.Module):
    """A model that skips the weights of dropped entries in its decode steps. Use `accelerate` to create one.

    It has all attributes and methods of the model, such as ``generate`` and ``config``. Attributes of the model are set
    on ``dense_model``.

    Args:
        model: The model.
        plan: What is accelerated.
        backend: The kernels.

    Attributes:
        dense_model: The model. It is accelerated, too, until `restore` is called.
        site: Name of the site.
        prefill: "dense" or "sparse".
        when_slower: "mask" or "dense".
        evidence: Why these rules were chosen, as plain JSON. None if nothing was saved with the model.
    """

    def __init__(self, model: nn.Module, plan: AccelerationPlan, backend: Backend) -> None:
        super().__init__()
        self.dense_model = model
        self.site = plan.site
        self.prefill = plan.prefill
        self.when_slower = plan.when_slower
        self.evidence: Mapping[str, Any] | None = None
        self.training = model.training
        self._plan = plan
        self._backend = backend
        self._readers: list[tuple[FFN, str, Projections]] = []
        self._layouts: list[WeightLayout] = []
        self._patches: list[ForwardPatch] = []
        self._copies: DenseCopies | None = None
        self._last_counts: list[VectorCounts] = []  # of a model that was restored
        self._is_attached = False

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("dense_model"), name)

    def __repr__(self) -> str:
        state = ""
        if not self._patches:
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
        if not self._is_attached:
            raise AttachError("compile_decoding: the model was restored. Call accelerate again.")
        if any(isinstance(patch, DecodingPatch) for patch in self._patches):
            raise AttachError("compile_decoding: the decode steps are compiled already.")
        self._patches.append(DecodingPatch(self.dense_model, **options))

    def report(self) -> AccelerationReport:
        """Return what was read and skipped since the last `reset`, or until `restore`.

        Returns:
            The report. Calls that read all weights are listed as dense, whatever the reason.
        """
        counts = self._list_counts() if self._is_attached else self._last_counts
        linear_layers = sum(isinstance(patch, LinearPatch) for patch in self._patches)
        return make_report(counts, self.prefill, self.when_slower, linear_layers)

    def _list_counts(self) -> list[VectorCounts]:
        counts = []
        for ffn, vector, projections in self._readers:
            products = projections.counts()
            without_rule = projections.calls_without_rule()
            counts.append(VectorCounts(ffn.layer, ffn.name, vector, products, projections.prefill_calls, without_rule))
        return counts

    def reset(self) -> None:
        """Set the counts of the report to zero."""
        for _, _, projections in self._readers:
            projections.reset()

    def restore(self) -> nn.Module:
        """Make the model dense again. Its weights have the same bits as before, in their original layout.

        Returns:
            The model that was accelerated.
        """
        for patch in reversed(self._patches):
            patch.remove()
        self._patches.clear()
        if self._copies is not None:
            self._copies.remove()
            self._copies = None
        for layout in self._layouts:
            layout.restore()
        self._layouts.clear()
        if self._is_attached:
            release_vectors(self._plan.vectors)
            self._is_attached = False
            self._last_counts = self._list_counts()
        self._readers.clear()
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
        """
        if evidence is None:
            evidence = self.evidence
        elif not isinstance(evidence, Mapping):
            evidence = evidence.make_evidence(self.site, self._find_common_rule())
        state = {name: tensor.contiguous() for name, tensor in self.dense_model.state_dict().items()}
        model: Any = self.dense_model
        model.save_pretrained(folder, state_dict=state, **options)
        rules = []
        for vector, rule in zip(self._plan.vectors, self._plan.rules, strict=True):
            assert rule is not None  # only vectors with a rule are in the plan
            rules.append(SavedRule(vector.ffn.name, vector.name, rule.to_json()))
        calibration = self._plan.calibration
        SavedSettings(
            site=self.site,
            prefill=self.prefill,
            when_slower=self.when_slower,
            linear_layers=self._plan.linear_layers,
            rules=rules,
            calibration=None if calibration is None else dict(calibration.values),
            machine=self._backend.describe_device(),
            evidence=evidence,
        ).write(Path(folder))

    def _find_common_rule(self) -> Rule | None:
        """Return the rule of all vectors, or None if they differ."""
        first = self._plan.rules[0]
        if all(rule == first for rule in self._plan.rules):
            return first
        return None

    def _attach(self, rules: Sequence[BoundRule | None]) -> None:
        """Rearrange the weights and patch the projections."""
        reserve_vectors(self._plan.vectors)
        self._is_attached = True
        limits = LimitTable(self._backend)
        settings = ProjectionSettings(self._backend, self.prefill, limits, self.when_slower)
        rules_by_ffn: dict[int, dict[str, BoundRule | None]] = {}
        for vector, rule in zip(self._plan.vectors, rules, strict=True):
            rules_by_ffn.setdefault(id(vector.ffn), {})[vector.name] = rule
        ffns = self._plan.list_ffns()
        try:
            for ffn in ffns:
                _check_forwards(ffn)
            for ffn in ffns:
                self._attach_ffn(ffn, rules_by_ffn[id(ffn)], settings)
            if self._plan.linear_layers:
                self._patches.extend(patch_linear_layers(self.dense_model, ffns, self._backend, limits))
            self._copies = DenseCopies(self.dense_model)
        except BaseException:
            self.restore()
            raise

    def _attach_ffn(self, ffn: FFN, rules: dict[str, BoundRule | None], settings: ProjectionSettings) -> None:
        selecting = next((name for name in OTHER_VECTOR if name in rules), None)
        formula = find_formula(self.dense_model, ffn, settings.backend)
        first: KeptInputProjections | None = None
        if selecting is None:
            first = KeptInputProjections(ffn.input_projections, rules.get("input"), settings)
            self._add_reader(ffn, "input", first)
        else:
            rule = rules[selecting]
            assert rule is not None  # only vectors with a rule are chosen
            if ffn.gated:
                self._add_reader(ffn, "input", KeptOutputProjections(ffn, selecting, rule, settings))
            else:
                self._add_reader(ffn, "input", FilteredOutputProjections(ffn, rule, settings))
        # Dropped entries of u or g are zeros of the intermediate vector.
        kept_share = 1.0 if selecting is None else EXPECTED_SHARE
        down = KeptInputProjections([ffn.down], rules.get("intermediate"), settings, kept_share)
        self._add_reader(ffn, "intermediate", down)
        if first is not None and formula is not None:
            whole = make_decode_ffn(formula, ffn, (first, down))
            self._patches.append(FfnPatch(self.dense_model.get_submodule(ffn.name), whole))

    def _add_reader(self, ffn: FFN, vector: str, reader: KeptInputProjections | KeptOutputProjections) -> None:
        self._layouts.append(reader.layout)
        self._readers.append((ffn, vector, reader))
        for module in reader.modules:
            self._patches.append(ProjectionPatch(module, reader))


def _check_forwards(ffn: FFN) -> None:
    """Raise an error if a projection has a rule already, which the kernels would leave out.

    Raises:
        AttachError: `accelerate` or `sparsify` has replaced the forward of a projection.
    """
    for module in (*ffn.input_projections, ffn.down):
        patch = getattr(vars(module).get("forward"), "__self__", None)
        if isinstance(patch, (InputPatch, OutputPatch, ProjectionPatch)) and not patch.is_removed:
            raise AttachError(
                f"accelerate: {ffn.name} is sparsified or accelerated already: expected FFNs without another rule. "
                "End that first. A model that is accelerated can be sparsified at further sites afterwards."
            )
