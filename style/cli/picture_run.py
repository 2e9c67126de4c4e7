"""One picture of the command: the steps, what is shown and saved of them, and how it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style.cli.log import Log, keep_until, log_record
from style.cli.precision_check import PrecisionCheck
from style.cli.settings import Settings
from style.cli.transfer_checkpoint import TransferCheckpoint
from style.images import writing
from style.images.animation import Animation
from style.objective import losses
from style.synthesis import descent, tasks
from style.synthesis.cache import Cache
from style.synthesis.descent import Status, Step
from style.synthesis.inputs import Inputs
from style.synthesis.problem import Problem
from vgg_normalize.errors import NumericalError, OutputError, UsageError
from vgg_normalize.runtime.progress import Heartbeat, InterruptHandler, Progress, say

# Frames of an animation, about.
FRAMES = 60
# How many times the rest of the objective total variation may be before a line says so.
SWAMPING = 30.0
# How many times the loss that of the clipped picture may be before the last line says so.
NOTICEABLE = 1.05
# The mean square of what rounding to 8 bits changes anyway.
ROUNDING = 1 / 255**2 / 12


class PictureRun:
    """One picture from its settings to its file.

    Args:
        settings: After `run_transfer.resolve_settings`.
        model: The network.
        inputs: The pictures.
        stop: Signals.
        label: The layer, where a picture is made for each of several.
        profile: ICC profile of the result.
        cache: What the pictures of a sheet share, see `Problem`.

    Raises:
        Error: As `Problem` and `TransferCheckpoint`.
    """

    def __init__(
        self,
        settings: Settings,
        model: keras.Model,
        inputs: Inputs,
        stop: InterruptHandler,
        *,
        label: str | None = None,
        profile: bytes | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.settings, self.inputs, self.stop = settings, inputs, stop
        self.label, self.profile = label, profile
        in_memory = settings.memory_folder is None
        self.problem = Problem(settings, model, inputs, in_memory=in_memory, cache=cache)
        self.sizes = self.problem.sizes
        self.precision_check: PrecisionCheck | None = None
        if settings.precision != "float32":
            self.precision_check = PrecisionCheck(settings, model, inputs)
        self.animation = Animation(settings.animation) if settings.animation else None
        self.checkpoint = TransferCheckpoint(settings, model, inputs, label)
        self.began = time.monotonic()

    def make(self) -> tuple[np.ndarray, str]:
        """The picture and how the run ended, with nothing written."""
        self.began = time.monotonic()
        step: Any = None
        with self.checkpoint, self.stop.defer() as stop:
            for step in self._steps(0, None):
                tasks.require_finite_start(step.state)
                stop.raise_if_requested()
            outcome = self._outcome(step)
        if not bool(step.state.finite):
            raise NumericalError(
                f"Expected a finite objective. Received: NaN or infinity after step "
                f"{int(step.state.steps)}. Lower the weights or, with Adam, the learning rate."
            )
        return self.inputs.postprocess(np.asarray(step.state.x[0])), outcome

    def finish(self, output: str) -> None:
        """Optimise and write everything that was asked for."""
        with self.checkpoint, self.stop.defer():
            first_scale, saved = self.checkpoint.restore()
            self.began -= 0.0 if saved is None else float(saved["seconds"])
            last, base, failure = self._optimize(output, first_scale, saved)
            self._conclude(output, last.state, failure)
            self.checkpoint.save(last, base, self._seconds(), finished=True)
            if not bool(last.state.finite):
                raise NumericalError(
                    "Expected a finite objective. Received: NaN or infinity after step "
                    f"{int(last.state.steps)}. The last good picture is in {output}; lower the "
                    "weights or, with Adam, the learning rate."
                )
            outcome = self._outcome(last)
        say(f"{output}: {outcome}")

    def _optimize(
        self, output: str, first_scale: int, saved: dict[str, np.ndarray] | None
    ) -> tuple[Step, Any, OutputError | None]:
        """All steps, logged, shown and saved.

        Returns:
            The last step, the state that a larger --steps would go on from, and why nothing more
            could be written, if that ended the run.
        """
        last, base = None, None
        log = Log(self.settings.log, keep_until(self.label, self.sizes[: first_scale + 1], saved))
        try:
            with log:
                for step in self._steps(first_scale, saved):
                    state = step.state
                    self._note(log, step, last)
                    base = last.state if bool(state.cut) and last is not None else state
                    last = step
                    self._show(output, state)
                    due = int(state.steps) % self.settings.checkpoint_every == 0
                    if self.stop.requested or due:
                        self.checkpoint.save(step, base, self._seconds())
                    if self.stop.requested:
                        break
        except OutputError as error:  # a full disk, say: the picture may have room elsewhere
            if last is None:
                raise
            return last, base, error
        if last is None:
            raise UsageError("Expected a step. Received: none. Raise --steps.")
        return last, base, None

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _note(self, log: Log, step: Step, last: Step | None) -> None:
        """Log a step, if it is a new one, and see that it makes sense."""
        state = step.state
        tasks.require_finite_start(state)
        begins = last is None or last.scale != step.scale
        if begins:
            self._warn_of_variation(state)
        if begins or last is None or int(state.steps) != int(last.state.steps):
            record = log_record(state, step.shape, self._seconds(), self.label)
            weights = {} if int(state.steps) else self.problem.style_weights(step.shape)
            if begins and self.precision_check is not None:
                error = self.precision_check.gradient_error(step)
                say(f"products in {self.settings.precision}: the gradient is off by {error:.2%}")
                record["precision"], record["gradient_error"] = self.settings.precision, error
            if weights:
                several = len(weights) > 1
                record["style_weight"] = weights if several else next(iter(weights.values()))
            log.write(record)

    def _conclude(self, output: str, state: Any, failure: OutputError | None) -> None:
        """Write the picture, whatever ended the run, and then raise that."""
        pixels = np.asarray(state.x[0])
        self._save(output, pixels)
        if failure is not None:
            say(f"the picture so far is in {output}")
            raise failure
        if self.animation is not None:
            self.animation.finish(self.inputs.postprocess(pixels))
        if self.stop.requested is not None:
            say(
                f"interrupted after {int(state.evaluations)} evaluations; the picture so far is in "
                f"{output}; {self.checkpoint.way_on}"
            )
            self.stop.raise_if_requested()

    def _outcome(self, step: Step) -> str:
        """How a run ended, in words."""
        state, seconds = step.state, self._seconds()
        others = self._other_losses(step) if bool(state.finite) else ""
        weights = self.problem.style_weights(self.sizes[-1])
        named = [
            f"{name} {weight:.4g}" if len(weights) > 1 else f"{weight:.4g}"
            for name, weight in weights.items()
        ]
        status = descent.status_of(state, self.problem.steps[-1])
        why = "" if status is Status.RUNNING else f"; {status.value}"
        return (
            f"loss {float(state.value):.6g}{others} after {int(state.evaluations)} evaluations, "
            f"{seconds:.1f} s"
            f"{', style weight ' + ', '.join(named) if named else ''}{why}"
        )

    def _other_losses(self, step: Step) -> str:
        """What the loss is in float32, and where pixels are clipped, if that is another one."""
        x, loss, loss_at, others = step.state.x, float(step.state.value), step.loss_at, []
        if self.precision_check is not None:
            loss_at = partial(self.precision_check.loss_at, step)
            loss = loss_at(x)
            others.append(f"{loss:.6g} in float32")
        excess = float(losses.range_excess(x)) / np.prod(x.shape)
        if excess > ROUNDING:
            Heartbeat.doing("evaluating the clipped picture")
            clipped = loss_at(tf.clip_by_value(x, 0, 1))
            if clipped > NOTICEABLE * loss:
                # At about this weight the excess costs what clipping it does.
                weight = 10.0 ** round(math.log10((clipped - loss) / excess))
                others.append(
                    f"{clipped:.6g} once clipped to 0 to 1: try --range_weight={weight:g}"
                )
        return f" ({'; '.join(others)})" if others else ""

    def _warn_of_variation(self, state: Any) -> None:
        """A total variation that swamps the rest gives a flat picture, which nobody asks for."""
        terms = {kind: float(value) for kind, value in state.terms.items()}
        variation = terms.pop("tv", 0.0)
        if terms and variation > SWAMPING * sum(terms.values()):
            say(
                f"total variation is {variation / max(sum(terms.values()), 1e-30):.0f} times the rest "
                "of the objective: expect a flat picture. Lower --tv_weight; presets are meant for "
                "--model=vgg19_original"
            )

    def _steps(self, first_scale: int, saved: dict[str, np.ndarray] | None) -> Iterator[Step]:
        """Every step of every size, with progress shown."""
        steps = descent.descend(
            self.problem,
            first_scale=first_scale,
            history=self.checkpoint.history,
            restore=None if saved is None else self.checkpoint.unpacker(saved),
        )
        progress: Progress | None = None
        scale = None
        try:
            Heartbeat.doing("preparing the first step")
            for step in steps:
                if progress is None or step.scale != scale:
                    if progress is not None:
                        progress.close()
                    title, scale = f"{step.shape[1]} x {step.shape[0]}", step.scale
                    steps_here = self.problem.steps[step.scale]
                    progress = Progress(steps_here, title=title, unit="step")
                note = f"loss {float(step.state.value):.5g}"
                progress.update(int(step.state.evaluations), note)
                yield step
        except tf.errors.OpError:
            self.checkpoint.raise_if_failed()
            self.stop.raise_if_requested()  # a second signal, while the host used the history
            raise
        finally:
            if progress is not None:
                progress.close()

    def _show(self, output: str, state: Any) -> None:
        """Write a preview and add a frame to the animation, where they are due."""
        settings, steps = self.settings, int(state.steps)
        if settings.preview_every and steps and steps % settings.preview_every == 0:
            self._save(output, np.asarray(state.x[0]))
        every = max(1, sum(self.problem.steps) // FRAMES)
        if self.animation is not None and steps % every == 0:
            self.animation.add(self.inputs.postprocess(np.asarray(state.x[0])))

    def _save(self, output: str, pixels: np.ndarray) -> None:
        writing.save(
            output,
            np.clip(self.inputs.postprocess(pixels), 0, 1),  # an optimiser may leave the range
            profile=self.profile,
            bits=self.settings.bits,
        )
