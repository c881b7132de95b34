"""Reference implementation of sparsified experts: one token and one expert at a time, from the definition.

It uses only the weights and the routing of a model, and none of the code in `sparsedial.moe`.
"""

from collections import defaultdict
from dataclasses import dataclass

import torch

from sparsedial.kernels import reference
from sparsedial.rules import Rule
from tests.support.expert_models import stacked_modules


def split_halves(experts, z):
    """Return g and u of most architectures."""
    gate, up = z.chunk(2, -1)
    return experts.act_fn(gate), up


def split_gpt_oss(experts, z):
    """Return g and u of gpt-oss."""
    gate = z[..., ::2].clamp(max=experts.limit)
    up = z[..., 1::2].clamp(-experts.limit, experts.limit)
    return gate * torch.sigmoid(experts.alpha * gate), up + 1


def split_minimax_m3(experts, z):
    """Return g and u of MiniMax M3."""
    gate, up = z.chunk(2, -1)
    gate = gate.clamp(max=experts.swiglu_limit)
    up = up.clamp(-experts.swiglu_limit, experts.swiglu_limit)
    return gate * torch.sigmoid(experts.swiglu_alpha * gate), up + 1


def split_deepseek_v4(experts, z):
    """Return g and u of DeepSeek V4."""
    gate, up = z.chunk(2, -1)
    return experts.act_fn(gate.clamp(max=experts.limit)), up.clamp(-experts.limit, experts.limit)


SPLITS = {"gpt_oss": split_gpt_oss, "minimax_m3_vl_text": split_minimax_m3, "deepseek_v4": split_deepseek_v4}
PLAIN = {"nemotron_h"}
TRANSPOSED = {"gpt_oss", "aria_text"}


@dataclass
class ExpertsCall:
    """The inputs and the output of one call of a module that stacks experts."""

    hidden_states: torch.Tensor
    index: torch.Tensor
    weight: torch.Tensor
    output: torch.Tensor


def record_experts_calls(model, run):
    """Call ``run()`` and return the last call of each module that stacks experts, by path."""
    calls = {}
    handles = []
    for path, module in stacked_modules(model).items():

        def record(_, args, output, path=path):
            calls[path] = ExpertsCall(*args, output)

        handles.append(module.register_forward_hook(record))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


@dataclass
class ExpertCount:
    """The expected statistics of one vector of one expert."""

    dropped: int = 0
    total: int = 0
    tokens: int = 0
    weight: float = 0.0


@dataclass
class ReferenceExperts:
    """The experts of one layer with a rule at one site.

    Attributes:
        model_type: Architecture of the model.
        module: The module that stacks the experts.
        site: Where the rule is applied.
        rule: The rule.
    """

    model_type: str
    module: torch.nn.Module
    site: str
    rule: Rule

    def run(self, call, real):
        """Return the output, shape [tokens, hidden], and the counts by (expert, vector).

        Args:
            call: The inputs.
            real: Boolean mask of real tokens, shape [tokens], or None if all are real.
        """
        self.counts = defaultdict(ExpertCount)
        width = self.module.down_proj.shape[2 if self.model_type in TRANSPOSED else 1]
        output = torch.zeros(len(call.hidden_states), width, dtype=call.hidden_states.dtype)
        for token, x in enumerate(call.hidden_states):
            is_real = real is None or bool(real[token])
            for expert, weight in zip(call.index[token].tolist(), call.weight[token], strict=True):
                output[token] += self._run_expert(x, expert, float(weight) if is_real else None) * weight
        return output, self.counts

    def _run_expert(self, x, expert, counted_weight):
        z = self._project(self._sparsify("input", x, expert, counted_weight), self._up_name(), expert)
        if self.model_type in PLAIN:
            i = self.module.act_fn(self._sparsify("up", z, expert, counted_weight))
        else:
            g, u = SPLITS.get(self.model_type, split_halves)(self.module, z)
            u = self._sparsify("up", u, expert, counted_weight)
            i = u * self._sparsify("gate", g, expert, counted_weight)
        return self._project(self._sparsify("intermediate", i, expert, counted_weight), "down_proj", expert)

    def _up_name(self):
        return "up_proj" if self.model_type in PLAIN else "gate_up_proj"

    def _project(self, vector, name, expert):
        matrix = getattr(self.module, name)[expert]
        y = vector @ matrix if self.model_type in TRANSPOSED else matrix @ vector
        if hasattr(self.module, f"{name}_bias"):
            y = y + getattr(self.module, f"{name}_bias")[expert]
        return y

    def _sparsify(self, name, vector, expert, counted_weight):
        """Apply the rule, and count it unless ``counted_weight`` is None (padding)."""
        vectors = ("input", "intermediate") if self.site == "all_inputs" else (self.site,)
        if name not in vectors:
            return vector
        y, kept = reference.select(vector, self.rule)
        if counted_weight is not None:
            count = self.counts[expert, name]
            count.dropped += len(vector) - int(kept)
            count.total += len(vector)
            count.tokens += 1
            count.weight += counted_weight
        return y
