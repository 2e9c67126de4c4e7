"""The checkpoint of a training: all variables, the step and the time."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np

from vgg_normalize.errors import UsageError
from vgg_normalize.runtime import checkpoint
from vgg_normalize.runtime.progress import say

FILE = "training.npz"


def require_free(folder: str) -> None:
    """See that a new run replaces no interrupted one.

    Raises:
        OutputError: There is a checkpoint of an interrupted run.
    """
    checkpoint.require_free(
        Path(folder) / FILE, "--overwrite to start afresh, or another --checkpoint"
    )


def may_hold(folder: str, step: int) -> bool:
    """Whether the last checkpoint, or the one before, says that it is of this step."""
    path = Path(folder) / FILE
    steps = [checkpoint.peek(p, "step") for p in (path, path.with_suffix(".previous"))]
    return any(np.array_equal(other, step) for other in steps if other is not None)


class TrainingCheckpoint:
    """Where a training is saved and goes on from.

    Args:
        folder: Its directory, which is there.
        weights: The variables of the network.
        state: Those of the optimiser.
        fingerprint: What a run that goes on must agree on.
    """

    def __init__(self, folder: str, weights: list[Any], state: list[Any], fingerprint: str) -> None:
        self._path, self._fingerprint = Path(folder) / FILE, fingerprint
        self._weight_count = len(weights)
        self._variables = [*weights, *state]

    def save(
        self, step: int, seconds: float, places: tuple[int, int], *, finished: bool = False
    ) -> None:
        """Write the variables after `step` steps.

        Args:
            step: How many steps were done.
            seconds: The time that they took.
            places: Where the streams of pictures go on.
            finished: The network is saved as well: a new run may replace this checkpoint.

        Raises:
            OutputError: It cannot be written.
        """
        arrays = {f"variable{i}": np.asarray(v) for i, v in enumerate(self._variables)}
        arrays |= {"step": np.array(step), "seconds": np.array(seconds)}
        arrays["places"] = np.array(places)
        checkpoint.save(self._path, arrays, self._fingerprint, finished=finished)

    def forget(self) -> None:
        """Delete it, if there is one."""
        checkpoint.forget(self._path)

    def load(self) -> dict[str, np.ndarray] | None:
        """The arrays of the last checkpoint that can be read, or None.

        Raises:
            OutputError: It is of a training with other settings or pictures.
        """
        shapes = {f"variable{i}": tuple(v.shape) for i, v in enumerate(self._variables)}
        arrays, complaints = checkpoint.load(
            self._path, self._fingerprint, {**shapes, "step": (), "seconds": (), "places": (2,)}
        )
        for complaint in complaints:
            say(complaint)
        return arrays

    def restore(self, steps: int) -> tuple[int, float, tuple[int, int]]:
        """Set the variables to those of the checkpoint, if there is one.

        Args:
            steps: How many steps the run is asked for.

        Returns:
            The steps that are done, the seconds that they took, and where the streams of pictures go
            on.

        Raises:
            OutputError: The checkpoint is of a training with other settings or pictures.
            UsageError: It is beyond these steps.
        """
        arrays = self.load()
        if arrays is None:
            say("no checkpoint to go on from: starting afresh")
            return 0, 0.0, (0, 0)
        done = int(arrays["step"])
        if done > steps:
            raise UsageError(
                f"Expected --steps of at least {done}, where the checkpoint is. Received: {steps}. "
                "Correct it."
            )
        for i, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable{i}"])
        if bool(arrays["finished"]) and done == steps:
            say(f"finished after {done} steps; raise --steps to go on")
        else:
            say(f"going on after {done} steps")
        content_place, style_place = arrays["places"].tolist()
        return done, float(arrays["seconds"]), (content_place, style_place)

    def weights(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Those arrays of a checkpoint that are the network's weights."""
        return [arrays[f"variable{i}"] for i in range(self._weight_count)]

    def mark_finished(self, arrays: dict[str, np.ndarray]) -> None:
        """Note that the network is saved, after a run that was killed before it could.

        Args:
            arrays: What `load` gave.

        Raises:
            OutputError: It cannot be written.
        """
        if not bool(arrays["finished"]):
            others = {name: array for name, array in arrays.items() if name != "finished"}
            checkpoint.save(self._path, others, self._fingerprint, finished=True)
        with contextlib.suppress(OSError):
            self._path.with_suffix(".writing").unlink(missing_ok=True)
