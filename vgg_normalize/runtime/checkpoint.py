"""Checkpoints: arrays in an .npz, written beside and renamed, the one before kept.

Each says what it must agree on with the run that goes on from it, and whether its run has finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vgg_normalize.errors import OutputError

# Characters of a setting's value in an error; SHA-256 sums tell nobody anything.
LONGEST = 60
# Array names to shapes; None for any shape.
Shapes = Mapping[str, tuple[int, ...] | None]
DIGEST = re.compile("[0-9a-f]{64}")


def fingerprint(settings: Mapping[str, Any]) -> str:
    """One text for everything that a checkpoint must agree on, which `load` can tell apart."""
    return json.dumps(settings, sort_keys=True)


def exists(path: Path) -> bool:
    """Whether there is one, or the one before it."""
    return any(candidate.exists() for candidate in _both(path))


@contextlib.contextmanager
def _arrays_of(path: Path) -> Iterator[Any]:
    """The arrays of a file, which is closed if it is damaged too: np.load would leave it open."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        yield arrays


def peek(path: Path, name: str) -> np.ndarray | None:
    """One array of the last checkpoint, or None where it cannot be read."""
    try:
        with _arrays_of(path) as arrays:
            return arrays[name]
    except Exception:  # NumPy and zipfile raise many kinds for damaged files
        return None


def require_free(path: Path, otherwise: str) -> None:
    """See that a new run forgets none that was interrupted; a finished one's may be replaced.

    Args:
        path: Of the checkpoint.
        otherwise: What to do besides using --resume.

    Raises:
        OutputError: It is of a run that has not finished, or cannot be read.
    """
    if exists(path) and not bool(peek(path, "finished")):
        raise OutputError(
            f"Expected no checkpoint of an interrupted run. Received: {path}. Use --resume to go "
            f"on, {otherwise}."
        )


def forget(path: Path) -> None:
    """Delete a checkpoint and the one before it.

    Raises:
        OutputError: They cannot be deleted.
    """
    try:
        for candidate in _both(path):
            if candidate.exists():
                candidate.unlink()
    except OSError as error:
        raise OutputError(
            f"Expected a checkpoint that can be replaced. Received: {path}: {error.strerror}. "
            "Choose another --checkpoint."
        ) from error


def save(path: Path, arrays: Mapping[str, Any], settings: str, *, finished: bool = False) -> None:
    """Write a checkpoint; the one before it stays as `<name>.previous`.

    Args:
        path: Ends in .npz.
        arrays: Name to array.
        settings: A `fingerprint`.
        finished: Nothing is left to do, and what was asked for is written.

    Raises:
        OutputError: It cannot be written; the one before stays, and nothing half written.
    """
    beside = path.with_suffix(".writing")
    try:
        with beside.open("wb") as file:
            np.savez(file, settings=np.array(settings), finished=np.array(finished), **arrays)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, path.with_suffix(".previous"))
        os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"Expected to write a checkpoint. Received: {path}: {error.strerror or error}. "
            "Make room and go on with --resume."
        ) from error


def load(
    path: Path, settings: str, shapes: Shapes
) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """The last checkpoint that can be read and has these arrays, or None, and what was wrong with
    the others.  `finished` is among its arrays.

    Raises:
        OutputError: The checkpoint was made with other settings or inputs.
    """
    complaints = []
    for candidate in _both(path):
        if not candidate.exists():
            continue
        try:
            with _arrays_of(candidate) as file:
                arrays = {key: file[key] for key in file.files}
            saved = str(arrays.pop("settings"))
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
            complaints.append(f"checkpoint {candidate} is damaged ({error}); it is not used")
            continue
        if saved != settings:
            raise other_run(candidate, differences(saved, settings))
        defect = find_defect(arrays, {"finished": (), **shapes})
        if not defect:
            return arrays, complaints
        complaints.append(f"checkpoint {candidate} is damaged ({defect}); it is not used")
    return None, complaints


def find_defect(arrays: Mapping[str, np.ndarray], shapes: Shapes) -> str:
    """Which of these arrays is missing, has another shape or is no numbers, in words; "" if none."""
    for name, shape in shapes.items():
        if name not in arrays:
            return f"it has no {name}"
        array = arrays[name]
        if shape is not None and array.shape != tuple(shape):
            return f"its {name} is {list(array.shape)}, not {list(shape)}"
        if array.dtype.kind not in "biufU":
            return f"its {name} is of type {array.dtype}"
    return ""


def other_run(path: Path, apart: list[str]) -> OutputError:
    """The error for a checkpoint of another run.

    Args:
        path: Of the checkpoint.
        apart: What differs; empty where that cannot be told.
    """
    what = ", ".join(apart) or "which it does not tell, or by another version of this program"
    return OutputError(
        f"Expected a checkpoint of this run. Received: {path}, made with other settings: {what}. "
        "Use the same flags and files, or start afresh without --resume."
    )


def differences(saved_text: str, current_text: str) -> list[str]:
    """Names and both values of what differs between two fingerprints, as far as they tell."""
    try:
        saved, current = json.loads(saved_text), json.loads(current_text)
    except ValueError:
        return []
    if not (isinstance(saved, dict) and isinstance(current, dict)):
        return []
    return [
        difference(name, saved.get(name), current.get(name))
        for name in sorted(saved.keys() | current.keys())
        if saved.get(name) != current.get(name)
    ]


def difference(name: str, saved: Any, current: Any) -> str:
    """A setting of a checkpoint that the run has otherwise: `size (256, not 512)`."""
    if any(isinstance(value, str) and DIGEST.fullmatch(value) for value in (saved, current)):
        return name
    return f"{name} ({_short(saved)}, not {_short(current)})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _both(path: Path) -> tuple[Path, Path]:
    return path, path.with_suffix(".previous")
