"""Errors as messages on the page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gradio as gr

from vgg_normalize.errors import Error
from vgg_normalize.runtime.command import as_labels


@contextlib.contextmanager
def on_the_page() -> Iterator[None]:
    """A context that shows errors in a message, which stays until it is closed."""
    try:
        yield
    except Error as error:
        raise gr.Error(
            as_labels(str(error)),
            duration=None,
            title="This cannot be made",
            print_exception=False,
        ) from error
