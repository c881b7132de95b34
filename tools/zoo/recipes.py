"""Recipes of the zoo's models. All models learn from the same corpus, in windows of the same tokens.

Dense models are Llamas of one shape: heads of 32, F = 8/3 D rounded up to a multiple of 32, and one more layer from
each size to the next, which is about a doubling of D.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FORMAT_VERSION = 1  # of a recipe as JSON
VOCABULARY = 4096
THINKING_VOCABULARY = 50  # of the tokenizer of characters
END = 0  # token ID between documents
MASK = 1  # token ID that a diffusion model replaces with text
START = 0  # token ID before a conversation of the thinking model
END_OF_TURN = 1  # token ID after each of its turns
WINDOW = 256  # tokens of a training example
THINKING_POSITIONS = 512  # a thinking model may think for longer than in its training
HEAD_WIDTH = 32
ACTIVE_EXPERTS = 2


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of one model of the zoo.

    Attributes:
        name: Name of the model, without the prefix ``zoo:``.
        hidden: Width D of the residual stream.
        layers: Number of layers.
        kind: "dense" (Llama), "moe" (Mixtral), "diffusion" (bidirectional Llama with LLaDA's objective) or "thinking"
            (Llama that learns its turns of packed conversations).
        width: Width F of each FFN or expert. 0 stands for 8/3 D, rounded up to a multiple of 32.
        experts: Number of experts per layer, two of which are active. 0 for models without experts.
        tokens: Number of tokens to train on.
        rate: Highest learning rate.
        batch: Windows per optimizer step.
        seed: Random seed of the initial weights and of the order of the data.
        shipped: True if the weights are part of the zoo package.
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
        """Number of optimizer steps."""
        return self.tokens // (self.batch * WINDOW)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary that `from_json` reads back, with the version of the format.

        Returns:
            The fields of the recipe, ready for JSON.

        Example:
            >>> Recipe.from_json(RECIPES["dense-5m"].to_json()) == RECIPES["dense-5m"]
            True
        """
        return {"version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Return the recipe that `to_json` turned into ``data``."""
        fields = dict(data)
        fields.pop("version", None)
        return cls(**fields)

    def build_model(self) -> Any:
        """Return the model with random initial weights in float32."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

        from sparsedial.models.masked_diffusion_llama import MaskedDiffusionLlama, MaskedDiffusionLlamaConfig

        heads = self.hidden // HEAD_WIDTH
        default_width = -(-self.hidden * 8 // 3 // 32) * 32
        shape: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "intermediate_size": self.width or default_width,
            "max_position_embeddings": WINDOW,
            "tie_word_embeddings": True,
            "bos_token_id": END,  # START of a thinking model is the same ID
            "eos_token_id": END,
            "pad_token_id": END,
        }
        if self.kind == "thinking":
            shape["vocab_size"] = THINKING_VOCABULARY
            shape["max_position_embeddings"] = THINKING_POSITIONS
            shape["eos_token_id"] = shape["pad_token_id"] = END_OF_TURN
        torch.manual_seed(self.seed)
        if self.kind == "moe":
            config = MixtralConfig(
                **shape,
                num_local_experts=self.experts,
                num_experts_per_tok=ACTIVE_EXPERTS,
                router_aux_loss_coef=0.01,
            )
            return MixtralForCausalLM(config)
        if self.kind == "diffusion":
            return MaskedDiffusionLlama(MaskedDiffusionLlamaConfig(**shape, mask_token_id=MASK))
        return LlamaForCausalLM(LlamaConfig(**shape))


_ALL_RECIPES = (
    Recipe("dense-0.4m", hidden=64, layers=3, rate=8e-3),
    Recipe("dense-1.3m", hidden=128, layers=4, rate=6e-3),
    Recipe("dense-5m", hidden=256, layers=5, rate=4e-3),
    Recipe("dense-16m", hidden=448, layers=6, rate=2.5e-3, shipped=False),
    # Half the tokens, because a model of this size would memorise the corpus in as many passes as the others make.
    Recipe("dense-53m", hidden=768, layers=7, rate=1.5e-3, tokens=131_072_000, shipped=False),
    Recipe("moe-5m", hidden=128, layers=4, kind="moe", width=352, experts=8, rate=4e-3),
    Recipe("moe-16m", hidden=256, layers=5, kind="moe", width=448, experts=8, rate=3e-3, shipped=False),
    Recipe("diffusion-1.3m", hidden=128, layers=4, kind="diffusion", rate=6e-3),
    Recipe("diffusion-5m", hidden=256, layers=5, kind="diffusion", rate=4e-3, shipped=False),
    Recipe("thinking-0.8m", hidden=128, layers=4, kind="thinking", rate=3e-3, batch=8, tokens=8_192_000),
)
RECIPES = {recipe.name: recipe for recipe in _ALL_RECIPES}
