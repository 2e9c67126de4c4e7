"""Checkpoints: arrays in an .npz, written beside and renamed, the one before kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vgg_normalize.errors import OutputError


def fingerprint(settings: Mapping[str, Any]) -> str:
    """One number for everything that a checkpoint must agree on."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def exists(path: Path) -> bool:
    """Whether there is one, or the one before it."""
    return path.exists() or path.with_suffix(".previous").exists()


def save(path: Path, arrays: Mapping[str, Any], settings: str) -> None:
    """Write a checkpoint; the one before it stays as `<name>.previous`.

    Args:
        path: Ends in .npz.
        arrays: Name to array.
        settings: A `fingerprint`.

    Raises:
        OutputError: It cannot be written.
    """
    beside = path.with_suffix(".writing")
    try:
        with beside.open("wb") as file:
            np.savez(file, settings=np.array(settings), **arrays)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, path.with_suffix(".previous"))
        os.replace(beside, path)
    except OSError as error:
        raise OutputError(
            f"Expected to write a checkpoint. Received: {path}: {error.strerror or error}. "
            "Make room and go on with --resume."
        ) from error


def load(
    path: Path, settings: str, names: Iterable[str] = ()
) -> tuple[dict[str, np.ndarray] | None, list[str]]:
    """The last checkpoint that can be read and has these names, or None, and what was wrong with
    the others.

    Raises:
        OutputError: The checkpoint was made with other settings or inputs.
    """
    complaints = []
    for candidate in (path, path.with_suffix(".previous")):
        if not candidate.exists():
            continue
        try:
            with np.load(candidate, allow_pickle=False) as file:
                arrays = {key: file[key] for key in (*file.files, *names)}
            found = str(arrays.pop("settings"))
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
            complaints.append(f"checkpoint {candidate} is damaged ({error}); it is not used")
            continue
        if found != settings:
            raise OutputError(
                f"Expected a checkpoint of this run. Received: {candidate}, made with other "
                "settings, weights or images. Use the same flags, or start afresh without --resume."
            )
        return arrays, complaints
    return None, complaints
