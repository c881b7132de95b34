"""Along the denoising steps: how sparse, how much one step's kept sets are like the last's, and can they be reused.

Kept sets are bit masks, packed, on the device. Of each counter those of the first step and of the step before are
there, no more: memory does not grow with the number of steps.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from sparsedial.errors import SpecError
from sparsedial.selecting import Inner
from sparsedial.sparsify import Dial
from sparsedial.stats import Observation

STATES = ("masked", "revealed")
WORD = 64


def pack(kept: torch.Tensor) -> torch.Tensor:
    """Boolean ``[N, D]`` as int64 ``[N, ceil(D / 64)]``, a bit each."""
    rows, width = kept.shape
    kept = torch.nn.functional.pad(kept.to(torch.uint8), (0, -width % WORD)).view(rows, -1, 8)
    bit = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=kept.device)
    return (kept * bit).sum(-1, dtype=torch.uint8).view(torch.int64)


def unpack(words: torch.Tensor, width: int) -> torch.Tensor:
    """The inverse of `pack`.

    >>> kept = torch.rand(3, 70) < 0.5
    >>> torch.equal(unpack(pack(kept), 70), kept)
    True
    """
    bit = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=words.device)
    return ((words.contiguous().view(torch.uint8)[..., None] & bit) != 0).flatten(-2)[..., :width]


def popcount(words: torch.Tensor) -> torch.Tensor:
    """How many bits are set in each row of int64 ``[N, W]``: int64 ``[N]``.

    >>> popcount(torch.tensor([[7, -1], [0, 1]]))
    tensor([67,  1])
    """
    pairs = words - ((words >> 1) & 0x5555555555555555)  # what the shifts of a negative number bring in is masked off
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((bytes_ * 0x0101010101010101) >> 56).sum(-1)


def jaccard(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|A and B| / |A or B| of packed sets, row by row, float64 ``[N]``; 1 where both are empty."""
    union = popcount(a | b)
    return torch.where(union > 0, popcount(a & b) / union.clamp(min=1), 1.0).double()


class Steps:
    """Watches a dial: per counter and denoising step, sparsity and the likeness of kept sets, token by token.

    A kept set is the non-zero entries of what the rule leaves. Tokens are told apart by their place in the batch,
    which is the same in all steps; step 0 begins anew. Experts are left out: which tokens they read changes from step
    to step. Nothing is copied to the host before `table`.

    >>> import sparsedial as sd
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
    ...                                      num_attention_heads=2, vocab_size=64))
    >>> with sd.sparsify(model, site="input", rule=sd.TopK(0.5)) as dial:
    ...     steps = Steps(dial)
    ...     for step in (0, 1):
    ...         with dial.observe(step=step):
    ...             _ = model(torch.arange(6)[None])
    >>> steps.table()[["layer", "step", "state", "tokens", "sparsity", "consecutive", "drift"]]
       layer  step     state  tokens  sparsity  consecutive  drift
    0      0     0  revealed       6       0.5          NaN    NaN
    1      0     1  revealed       6       0.5          1.0    1.0
    """

    COLUMNS = ("tokens", "kept", "compared", "consecutive", "drift")

    def __init__(self, dial: Dial) -> None:
        self.counters = list(dial.counters)
        self._first: dict[int, torch.Tensor] = {}
        self._last: dict[int, torch.Tensor] = {}
        self._sums: dict[tuple[int, torch.device], torch.Tensor] = {}  # of a step: [counters, states, columns]
        self._kept: dict[int, torch.Tensor] = {}  # how often each entry was kept
        dial.wrap(self._around)

    def _around(
        self, counter: int, x: torch.Tensor, seen: Observation, inner: Inner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        y, kept = inner(counter, x, seen)
        if seen.step is not None and self.counters[counter].expert is None:
            self._note(counter, seen.step, y.reshape(-1, y.shape[-1]) != 0, seen)
        return y, kept

    def _note(self, counter: int, step: int, kept: torch.Tensor, seen: Observation) -> None:
        count, device = len(kept), kept.device
        masked, real = (_flags(t, count, device) for t in (seen.masked, seen.real))
        masked = torch.zeros(count, dtype=torch.bool, device=device) if masked is None else masked
        real = torch.ones_like(masked) if real is None else real
        states = torch.stack([masked & real, ~masked & real]).double()
        words = pack(kept)
        one = torch.ones(count, dtype=torch.float64, device=device)
        columns = [one, popcount(words).double(), one * 0, one * 0, one * 0]
        if step and counter in self._last and self._last[counter].shape == words.shape:
            columns[2:] = [one, jaccard(words, self._last[counter]), jaccard(words, self._first[counter])]
        else:
            self._first[counter] = words
        self._last[counter] = words
        key = (step, device)
        with torch.inference_mode(False):  # so that they can be added to outside inference mode too
            if key not in self._sums:
                shape = (len(self.counters), len(STATES), len(self.COLUMNS))
                self._sums[key] = torch.zeros(shape, dtype=torch.float64, device=device)
            if counter not in self._kept:
                self._kept[counter] = torch.zeros(kept.shape[-1], dtype=torch.float64, device=device)
        self._sums[key][counter] += states @ torch.stack(columns, 1)
        self._kept[counter] += (kept & real[:, None]).sum(0)

    def table(self) -> pd.DataFrame:
        """One row per counter, step and state of the tokens (``masked``: still to be filled in; ``revealed``).

        Columns: layer, module, site, expert, step, state, tokens, dropped, total, sparsity, compared (tokens that had a
        step before), consecutive and drift (mean Jaccard index with the step before and with the first, NaN where
        there was none).
        """
        rows: list[dict[str, Any]] = []
        merged: dict[int, torch.Tensor] = {}
        for (step, _), sums in self._sums.items():
            merged[step] = merged.get(step, 0) + sums.cpu()
        for step in sorted(merged):
            for c, states in zip(self.counters, merged[step].tolist(), strict=True):
                for state, (tokens, kept, compared, last, first) in zip(STATES, states, strict=True):
                    if not tokens:
                        continue
                    total = int(tokens) * c.width
                    rows.append(
                        {
                            "layer": c.layer,
                            "module": c.module,
                            "site": c.site,
                            "expert": c.expert,
                            "step": step,
                            "state": state,
                            "tokens": int(tokens),
                            "dropped": total - int(kept),
                            "total": total,
                            "sparsity": 1 - kept / total,
                            "compared": int(compared),
                            "consecutive": last / compared if compared else float("nan"),
                            "drift": first / compared if compared else float("nan"),
                        }
                    )
        return pd.DataFrame(rows)

    def kept_share(self) -> dict[int, torch.Tensor]:
        """Per counter that was reached, how often each entry was kept: float64 ``[width]``, in [0, 1]."""
        tokens: dict[int, float] = {}
        for sums in self._sums.values():
            for counter, number in enumerate(sums[:, :, 0].sum(1).tolist()):
                tokens[counter] = tokens.get(counter, 0.0) + number
        return {c: kept.cpu() / max(1.0, tokens[c]) for c, kept in sorted(self._kept.items())}

    def usage(self) -> dict[str, float]:
        """Over all entries of all counters: the shares that were never and always kept, and the median of how often."""
        shares = list(self.kept_share().values())
        if not shares:
            return {}
        every = torch.cat(shares)
        return {
            "never_kept": float((every == 0).double().mean()),
            "always_kept": float((every == 1).double().mean()),
            "kept_median": float(every.median()),
        }


class Reuse:
    """Makes a dial choose anew only every k-th denoising step; between, each token keeps its mask.

    Outside of denoising, in experts, and with ``k = 1``, the rule is asked every time.

    Raises:
        SpecError: k below 1.
    """

    def __init__(self, dial: Dial, k: int) -> None:
        if k < 1:
            raise SpecError(f"reuse mask {k}: expected at least 1 step")
        self.k = k
        self._experts = {i for i, c in enumerate(dial.counters) if c.expert is not None}
        self._masks: dict[int, torch.Tensor] = {}
        if k > 1:
            dial.wrap(self._around)

    def _around(
        self, counter: int, x: torch.Tensor, seen: Observation, inner: Inner
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if seen.step is None or counter in self._experts:
            return inner(counter, x, seen)
        width = x.shape[-1]
        words = self._masks.get(counter)
        if seen.step % self.k == 0 or words is None or len(words) != x.numel() // width:
            y, kept = inner(counter, x, seen)
            self._masks[counter] = pack(y.reshape(-1, width) != 0)
            return y, kept
        mask = unpack(words, width).view(x.shape)
        finite = torch.isfinite(x).all(-1)
        y = torch.where(mask | ~finite[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        return y, torch.where(finite, popcount(words).view(x.shape[:-1]), -1).to(torch.int32)


def _flags(flags: torch.Tensor | None, count: int, device: torch.device) -> torch.Tensor | None:
    if flags is None or flags.numel() != count:
        return None
    return flags.reshape(-1).to(device, non_blocking=True)
