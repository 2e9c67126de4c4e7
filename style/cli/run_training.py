"""One run of `style.train`: folders and settings -> steps -> a network."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path

import tensorflow as tf

from style.cli import exports, training_checkpoint, training_report
from style.cli.settings import TrainSettings
from style.cli.trainer import Trainer, last_good_folder
from style.feedforward import exporting
from style.images import writing
from vgg_normalize.errors import OutputError, UsageError
from vgg_normalize.runtime import devices, staging
from vgg_normalize.runtime.progress import InterruptHandler, say


def run(settings: TrainSettings, stop: InterruptHandler) -> None:
    """Train a network and save it.

    Raises:
        Error: What went wrong, with its exit code.
        Interrupted: A signal came; the checkpoint is written.
    """
    resize = 2 * settings.size if settings.resize is None else settings.resize
    if resize < settings.size:
        raise UsageError(
            f"Expected --resize of at least --size. Received: {resize} and {settings.size}. "
            "Correct them."
        )
    settings = dataclasses.replace(settings, resize=resize)
    if settings.resume and settings.checkpoint is None:
        raise UsageError("Expected --checkpoint with --resume. Received: none. Name it.")
    if settings.preview is not None:
        writing.require_writable(settings.preview)
    if settings.logical_cpus:
        devices.split_cpu(settings.logical_cpus)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    strategy = devices.strategy(settings.strategy)
    if not devices.is_chief(strategy):
        _help(settings, strategy, stop)
        return
    with contextlib.ExitStack() as locks:
        if settings.checkpoint is not None:
            folder = Path(settings.checkpoint)
            locks.enter_context(staging.locked(folder, "a folder for checkpoints", "--checkpoint"))
        _require_free(settings)
        if _is_finished(settings, strategy):
            say(f"{settings.output} is finished: nothing to do.")
            return
        _train(settings, strategy, stop)
    say(f"saved in {settings.output}")


def _help(
    settings: TrainSettings, strategy: tf.distribute.Strategy | None, stop: InterruptHandler
) -> None:
    """Take the same steps as the chief, which alone writes."""
    settings = dataclasses.replace(
        settings, log=None, tensorboard=None, preview=None, checkpoint=None
    )
    Trainer(settings, strategy).train(stop)


def _require_free(settings: TrainSettings) -> None:
    """See before the work that it will overwrite nothing unasked."""
    if settings.overwrite:
        return
    last_good = last_good_folder(settings.output)
    if last_good.exists():
        raise OutputError(
            f"Expected no {last_good}, where the last good network goes if this run fails. "
            "Received: one. Move it, or use --overwrite."
        )
    if settings.checkpoint and not settings.resume:
        training_checkpoint.require_free(settings.checkpoint)


def _is_finished(settings: TrainSettings, strategy: tf.distribute.Strategy | None) -> bool:
    """Whether --resume finds all steps done and their network saved.

    A run may have been killed after it saved the network and before it noted that in the
    checkpoint; then this does.
    """
    output = Path(os.path.expanduser(settings.output))
    if not settings.resume or settings.overwrite or not output.is_dir():
        return False
    if not training_checkpoint.may_hold(settings.checkpoint or "", settings.steps or 0):
        return False
    # Nothing is overwritten; what a killed run left beside the output is deleted.
    with staging.staging(settings.output, overwrite=True, resume=True) as stage:
        missing = [f for f in exports.export_sizes(settings) if not _has_export(stage.target, f)]
        return not missing and Trainer(settings, strategy).mark_finished(stage.target)


def _has_export(output: Path, form: str) -> bool:
    return (output / exporting.FILES[form]).is_file()


def _train(
    settings: TrainSettings, strategy: tf.distribute.Strategy | None, stop: InterruptHandler
) -> None:
    """Do the work, with the folder of checkpoints held.

    Raises:
        VerificationError: An export does not give the network's images; the network is saved
            without it.
    """
    with staging.staging(settings.output, overwrite=settings.overwrite, resume=False) as stage:
        trainer = Trainer(settings, strategy)
        exports.rehearse(trainer.save, settings)
        trainer.train(stop)
        with staging.guard_writes(stage.new):
            folder = stage.empty_new()
            folder.rmdir()
        trainer.save(folder)
        formats, failure = exports.write(folder, settings)
        with staging.guard_writes(folder):
            training_report.write(folder, trainer, formats)
        stage.commit()
        if failure is not None:
            raise failure
        trainer.save_checkpoint(finished=True)
