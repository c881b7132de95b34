"""Whether prompts go through the chat template of a tokenizer: on, off, or on if the tokenizer has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from sparsedial.errors import SpecError
from sparsedial.models.loading import LanguageModel

AUTO = "auto"
ON = "on"
OFF = "off"
CHOICES = (AUTO, ON, OFF)
IDENTITY_ENTRY = "apply_chat_template"
"""Entry in the identity of a task. It is `AUTO` until the model is known, then True or False."""

TaskT = TypeVar("TaskT")


@runtime_checkable
class ChatTemplateTask(Protocol):
    """Interface of tasks that apply the chat template if the tokenizer has one."""

    def with_chat_template(self, is_available: bool) -> Self:
        """Return the task for a model.

        Args:
            is_available: True if the tokenizer of the model has a chat template.
        """
        ...


def parse_choice(choice: bool | str) -> bool | None:
    """Return whether the template is applied, or None if this depends on the model.

    Args:
        choice: True, False, or one of `CHOICES`.

    Raises:
        SpecError: The choice is unknown.

    >>> parse_choice(True), parse_choice("off"), parse_choice("auto")
    (True, False, None)
    """
    if isinstance(choice, bool):
        return choice
    if choice not in CHOICES:
        raise SpecError(f"apply_chat_template {choice!r}: expected one of {', '.join(CHOICES)}")
    if choice == AUTO:
        return None
    return choice == ON


def has_chat_template(tokenizer: Any) -> bool:
    """Return True if a tokenizer has a chat template.

    Args:
        tokenizer: Tokenizer of transformers, or None.
    """
    return bool(getattr(tokenizer, "chat_template", None))


def resolve_task(task: TaskT, lm: LanguageModel) -> TaskT:
    """Return a task that says whether it applies the chat template of a model.

    Args:
        task: Any task.
        lm: The model.
    """
    if isinstance(task, ChatTemplateTask):
        return task.with_chat_template(has_chat_template(lm.tokenizer))
    return task


def resolve_identity(identity: Mapping[str, Any], is_available: bool) -> Mapping[str, Any]:
    """Return the identity of the task that `resolve_task` returns.

    Args:
        identity: Identity of a task for any model.
        is_available: True if the tokenizer of the model has a chat template.

    >>> resolve_identity({"task": "gsm8k", "apply_chat_template": "auto"}, True)
    {'task': 'gsm8k', 'apply_chat_template': True}
    """
    if identity.get(IDENTITY_ENTRY) != AUTO:
        return identity
    return {**identity, IDENTITY_ENTRY: is_available}
