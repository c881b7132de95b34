"""Settings with which diffusion models answer the requests of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sparsedial.errors import SpecError, TaskError
from sparsedial.inference.denoising_config import DenoisingConfig
from sparsedial.inference.generation import Prompt

OPTIONS_WITHOUT_EFFECT = frozenset({"top_p", "top_k", "num_beams", "repetition_penalty", "use_cache"})
"""Options of `generate` that are ignored if nothing is sampled."""


@dataclass(frozen=True)
class DiffusionOptions:
    """Settings with which diffusion models answer the requests of tasks.

    Attributes:
        denoising: Settings of text generation. If a prompt is sampled, its own temperature is used.
        mc_samples: Number of Monte Carlo samples per log-likelihood.
        reuse_mask: Number of successive denoising steps that use the same kept entries. See `MaskReuse`.

    Raises:
        SpecError: A number is below 1.
    """

    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    mc_samples: int = 128
    reuse_mask: int = 1

    def __post_init__(self) -> None:
        for name in ("mc_samples", "reuse_mask"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} {getattr(self, name)}: expected at least 1")

    def denoising_for(self, prompt: Prompt) -> DenoisingConfig:
        """Return the denoising settings for one prompt.

        Args:
            prompt: Prompt with its sampling options.

        Returns:
            The settings, with the prompt's own temperature if it is sampled.

        Raises:
            TaskError: The prompt has an option, other than the temperature, that would change the text.
        """
        options: Mapping[str, Any] = prompt.options
        unknown = set(options) - {"do_sample", "temperature"}
        if not prompt.is_sampled:
            unknown -= OPTIONS_WITHOUT_EFFECT
        if unknown:
            raise TaskError(
                f"generation options {', '.join(sorted(unknown))}: diffusion models do not support them: "
                "expected only do_sample and temperature"
            )
        if prompt.is_sampled and options.get("temperature"):
            return replace(self.denoising, temperature=float(options["temperature"]))
        return self.denoising

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dictionary for JSON. The keys are part of the identities of stored trials."""
        return {"how": self.denoising.to_json(), "mc_samples": self.mc_samples, "reuse_mask": self.reuse_mask}


DEFAULT_DIFFUSION_OPTIONS = DiffusionOptions()
"""Default settings, which are those of LLaDA."""
