"""The log of a run: JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from style.images import writing
from vgg_normalize.errors import OutputError


class Log:
    """An open log.

    Args:
        path: Path of the log; None for no log.
        keeps: Whether a line of an earlier run stays; what is not a whole record never does.
    """

    def __init__(self, path: str | None, keeps: Callable[[dict[str, Any]], bool]) -> None:
        self._path, self._is_kept = path, keeps
        self._file: Any = None

    @staticmethod
    def open(path: str, mode: str) -> Any:
        """The file, unbuffered; raises OutputError where it cannot be written."""
        try:
            return Path(path).open(mode, buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _keeps(self, text: bytes) -> bool:
        try:
            return self._is_kept(json.loads(text))
        except (ValueError, TypeError, LookupError, AttributeError):  # half a line, or none of ours
            return False

    def __enter__(self) -> Log:
        if self._path is not None:
            if Path(self._path).is_file():
                with self.open(self._path, "rb") as file:
                    lines = file.readlines()
                kept_lines = [line for line in lines if self._keeps(line)]
                if kept_lines != lines:
                    writing.write_bytes(Path(self._path), b"".join(kept_lines))
            self._file = self.open(self._path, "ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append a record."""
        if self._file is None:
            return
        try:
            self._file.write(f"{json.dumps(line)}\n".encode())
        except OSError as error:
            raise _unwritable(self._path, error) from error


def keep_until(
    label: str | None, sizes: list[tuple[int, int]], saved: dict[str, np.ndarray] | None
) -> Callable[[dict[str, Any]], bool]:
    """Which lines of a picture's log a run keeps: those of other layers, and from before.

    Args:
        label: The layer, if a picture is made for each of several.
        sizes: Height and width in pixels of each size, up to the one to begin or go on at.
        saved: The checkpoint to go on from; its step and all later ones are logged again.
    """
    *done, now = map(list, sizes)
    step = 0 if saved is None else int(saved["steps"])

    def keeps(line: dict[str, Any]) -> bool:
        layer, size = line.get("layer"), line["size"]
        return layer != label or size in done or (size == now and line["step"] < step)

    return keeps


def log_record(
    state: Any, shape: tuple[int, int], seconds: float, label: str | None
) -> dict[str, Any]:
    """The record of one state of an optimiser."""
    line = {
        "step": int(state.steps),
        "evaluations": int(state.evaluations),
        "seconds": round(seconds, 4),
        "size": list(shape),
        "loss": float(state.value),
        "terms": {name: float(value) for name, value in state.terms.items()},
    }
    return {**line, "layer": label} if label else line


def _unwritable(log: str | None, error: OSError) -> OutputError:
    return OutputError(
        f"Expected a log that can be written. Received: {log} ({error.strerror}). "
        "Choose another --log."
    )
