"""Options of generated texts that replace those of an lm-eval task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsedial.errors import SpecError


@dataclass(frozen=True)
class GenerationOptions:
    """Options of the texts that a causal model generates. The defaults are those of each task.

    Attributes:
        max_gen_toks: Maximum number of generated tokens per text. None means that of the task. Diffusion models have
            this limit, too.
        do_sample: True if tokens are drawn at random. False means that the task decides.
        temperature: Temperature of sampling. 0 means that of the model's generation configuration.
    """

    max_gen_toks: int | None = None
    do_sample: bool = False
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_gen_toks is not None and self.max_gen_toks < 1:
            raise SpecError(f"max_gen_toks={self.max_gen_toks}: expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return the options that differ from those of the tasks. The keys are part of the identities of trials."""
        options: dict[str, Any] = {}
        if self.max_gen_toks is not None:
            options["max_gen_toks"] = self.max_gen_toks
        if self.do_sample:
            options["do_sample"] = True
            options["temperature"] = self.temperature
        return options

    def apply(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the generation arguments of a request, with these options in place of those of the task.

        Args:
            arguments: Arguments that lm-eval has normalized.

        Returns:
            The arguments, with ``max_gen_toks``.
        """
        options = dict(arguments)
        if self.max_gen_toks is not None:
            options["max_gen_toks"] = self.max_gen_toks
        if self.do_sample:
            options["do_sample"] = True
            options.pop("temperature", None)
            if self.temperature > 0:
                options["temperature"] = self.temperature
        elif not options.get("do_sample") and options.get("temperature") == 0.0:
            options.pop("temperature", None)
        return options


DEFAULT_GENERATION_OPTIONS = GenerationOptions()
"""The options of each task."""
