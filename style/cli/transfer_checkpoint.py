"""Checkpoints of the making of one picture, with the pairs that they name."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style.cli.settings import CHECKPOINT_IGNORED, Settings
from style.optimizers import base
from style.optimizers.history import DiskHistory, History
from style.synthesis.descent import Draw, Step
from style.synthesis.inputs import Inputs
from vgg_normalize.errors import OutputError, UsageError
from vgg_normalize.runtime import checkpoint, staging
from vgg_normalize.runtime.progress import say
from vgg_normalize.weights import exporting


class TransferCheckpoint:
    """Where a run is saved, if that is asked for, and where it goes on.

    A context: inside, the folder of checkpoints is held against other runs.  Pairs in files are in
    folders of this run's own, whose names a checkpoint tells; at the end those go that none names.

    Args:
        settings: What is asked for.
        model: The network.
        inputs: The pictures of the run.
        label: The layer, if a picture is made for each of several.

    Raises:
        UsageError: `--resume` without `--checkpoint`.
    """

    def __init__(
        self, settings: Settings, model: keras.Model, inputs: Inputs, label: str | None
    ) -> None:
        self._settings = settings
        self._run = secrets.token_hex(8)
        self._folder: DiskHistory | None = None
        self._named: set[int] = set()  # the pairs of the last checkpoint
        self._scales: tuple[int, ...] = ()  # of the last two checkpoints, which name pairs of these
        self._path: Path | None = None
        self._made_folder = False
        self._held = contextlib.ExitStack()
        if settings.checkpoint is None:
            if settings.resume:
                raise UsageError("Expected --checkpoint with --resume. Received: none. Name it.")
            return
        name = f"checkpoint_{label}.npz" if label else "checkpoint.npz"
        self._path = Path(settings.checkpoint) / name
        self._fingerprint = _fingerprint(settings, model, inputs)

    def __enter__(self) -> TransferCheckpoint:
        """Lock the folder, and check that no interrupted run is forgotten.

        Raises:
            OutputError: Another run holds it, it cannot be made, or an interrupted run is there.
        """
        pairs = self._settings.memory_folder
        self._made_folder = pairs is not None and not Path(pairs).exists()
        with contextlib.ExitStack() as held:
            if self._path is not None:
                folder = self._path.parent
                held.enter_context(
                    staging.locked(folder, "a folder for checkpoints", "--checkpoint")
                )
                require_free(self._settings)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._scales:
            self._clear(set())
        if self._made_folder and self._settings.memory_folder is not None:
            with contextlib.suppress(OSError):  # not empty, or never made
                Path(self._settings.memory_folder).rmdir()
        self._held.close()

    @property
    def way_on(self) -> str:
        """How a run that ends now can go on."""
        if self._scales:
            return "go on with --resume"
        return "it cannot go on from there: use --checkpoint next time"

    def restore(self) -> tuple[int, dict[str, np.ndarray] | None]:
        """The scale to begin or go on at, and what `unpacker` takes.

        Raises:
            OutputError: The checkpoint is of another run.
            UsageError: It is beyond `--steps`.
        """
        if self._path is None:
            return 0, None
        if not self._settings.resume:
            self._forget_finished(self._path)
            return 0, None
        names = ("scale", "steps", "seconds", "evaluations", "budget", "run", "draw")
        arrays, complaints = checkpoint.load(
            self._path, self._fingerprint, dict.fromkeys(names, ())
        )
        for complaint in complaints:
            say(complaint)
        if arrays is None:
            say("no checkpoint to go on from: starting afresh")
            return 0, None
        self._require_same_past(self._path, arrays)
        self._run, self._scales = str(arrays["run"]), (int(arrays["scale"]),)
        return int(arrays["scale"]), arrays

    def _require_same_past(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        """More steps are more of the same, but for what earlier sizes began from."""
        done, budget, steps = (
            int(arrays["evaluations"]),
            int(arrays["budget"]),
            self._settings.steps,
        )
        if int(arrays["scale"]) and steps != budget and not self._settings.coarse_steps:
            raise checkpoint.other_run(path, [checkpoint.difference("steps", budget, steps)])
        if steps < min(done, budget):
            raise UsageError(
                f"Expected --steps of at least {min(done, budget)}, where the checkpoint is. "
                f"Received: {steps}. Correct it."
            )

    def _forget_finished(self, path: Path) -> None:
        """What a finished run left is replaced whole, its pairs too."""
        run = checkpoint.peek(path, "run")
        checkpoint.forget(path)
        if run is not None:
            self._run, fresh = str(run), self._run
            self._clear(set())
            self._run = fresh

    def history(self, scale: int) -> History | None:
        """What keeps L-BFGS's pairs at one scale, if they are to be in files."""
        if self._settings.memory_folder is None or self._settings.optimizer != "lbfgs":
            return None
        if self._path is None:  # no checkpoint names those of the sizes before
            self._clear({scale})
        path = Path(self._settings.memory_folder) / f"pairs_{self._run}_{scale}"
        self._folder = DiskHistory(path, self._settings.history_size)
        self._named = set()
        return self._folder

    def unpacker(
        self, arrays: dict[str, np.ndarray]
    ) -> Callable[[base.Optimizer, tf.Tensor], tuple[Any, Draw | None]]:
        """(optimiser, picture) -> the state that was saved, and the last draw."""
        return lambda method, start: (
            self._unpack(method, start, arrays),
            self._unpack_draw(start, arrays),
        )

    def _unpack_draw(self, start: tf.Tensor, arrays: dict[str, np.ndarray]) -> Draw | None:
        """The draw that was saved, of an objective with something to draw."""
        if int(arrays["draw"]) < 0:
            return None
        defect = checkpoint.find_defect(arrays, {"drawn_at": tuple(start.shape)})
        if defect:
            raise self._damaged(defect)
        return Draw(int(arrays["draw"]), tf.constant(arrays["drawn_at"], start.dtype))

    def _damaged(self, defect: str) -> OutputError:
        return OutputError(
            f"Expected a whole checkpoint. Received: {self._path}: {defect}. Start afresh: "
            "without --resume, and with another --checkpoint."
        )

    def _unpack(
        self, method: base.Optimizer, start: tf.Tensor, arrays: dict[str, np.ndarray]
    ) -> Any:
        """The state that was saved.

        Raises:
            OutputError: It is damaged, or its pairs are missing.
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
            raise self._damaged(defect)
        flat = [tf.constant(arrays[name], leaf.dtype) for name, leaf in leaves.items()]
        state = tf.nest.pack_sequence_as(like, flat)
        if self._folder is not None:
            self._named = set(state.history.numpy().tolist())
            self._folder.require(self._named, int(tf.size(start)))
        done = f"after {int(arrays['evaluations'])} evaluations"
        if bool(arrays["finished"]) and self._settings.steps <= int(arrays["budget"]):
            say(f"finished {done}; raise --steps to go on")
        else:
            say(f"going on {done}")
        return state

    def save(self, step: Step, state: Any, seconds: float, *, finished: bool = False) -> None:
        """Write a checkpoint, if that is asked for; the one before stays until the next.

        Args:
            step: Where the run is.
            state: The state that it would go on from.
            seconds: Since it began.
            finished: Whether it has ended.

        Raises:
            OutputError: It cannot be written.
        """
        if self._path is None:
            return
        arrays: dict[str, Any] = {
            f"state{i}": np.asarray(t) for i, t in enumerate(tf.nest.flatten(state))
        }
        scale, draw = step.scale, step.draw
        arrays |= {"scale": scale, "steps": state.steps, "seconds": seconds, "run": self._run}
        arrays["draw"] = -1 if draw is None else draw.number
        if draw is not None:
            arrays["drawn_at"] = np.asarray(draw.picture)
        arrays |= {"evaluations": state.evaluations, "budget": self._settings.steps}
        checkpoint.save(self._path, arrays, self._fingerprint, finished=finished)
        self._scales = (*self._scales, scale)[-2:]
        if self._folder is not None:
            numbers = set(state.history.numpy().tolist())
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
                DiskHistory(path, self._settings.history_size).clear()


def require_free(settings: Settings) -> None:
    """Check that a new run replaces no interrupted one, of any layer.

    Raises:
        OutputError: There is one.
    """
    if settings.checkpoint is None or settings.resume:
        return
    for path in sorted(Path(settings.checkpoint).glob("checkpoint*")):
        checkpoint.require_free(path.with_suffix(".npz"), "or another --checkpoint, or remove it")


def _fingerprint(settings: Settings, model: keras.Model, inputs: Inputs) -> str:
    """A fingerprint of everything that the result depends on."""
    bound = {k: v for k, v in dataclasses.asdict(settings).items() if k not in CHECKPOINT_IGNORED}
    bound["memory_folder"] = settings.memory_folder is not None
    digests = {"pictures": inputs.digest(), "weights": exporting.weights_digest(model)}
    return checkpoint.fingerprint({**bound, **digests, "tensorflow": tf.__version__})
