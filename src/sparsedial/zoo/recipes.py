"""One recipe per model of the zoo. All learn from the same corpus, in windows of the same tokens.

Dense members are Llamas of one shape: heads of 32, F = 8/3 D rounded up to a multiple of 32, and one layer more
from each size to the next, about a doubling of D.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1
VOCABULARY = 4096
END, MASK = 0, 1  # the tokens that are no text: the end of a document (and the start of one), and "not known yet"
WINDOW = 256


@dataclass(frozen=True)
class Recipe:
    """How a model of the zoo is built and trained.

    Attributes:
        name: of the model, as in ``zoo:dense-5m``.
        kind: ``dense`` (Llama), ``moe`` (Mixtral) or ``diffusion`` (Llama in both directions, LLaDA's objective).
        hidden: D. layers: how many. width: F of each FFN, or of each expert. experts: how many, of which two
            are active. tokens: to train on. rate: the highest learning rate. batch: windows of a step. seed: of
            the weights and of the order of the data.
        shipped: whether the weights come with the package.
    """

    name: str
    hidden: int
    layers: int
    kind: str = "dense"
    width: int = 0
    experts: int = 0
    tokens: int = 262_144_000
    rate: float = 3e-3
    batch: int = 256
    seed: int = 0
    shipped: bool = True

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return self.tokens // (self.batch * WINDOW)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON with its version.

        >>> Recipe.from_json(RECIPES["dense-5m"].to_json()) == RECIPES["dense-5m"]
        True
        """
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """The inverse of `to_json`."""
        return cls(**{name: value for name, value in data.items() if name != "version"})

    def model(self) -> Any:
        """The model with fresh weights from the seed, float32."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

        from sparsedial.diffusion.model import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig

        shape: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden // 32,
            "num_key_value_heads": self.hidden // 32,
            "intermediate_size": self.width or -(-self.hidden * 8 // 3 // 32) * 32,
            "max_position_embeddings": WINDOW,
            "tie_word_embeddings": True,
            "bos_token_id": END,
            "eos_token_id": END,
            "pad_token_id": END,
        }
        torch.manual_seed(self.seed)
        if self.kind == "moe":
            shape |= {"num_local_experts": self.experts, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.01}
            return MixtralForCausalLM(MixtralConfig(**shape))
        if self.kind == "diffusion":
            return MaskedDiffusionLlama(MaskedDiffusionLlamaConfig(**shape, mask_token_id=MASK))
        return LlamaForCausalLM(LlamaConfig(**shape))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("dense-0.4m", hidden=64, layers=3, rate=8e-3),
        Recipe("dense-1.3m", hidden=128, layers=4, rate=6e-3),
        Recipe("dense-5m", hidden=256, layers=5, rate=4e-3),
        Recipe("dense-16m", hidden=448, layers=6, rate=2.5e-3),
        # Half the tokens: it would go over the corpus more often than it can without learning it by heart.
        Recipe("dense-53m", hidden=768, layers=7, rate=1.5e-3, tokens=131_072_000, shipped=False),
        Recipe("moe-5m", hidden=128, layers=4, kind="moe", width=352, experts=8, rate=4e-3),
        Recipe("moe-16m", hidden=256, layers=5, kind="moe", width=448, experts=8, rate=3e-3, shipped=False),
        Recipe("diffusion-1.3m", hidden=128, layers=4, kind="diffusion", rate=6e-3),
        Recipe("diffusion-5m", hidden=256, layers=5, kind="diffusion", rate=4e-3, shipped=False),
    )
}
"""The zoo by name."""
