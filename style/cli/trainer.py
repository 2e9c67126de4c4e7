"""A network in training: its pictures, its steps, its checkpoint and its log."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import models
from style.cli import training_losses, training_report
from style.cli.log import Log
from style.cli.settings import TRAINING_CHECKPOINT_IGNORED, TrainSettings
from style.cli.tensorboard_writer import TensorBoardWriter
from style.cli.training_checkpoint import TrainingCheckpoint
from style.cli.training_pictures import Places, TrainingPictures
from style.cli.training_preview import save_preview
from style.feedforward import batch_losses, networks, saved_network, training
from style.feedforward.networks import Network
from vgg_normalize.distributed import Workers, naming_lost_workers
from vgg_normalize.errors import NumericalError, UsageError
from vgg_normalize.networks.precision import precision, with_precision
from vgg_normalize.runtime import checkpoint
from vgg_normalize.runtime.progress import Heartbeat, InterruptHandler, Progress, say
from vgg_normalize.weights import exporting


def last_good_folder(output: str) -> Path:
    """Where the last good network goes if a training with this output fails."""
    path = Path(os.path.abspath(os.path.expanduser(output)))
    return path.with_name(path.name + ".last_good")


class Trainer:
    """A network in training.

    Args:
        settings: What `style.train` was asked for, with --resize, --steps and the like filled in.
        strategy: Devices that share each batch; None: one device.

    Raises:
        Error: The network, the pictures or the settings do not fit.
    """

    def __init__(
        self, settings: TrainSettings, strategy: tf.distribute.Strategy | None = None
    ) -> None:
        self.workers = Workers.of(strategy or tf.distribute.get_strategy())
        self.replicas = strategy.num_replicas_in_sync if strategy else 1
        if settings.batch_size % self.replicas:
            raise UsageError(
                f"Expected --batch_size a multiple of {self.replicas}, the devices that share it. "
                f"Received: {settings.batch_size}. Correct it."
            )
        Heartbeat.doing("loading the network")
        self.model = with_precision(models.load(settings.model, say), settings.precision)
        self.settings = settings = training_losses.resolve(settings, self.model)
        self.pictures = TrainingPictures(settings)
        targets = self._measure_styles()
        Heartbeat.doing("building the network")
        with precision(settings.precision):
            self.network = self._build_network(self.model)
        if settings.size % self.network.stride:
            raise UsageError(
                f"Expected --size a multiple of {self.network.stride}, the stride of this network. "
                f"Received: {settings.size}. Correct it."
            )
        self.settings = training_losses.calibrate(settings, self.network, self.model, self.pictures)
        optimizer = _optimizer(settings)
        self.step = training.step_function(
            self.network,
            self.model,
            training_losses.config(self.settings),
            optimizer,
            targets=targets,
            strategy=strategy,
        )
        self.weights = [*self.network.variables, *self.network.state]
        self.variables = [*self.weights, *optimizer.variables]
        self.checkpoint = self._open_checkpoint(optimizer)
        self.done = 0  # steps
        self.places: Places = (0, 0)  # where the streams of pictures go on
        self.seconds = 0.0  # that they took, with those before the checkpoint
        self.saved = 0  # steps of which there is a checkpoint

    def _measure_styles(self) -> list[Any] | None:
        """What each fixed style's picture should have, if the styles are fixed."""
        self.style_names: list[str] = []
        if self.settings.method != "cin":
            return None
        Heartbeat.doing("measuring the styles")
        self.style_names, styles = self.pictures.fixed_styles()
        config = training_losses.config(self.settings)
        return batch_losses.style_targets(self.model, config, styles)

    def _build_network(self, model: keras.Model) -> Network:
        settings = self.settings
        style_names = tuple(name for name, _ in settings.style_layers)
        residual: dict[str, Any] = {
            name: getattr(settings, name) for name in ("normalization", "spectral", "skip", "seed")
        }
        builders: dict[str, Callable[[], Network]] = {
            "adain": lambda: networks.adain(model, seed=settings.seed),
            "encoder": lambda: networks.style_encoder(model, layers=style_names, **residual),
            "cin": lambda: networks.cin(len(self.style_names), **residual),
        }
        return builders[settings.method]()

    def _open_checkpoint(self, optimizer: keras.optimizers.Optimizer) -> TrainingCheckpoint | None:
        """The checkpoint, if one is asked for."""
        if self.settings.checkpoint is None:
            return None
        bound = {
            name: value
            for name, value in dataclasses.asdict(self.settings).items()
            if name not in TRAINING_CHECKPOINT_IGNORED
        }
        bound |= {**self.pictures.digests(), "weights": exporting.weights_digest(self.model)}
        bound["replicas"] = self.replicas
        return TrainingCheckpoint(
            self.settings.checkpoint,
            self.weights,
            list(optimizer.variables),
            checkpoint.fingerprint({**bound, "tensorflow": tf.__version__}),
        )

    def mark_finished(self, output: Path) -> bool:
        """Note in the checkpoint that the network is saved; whether it is, after all steps."""
        arrays = self.checkpoint.load() if self.checkpoint is not None else None
        if self.checkpoint is None or arrays is None or arrays["step"] != self.settings.steps:
            return False
        # What stands there may be of a run before, which the one that was killed was to replace.
        if not saved_network.holds_weights(output, self.checkpoint.weights(arrays)):
            return False
        self.checkpoint.mark_finished(arrays)
        return True

    def train(self, stop: InterruptHandler) -> None:
        """Do all steps that are left.

        Raises:
            NumericalError: A loss is not finite; the last good network is saved.
            Interrupted: A signal came; the checkpoint is written.
        """
        board = TensorBoardWriter(self.settings.tensorboard)
        self._restore()
        first = self.resumed_from = self.done  # steps that were done before
        self.lines: list[dict[str, Any]] = []  # of the log: this run's first and last
        with (
            naming_lost_workers("--checkpoint and --resume"),
            stop.defer(),
            Log(self.settings.log, lambda line: line["step"] < first) as log,
        ):
            finite = self._run_steps(stop, log, board)
        if stop.requested and self.checkpoint is not None:
            say(f"interrupted after {self.saved} steps; go on with --resume")
        stop.raise_if_requested()
        if not finite:
            self._give_up()
        if self.saved != self.settings.steps:
            self.save_checkpoint()

    def _restore(self) -> None:
        """Go on from the checkpoint, or forget it where that is not asked for."""
        if self.checkpoint is None:
            pass
        elif self.settings.resume:
            self.done, self.seconds, self.places = self.checkpoint.restore(self.settings.steps or 0)
            self.saved = self.done
        else:
            self.checkpoint.forget()
        if self.workers.count > 1:
            self._receive()

    def _receive(self) -> None:
        """Take over where the chief stands; it alone has read a checkpoint."""
        sizes = [int(np.prod(v.shape)) for v in self.variables]
        mine = np.zeros(4 + sum(sizes))
        if self.workers.index == 0:
            flat = [np.asarray(v, np.float64).ravel() for v in self.variables]
            mine = np.concatenate([[self.done, self.seconds, *self.places], *flat])
        chiefs = self.workers.all_reduce(mine)
        self.done, self.seconds = int(chiefs[0]), float(chiefs[1])
        self.saved, self.places = self.done, (int(chiefs[2]), int(chiefs[3]))
        for variable, part in zip(
            self.variables, np.split(chiefs[4:], np.cumsum(sizes)[:-1]), strict=True
        ):
            variable.assign(part.reshape(variable.shape))

    def _run_steps(self, stop: InterruptHandler, log: Log, board: TensorBoardWriter) -> bool:
        """Steps until none is left, a signal came or a loss is not finite; whether all are."""
        settings, steps = self.settings, self.settings.steps or 0
        progress = Progress(steps, self.done, title="training", unit="step")
        began = time.monotonic() - self.seconds
        finite = True
        batches = self.pictures.batches(self.places)
        while self.done < steps:
            content, style, places = next(batches)
            terms = {name: float(value) for name, value in self.step(content, style).items()}
            loss = terms.pop("loss")
            self.seconds = time.monotonic() - began
            finite = bool(np.isfinite(loss))
            if not finite:
                break
            seconds = round(self.seconds, 4)
            line = {"step": self.done, "seconds": seconds, "loss": loss, "terms": terms}
            log.write(line)
            self.lines = [*self.lines[:1], line]
            board.write(self.done, {"loss": loss, **terms})
            self.done, self.places = self.done + 1, places
            progress.update(self.done, f"loss {loss:.5g}")
            if settings.preview and (self.done % settings.preview_every == 0 or self.done == steps):
                save_preview(settings.preview, self.network, self.pictures)
            if stop.requested or self.done % settings.checkpoint_every == 0:
                self.save_checkpoint()
            if stop.requested:
                break
        progress.close()
        return finite

    def _give_up(self) -> None:
        """Save the network that the last finite loss was computed with, and say why.

        Raises:
            NumericalError: Always.
        """
        # The step from there was too wide.
        self.step.restore_last_good()
        folder = last_good_folder(self.settings.output)
        if self.workers.index == 0:
            shutil.rmtree(folder, ignore_errors=True)
            self.save(folder)
            training_report.write(folder, self, ())
        raise NumericalError(
            f"Expected a finite loss. Received: NaN or infinity at step {self.done}. The last good "
            f"network is in {folder}. Lower --learning_rate and use --resume, or train anew with lower "
            "weights."
        )

    def save_checkpoint(self, *, finished: bool = False) -> None:
        """Write the checkpoint, if one is asked for."""
        if self.checkpoint is not None:
            self.checkpoint.save(self.done, self.seconds, self.places, finished=finished)
            self.saved = self.done

    def save(self, folder: Path) -> None:
        """Write the network into a new directory."""
        settings = dataclasses.asdict(self.settings)
        network, model = self.network, self.model
        if self.settings.precision != "float32":
            model = with_precision(model, "float32")
            network = self._build_network(model)
            weights = [*network.variables, *network.state]
            for variable, trained in zip(weights, self.weights, strict=True):
                variable.assign(trained)
        saved_network.save(network, model, folder, styles=self.style_names, settings=settings)


def _optimizer(settings: TrainSettings) -> keras.optimizers.Optimizer:
    """Adam with the schedule that the settings describe, and a scaled loss for float16."""
    rate = training.Schedule(settings.learning_rate or 0.0, settings.decay or 0.0, settings.warmup)
    optimizer: keras.optimizers.Optimizer = keras.optimizers.Adam(rate)
    if settings.precision == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
