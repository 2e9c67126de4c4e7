"""The log of a run: JSON lines, one for each state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from style import image
from vgg_normalize.errors import OutputError


class Log:
    """An open log; the lines of another layer, or from before the checkpoint, are kept."""

    def __init__(
        self,
        path: str | None,
        label: str | None,
        sizes: list[tuple[int, int]],
        saved: dict[str, np.ndarray] | None,
    ) -> None:
        """
        Args:
            path: None for no log.
            label: The layer, where there are several.
            sizes: As far as the one to begin or go on at.
            saved: The checkpoint to go on from: it is logged again, and what comes after it.
        """
        self._path, self._label = path, label
        self._file: Any = None
        *self._done, self._size = map(list, sizes)
        self._step = 0 if saved is None else int(saved["steps"])

    @staticmethod
    def open(path: str, mode: str) -> Any:
        """The file, unbuffered; raises OutputError where it cannot be written."""
        try:
            return Path(path).open(mode, buffering=0)
        except OSError as error:
            raise _unwritable(path, error) from error

    def _keeps(self, text: bytes) -> bool:
        try:
            line = json.loads(text)
            layer, size, step = line.get("layer"), line["size"], line["step"]
        except (ValueError, TypeError, LookupError, AttributeError):  # half a line, or none of ours
            return False
        return (
            layer != self._label or size in self._done or (size == self._size and step < self._step)
        )

    def __enter__(self) -> Log:
        if self._path is not None:
            if Path(self._path).is_file():
                with self.open(self._path, "rb") as file:
                    lines = file.readlines()
                kept = [line for line in lines if self._keeps(line)]
                if kept != lines:
                    image.write_bytes(Path(self._path), b"".join(kept))
            self._file = self.open(self._path, "ab")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, state: Any, shape: tuple[int, int], seconds: float) -> None:
        """One line."""
        if self._file is None:
            return
        line = {
            "step": int(state.steps),
            "evaluations": int(state.evaluations),
            "seconds": round(seconds, 4),
            "size": list(shape),
            "loss": float(state.value),
            "terms": {name: float(value) for name, value in state.terms.items()},
        }
        if self._label:
            line["layer"] = self._label
        try:
            self._file.write(f"{json.dumps(line)}\n".encode())
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _unwritable(log: str | None, error: OSError) -> OutputError:
    return OutputError(
        f"Expected a log that can be written. Received: {log} ({error.strerror}). "
        "Choose another --log."
    )
