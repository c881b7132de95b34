"""Silence of the libraries that load models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Turn off the progress bars and the messages of transformers and of the hub, except for errors.

    Their earlier settings are restored at the end. The tasks of lm-eval are always silent.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    has_loading_bars = logging.is_progress_bar_enabled()
    has_hub_bars = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # those of the hub as well
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_loading_bars:
            logging.enable_progress_bar()
        if has_hub_bars:
            enable_progress_bars()
        else:
            disable_progress_bars()
