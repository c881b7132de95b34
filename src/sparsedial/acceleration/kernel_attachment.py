"""The kernels of an accelerated model: what of the model is replaced, and how it is restored."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsedial.acceleration.acceleration_plan import AccelerationPlan
from sparsedial.acceleration.backend import Backend
from sparsedial.acceleration.filtered_output_projections import FilteredOutputProjections
from sparsedial.acceleration.kept_input_projections import KeptInputProjections
from sparsedial.acceleration.kept_output_projections import OTHER_VECTOR, KeptOutputProjections
from sparsedial.acceleration.linear_layers import LinearPatch, patch_linear_layers
from sparsedial.acceleration.projections import ProjectionPatch, Projections, ProjectionSettings
from sparsedial.acceleration.report import AccelerationReport, VectorCounts, make_report
from sparsedial.acceleration.timing_table import EXPECTED_SHARE, LimitTable
from sparsedial.acceleration.weight_layout import WeightLayout
from sparsedial.acceleration.whole_ffns import FfnPatch, find_formula, make_decode_ffn
from sparsedial.errors import AttachError
from sparsedial.ffn.feed_forward import FFN
from sparsedial.hooks.dense_copies import DenseCopies
from sparsedial.hooks.module_patch import ForwardPatch, InputPatch, OutputPatch
from sparsedial.hooks.vector_reservation import release_vectors, reserve_vectors
from sparsedial.kernels.dispatch import BoundRule


class KernelAttachment:
    """Rearranges the weights of a model and lets the kernels compute its FFNs, until `remove` is called.

    Args:
        model: The model.
        plan: What is accelerated.
        backend: The kernels.
        rules: The rule of each vector of the plan.

    Attributes:
        is_removed: True if the model is as it was before.
    """

    def __init__(
        self, model: nn.Module, plan: AccelerationPlan, backend: Backend, rules: Sequence[BoundRule | None]
    ) -> None:
        self._model = model
        self._plan = plan
        self._backend = backend
        self._readers: list[tuple[FFN, str, Projections]] = []
        self._layouts: list[WeightLayout] = []
        self._patches: list[ForwardPatch] = []
        self._copies: DenseCopies | None = None
        self._last_report: AccelerationReport | None = None  # of a model that was restored
        self._reserved = plan.list_changed_vectors()
        self.is_removed = False
        reserve_vectors(self._reserved)
        try:
            self._attach(rules)
        except BaseException:
            self.remove()
            raise

    def add_patch(self, patch: ForwardPatch) -> None:
        """Add a patch of the model, which `remove` removes first.

        Args:
            patch: The patch.
        """
        self._patches.append(patch)

    def make_report(self) -> AccelerationReport:
        """Return what was read and skipped since the last `reset`, or until `remove`."""
        if self._last_report is not None:
            return self._last_report
        counts = []
        for ffn, vector, projections in self._readers:
            products = projections.counts()
            without_rule = projections.calls_without_rule()
            counts.append(VectorCounts(ffn.layer, ffn.name, vector, products, projections.prefill_calls, without_rule))
        linear_layers = sum(isinstance(patch, LinearPatch) for patch in self._patches)
        return make_report(counts, self._plan.prefill, self._plan.when_slower, linear_layers)

    def reset(self) -> None:
        """Set the counts of the report to zero."""
        for _, _, projections in self._readers:
            projections.reset()

    def remove(self) -> None:
        """Make the model dense again. Its weights have the same bits as before, in their original layout."""
        if self.is_removed:
            return
        if self._copies is not None:  # the model was attached completely
            self._last_report = self.make_report()
            self._copies.remove()
        for patch in reversed(self._patches):
            patch.remove()
        for layout in self._layouts:
            layout.restore()
        release_vectors(self._reserved)
        self._patches.clear()
        self._layouts.clear()
        self._readers.clear()
        self.is_removed = True

    def _attach(self, rules: Sequence[BoundRule | None]) -> None:
        rules_by_ffn: dict[int, dict[str, BoundRule | None]] = {}
        for vector, rule in zip(self._plan.vectors, rules, strict=True):
            rules_by_ffn.setdefault(id(vector.ffn), {})[vector.name] = rule
        ffns = self._plan.list_ffns()
        for ffn in ffns:
            _check_forwards(ffn)
        limits = LimitTable(self._backend)
        settings = ProjectionSettings(self._backend, self._plan.prefill, limits, self._plan.when_slower)
        for ffn in ffns:
            self._attach_ffn(ffn, rules_by_ffn[id(ffn)], settings)
        if self._plan.linear_layers:
            self._patches.extend(patch_linear_layers(self._model, ffns, self._backend, limits))
        self._copies = DenseCopies(self._model)

    def _attach_ffn(self, ffn: FFN, rules: dict[str, BoundRule | None], settings: ProjectionSettings) -> None:
        selecting = next((name for name in OTHER_VECTOR if name in rules), None)
        formula = find_formula(self._model, ffn, settings.backend)
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
            self._patches.append(FfnPatch(self._model.get_submodule(ffn.name), whole))

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
