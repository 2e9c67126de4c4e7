"""Checkpoints of the making of one picture, with the pairs that they name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import optimizers
from style.pairs import Folder, Pairs
from style.pictures import Pictures
from style.settings import FREE, Settings
from vgg_normalize import checkpoint, export
from vgg_normalize.errors import OutputError, UsageError
from vgg_normalize.progress import say


class Checkpoints:
    """Where a run is saved, if that is asked for, and where it goes on.

    Args:
        settings: All of them.
        model: The network.
        pictures: What the run reads.
        label: The layer, where a picture is made for each of several.

    Raises:
        OutputError: The folders cannot be made.
        UsageError: `--resume` without `--checkpoint`.
    """

    def __init__(
        self, settings: Settings, model: keras.Model, pictures: Pictures, label: str | None
    ) -> None:
        self._settings, self._label = settings, label
        self._folder: Folder | None = None
        self._named: set[int] = set()  # the pairs of the last checkpoint
        self._place: Path | None = None
        if settings.checkpoint is None:
            if settings.resume:
                raise UsageError("Expected --checkpoint with --resume. Received: none. Name it.")
            return
        folder = Path(settings.checkpoint)
        self._place = folder / (f"checkpoint_{label}.npz" if label else "checkpoint.npz")
        self._fingerprint = _fingerprint(settings, model, pictures)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"Expected a folder for checkpoints. Received: {folder} ({error.strerror}). "
                "Choose another --checkpoint."
            ) from error

    def earlier(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """The scale to begin or go on at, and what to `unpack`.

        Raises:
            OutputError: The checkpoint is of another run.
        """
        if self._place is None or not self._settings.resume:
            return 0, None
        arrays, complaints = checkpoint.load(self._place, self._fingerprint)
        for complaint in complaints:
            say(complaint)
        if arrays is None:
            say("no checkpoint to go on from: starting afresh")
            return 0, None
        return int(arrays["scale"]), arrays

    def pairs(self, scale: int) -> Pairs | None:
        """What keeps L-BFGS's pairs at one scale, if they are to be in files."""
        if self._settings.memory_folder is None or self._settings.optimizer != "lbfgs":
            return None
        name = f"pairs_{self._label}_{scale}" if self._label else f"pairs_{scale}"
        self._folder = Folder(Path(self._settings.memory_folder) / name, self._settings.memory)
        self._named = set()
        return self._folder.pairs()

    def unpack(
        self, method: optimizers.Optimizer, start: tf.Tensor, arrays: dict[str, np.ndarray]
    ) -> Any:
        """The state that was saved.

        Raises:
            OutputError: Its pairs are not there.
        """
        like = (
            tf.function(method.init, autograph=False)
            .get_concrete_function(start)
            .structured_outputs
        )
        flat = [
            tf.constant(arrays[f"state{i}"], old.dtype)
            for i, old in enumerate(tf.nest.flatten(like))
        ]
        state = tf.nest.pack_sequence_as(like, flat)
        if self._folder is not None:
            self._named = set(state.pairs.numpy().tolist())
            self._folder.require(self._named, int(tf.size(start)))
        return state

    def save(self, scale: int, state: Any, seconds: float) -> None:
        """Write a checkpoint, if that is asked for; the one before stays until the next.

        Raises:
            OutputError: It cannot be written.
        """
        if self._place is None:
            return
        arrays: dict[str, Any] = {
            f"state{i}": np.asarray(t) for i, t in enumerate(tf.nest.flatten(state))
        }
        arrays |= {"scale": scale, "steps": state.steps, "seconds": seconds}
        checkpoint.save(self._place, arrays, self._fingerprint)
        if self._folder is not None:
            numbers = set(state.pairs.numpy().tolist())
            self._folder.hold(numbers | self._named)
            self._named = numbers

    def raise_if_failed(self) -> None:
        """Raise what went wrong with files while TensorFlow was at work."""
        if self._folder is not None:
            self._folder.raise_if_failed()

    def finish(self) -> None:
        """Delete the pairs that no checkpoint needs."""
        if self._folder is not None and self._place is None:
            self._folder.clear()


def _fingerprint(settings: Settings, model: keras.Model, pictures: Pictures) -> str:
    """Of everything that the result depends on."""
    bound = {k: v for k, v in dataclasses.asdict(settings).items() if k not in FREE}
    bound["memory_folder"] = settings.memory_folder is not None
    found = {"pictures": pictures.digest(), "weights": export.weights_digest(model)}
    return checkpoint.fingerprint({**bound, **found, "tensorflow": tf.__version__})
