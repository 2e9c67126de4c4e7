"""Measuring the channel means: progress, checkpoints, interruption, and when to stop."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from vgg_normalize import measurement, measurement_state
from vgg_normalize.channel_sums import Sums
from vgg_normalize.cli.inputs import Inputs
from vgg_normalize.cli.settings import CHECKPOINT_KEYS, Settings
from vgg_normalize.measurement_state import State
from vgg_normalize.runtime import checkpoint, staging
from vgg_normalize.runtime.progress import InterruptHandler, Progress, say
from vgg_normalize.weights import exporting


class Measurement(NamedTuple):
    """The outcome of a measurement.

    Attributes:
        state: The sums over all images, and the images that were skipped.
        images_per_second: How fast it was.
        resumed_from: Number of images that the checkpoint held (0: none).
    """

    state: State
    images_per_second: float
    resumed_from: int


def run(
    settings: Settings,
    inputs: Inputs,
    strategy: tf.distribute.Strategy | None,
    directory: staging.StagingDirectory | None,
    stop: InterruptHandler,
) -> Measurement:
    """Measure all images, or as many as `--target_error` takes.

    Args:
        settings: The settings of the run.
        inputs: The images and the network.
        strategy: The devices; None: one device.
        directory: Where checkpoints are written; None on workers that write nothing.
        stop: Tells when the user or the system asks to stop.

    Raises:
        Interrupted: A signal came; the checkpoint is written.
    """
    checkpoints = _Checkpoints(settings, inputs, strategy, directory)
    state = checkpoints.restore()
    resumed_from = checkpoints.images
    progress = Progress(inputs.source.total, resumed_from)
    states = measurement.measure(
        inputs.model,
        inputs.source,
        inputs.options,
        state=state,
        strategy=strategy,
        max_skipped=settings.max_skipped,
    )
    with stop.defer():
        for state in states:
            images = int(state.sums.images)
            error = measurement.worst_error(state.sums, inputs.channels) if images > 1 else None
            note = "" if error is None else f"error {error:.2%}"
            progress.update(images + len(state.skipped), note)
            accurate = _is_accurate(settings, images, error)
            if stop.requested or accurate or checkpoints.is_due(images):
                checkpoints.save(state)
            if stop.requested:
                break
            if accurate:
                say(f"the asked accuracy is reached after {images} images")
                break
    rate = progress.rate()
    progress.close()
    states.close()
    if stop.requested:
        say(f"interrupted after {checkpoints.images} images; go on with --resume")
    stop.raise_if_requested()
    state = state or measurement_state.initial_state(inputs.channels)
    if checkpoints.images != state.sums.images:
        checkpoints.save(state)
    return Measurement(state, rate, resumed_from)


def _is_accurate(settings: Settings, images: int, error: float | None) -> bool:
    """Whether the accuracy of `--target_error` is reached."""
    return (
        settings.target_error > 0
        and error is not None
        and images >= measurement.LEAST_IMAGES
        and error <= settings.target_error
    )


class _Checkpoints:
    """The checkpoints of a measurement.

    Attributes:
        images: Number of images in the last checkpoint (0: none).
    """

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        strategy: tf.distribute.Strategy | None,
        directory: staging.StagingDirectory | None,
    ) -> None:
        self.images = 0
        self._resume, self._every = settings.resume, settings.checkpoint_every
        self._channels, self._strategy = inputs.channels, strategy
        self._path = None if directory is None else directory.checkpoint
        # What must be the same for a checkpoint to fit.
        self._fingerprint = checkpoint.fingerprint(
            {
                **{name: getattr(settings, name) for name in CHECKPOINT_KEYS},
                "weights": exporting.weights_digest(inputs.model),
                "images": inputs.source.sha256,
                "replicas": strategy.num_replicas_in_sync if strategy else 1,
                "tensorflow": tf.__version__,
            }
        )

    def restore(self) -> State | None:
        """The last state if `--resume` asks for it; all workers get that of the chief."""
        if not self._resume:
            return None
        state = None
        if self._path is not None:
            state, complaints = measurement_state.load_state(
                self._path, self._fingerprint, Sums.zeros(self._channels)
            )
            for complaint in complaints:
                say(complaint)
            if state is None:
                say("no checkpoint to go on from: starting afresh")
            else:
                say(f"going on after {int(state.sums.images)} images")
        if self._strategy is not None:
            state = measurement_state.broadcast_state(self._strategy, state, self._channels)
        self.images = int(state.sums.images) if state else 0
        return state

    def is_due(self, images: int) -> bool:
        """Whether it is time for a checkpoint after so many images."""
        return images - self.images >= self._every

    def save(self, state: State) -> None:
        """Write a checkpoint; workers other than the chief write none."""
        if self._path is not None:
            measurement_state.save_state(self._path, state, self._fingerprint)
        self.images = int(state.sums.images)
