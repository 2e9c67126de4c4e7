"""Keeping libraries from writing to the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide what libraries in C++ write to standard error; Python's own lines still appear.

    Converters and runtimes describe themselves and their graphs there, whatever the log level.
    """
    if sys.stderr is None:  # closed: 2>&-
        yield
        return
    sys.stderr.flush()
    python, terminal = sys.stderr, os.dup(2)
    with open(os.devnull, "w") as nothing, os.fdopen(terminal, "w", buffering=1) as shown:
        if _is_terminal(python):
            sys.stderr = shown
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            sys.stderr = python


def _is_terminal(stream: object) -> bool:
    """Whether a stream of Python's writes to descriptor 2."""
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # a stream in memory
        return False
