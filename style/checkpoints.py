"""Checkpoints of the making of one picture, with the pairs that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import optimizers
from style.pairs import Folder, Pairs
from style.pictures import Pictures
from style.settings import FREE, Settings
from vgg_normalize import checkpoint, output, weight_export
from vgg_normalize.errors import OutputError, UsageError
from vgg_normalize.progress import say


class Checkpoints:
    """Where a run is saved, if that is asked for, and where it goes on.

    A context: inside, the folder of checkpoints is held against other runs.  Pairs in files are in
    folders of this run's own, whose names a checkpoint tells; at the end those go that none names.

    Args:
        settings: All of them.
        model: The network.
        pictures: What the run reads.
        label: The layer, where a picture is made for each of several.

    Raises:
        UsageError: `--resume` without `--checkpoint`.
    """

    def __init__(
        self, settings: Settings, model: keras.Model, pictures: Pictures, label: str | None
    ) -> None:
        self._settings = settings
        self._run = secrets.token_hex(8)
        self._folder: Folder | None = None
        self._named: set[int] = set()  # the pairs of the last checkpoint
        self._scales: tuple[int, ...] = ()  # of the last two checkpoints, which name pairs of these
        self._place: Path | None = None
        self._held = contextlib.ExitStack()
        if settings.checkpoint is None:
            if settings.resume:
                raise UsageError("Expected --checkpoint with --resume. Received: none. Name it.")
            return
        name = f"checkpoint_{label}.npz" if label else "checkpoint.npz"
        self._place = Path(settings.checkpoint) / name
        self._fingerprint = _fingerprint(settings, model, pictures)

    def __enter__(self) -> Checkpoints:
        """Hold the folder, and see that no interrupted run is forgotten.

        Raises:
            OutputError: Another run holds it, it cannot be made, or an interrupted run is there.
        """
        with contextlib.ExitStack() as held:
            if self._place is not None:
                folder = self._place.parent
                held.enter_context(
                    output.locked(folder, "a folder for checkpoints", "--checkpoint")
                )
                require_free(self._settings)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._scales:
            self._clear(set())
        self._held.close()

    @property
    def way_on(self) -> str:
        """How a run that ends now can go on."""
        if self._scales:
            return "go on with --resume"
        return "it cannot go on from there: use --checkpoint next time"

    def earlier(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """The scale to begin or go on at, and what to `unpack`.

        Raises:
            OutputError: The checkpoint is of another run.
            UsageError: It is beyond `--steps`.
        """
        if self._place is None:
            return 0, None
        if not self._settings.resume:
            self._forget_finished(self._place)
            return 0, None
        names = ("scale", "steps", "seconds", "evaluations", "budget", "run")
        arrays, complaints = checkpoint.load(
            self._place, self._fingerprint, dict.fromkeys(names, ())
        )
        for complaint in complaints:
            say(complaint)
        if arrays is None:
            say("no checkpoint to go on from: starting afresh")
            return 0, None
        self._require_same_past(self._place, arrays)
        self._run, self._scales = str(arrays["run"]), (int(arrays["scale"]),)
        return int(arrays["scale"]), arrays

    def _require_same_past(self, place: Path, arrays: dict[str, np.ndarray]) -> None:
        """More steps are more of the same, but for what earlier sizes began from."""
        done, budget, steps = (
            int(arrays["evaluations"]),
            int(arrays["budget"]),
            self._settings.steps,
        )
        if int(arrays["scale"]) and steps != budget:
            raise checkpoint.other_run(place, [checkpoint.difference("steps", budget, steps)])
        if steps < min(done, budget):
            raise UsageError(
                f"Expected --steps of at least {min(done, budget)}, where the checkpoint is. "
                f"Received: {steps}. Correct it."
            )

    def _forget_finished(self, place: Path) -> None:
        """What a finished run left is replaced whole, its pairs too."""
        run = checkpoint.peek(place, "run")
        checkpoint.forget(place)
        if run is not None:
            self._run, fresh = str(run), self._run
            self._clear(set())
            self._run = fresh

    def pairs(self, scale: int) -> Pairs | None:
        """What keeps L-BFGS's pairs at one scale, if they are to be in files."""
        if self._settings.memory_folder is None or self._settings.optimizer != "lbfgs":
            return None
        if self._place is None:  # no checkpoint names those of the sizes before
            self._clear({scale})
        path = Path(self._settings.memory_folder) / f"pairs_{self._run}_{scale}"
        self._folder = Folder(path, self._settings.memory)
        self._named = set()
        return self._folder.pairs()

    def unpack(
        self, method: optimizers.Optimizer, start: tf.Tensor, arrays: dict[str, np.ndarray]
    ) -> Any:
        """The state that was saved.

        Raises:
            OutputError: It is damaged, or its pairs are not there.
        """
        like = (
            tf.function(method.init, autograph=False)
            .get_concrete_function(start)
            .structured_outputs
        )
        leaves = {f"state{i}": leaf for i, leaf in enumerate(tf.nest.flatten(like))}
        defect = checkpoint.find_defect(
            arrays, {name: tuple(leaf.shape) for name, leaf in leaves.items()}
        )
        if defect:
            raise OutputError(
                f"Expected a whole checkpoint. Received: {self._place}: {defect}. Start afresh: "
                "without --resume, and with another --checkpoint."
            )
        flat = [tf.constant(arrays[name], leaf.dtype) for name, leaf in leaves.items()]
        state = tf.nest.pack_sequence_as(like, flat)
        if self._folder is not None:
            self._named = set(state.pairs.numpy().tolist())
            self._folder.require(self._named, int(tf.size(start)))
        done = f"after {int(arrays['evaluations'])} evaluations"
        if bool(arrays["finished"]) and self._settings.steps <= int(arrays["budget"]):
            say(f"finished {done}; raise --steps to go on")
        else:
            say(f"going on {done}")
        return state

    def save(self, scale: int, state: Any, seconds: float, *, finished: bool = False) -> None:
        """Write a checkpoint, if that is asked for; the one before stays until the next.

        Raises:
            OutputError: It cannot be written.
        """
        if self._place is None:
            return
        arrays: dict[str, Any] = {
            f"state{i}": np.asarray(t) for i, t in enumerate(tf.nest.flatten(state))
        }
        arrays |= {"scale": scale, "steps": state.steps, "seconds": seconds, "run": self._run}
        arrays |= {"evaluations": state.evaluations, "budget": self._settings.steps}
        checkpoint.save(self._place, arrays, self._fingerprint, finished=finished)
        self._scales = (*self._scales, scale)[-2:]
        if self._folder is not None:
            numbers = set(state.pairs.numpy().tolist())
            self._folder.hold(numbers | self._named)
            self._named = numbers
            self._clear(set(self._scales))

    def raise_if_failed(self) -> None:
        """Raise what went wrong with files while TensorFlow was at work."""
        if self._folder is not None:
            self._folder.raise_if_failed()

    def _clear(self, scales: set[int]) -> None:
        """Delete this run's pairs but those of some sizes."""
        if self._settings.memory_folder is None:
            return
        begin = f"pairs_{self._run}_"
        for path in Path(self._settings.memory_folder).glob(f"{begin}*"):
            if path.name.removeprefix(begin) not in map(str, scales):
                Folder(path, self._settings.memory).clear()


def require_free(settings: Settings) -> None:
    """See that a new run replaces no interrupted one, of whichever layer.

    Raises:
        OutputError: There is one.
    """
    if settings.checkpoint is None or settings.resume:
        return
    for found in sorted(Path(settings.checkpoint).glob("checkpoint*")):
        place = found.with_suffix(".npz")
        checkpoint.require_free(place, "or another --checkpoint, or remove it")


def _fingerprint(settings: Settings, model: keras.Model, pictures: Pictures) -> str:
    """Of everything that the result depends on."""
    bound = {k: v for k, v in dataclasses.asdict(settings).items() if k not in FREE}
    bound["memory_folder"] = settings.memory_folder is not None
    found = {"pictures": pictures.digest(), "weights": weight_export.weights_digest(model)}
    return checkpoint.fingerprint({**bound, **found, "tensorflow": tf.__version__})
