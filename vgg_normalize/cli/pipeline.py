"""The main command: images -> channel means -> normalised network -> verification -> files.

`--task=measure` stops after the means; `--task=compare` compares two files of weights instead.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from vgg_normalize import verification
from vgg_normalize.cli import channel_means, run_comparison, run_measurement, run_normalization
from vgg_normalize.cli.inputs import Inputs, open_inputs, require_valid
from vgg_normalize.cli.settings import Settings
from vgg_normalize.errors import VerificationError
from vgg_normalize.means import Means
from vgg_normalize.report import json_report
from vgg_normalize.runtime import devices, staging
from vgg_normalize.runtime.progress import InterruptHandler, say
from vgg_normalize.verification import Check


def run(settings: Settings, stop: InterruptHandler) -> None:
    """Do the work of one command.

    Raises:
        Error: What went wrong, with its exit code; only the report of a failed check is left.
        Interrupted: A signal came; the checkpoint is written.
    """
    if settings.task == "compare":
        with staging.staging(
            settings.output, overwrite=settings.overwrite, resume=False
        ) as directory:
            run_comparison.run(settings, directory)
        return
    require_valid(settings)
    if settings.logical_cpus:
        devices.split_cpu(settings.logical_cpus)
    tf.config.experimental.enable_tensor_float_32_execution(settings.allow_tf32)
    strategy = devices.strategy(settings.strategy)
    if not devices.is_chief(strategy):
        run_measurement.run(settings, open_inputs(settings), strategy, None, stop)
        return
    # The finished output may be an old one that an interrupted run was to replace.
    if (
        settings.resume
        and json_report.is_finished(settings.output)
        and not (settings.overwrite and staging.is_interrupted(settings.output))
    ):
        staging.remove_leftovers(settings.output)
        say(f"{settings.output} is finished: nothing to do.")
        return
    with staging.staging(
        settings.output, overwrite=settings.overwrite, resume=settings.resume
    ) as directory:
        _write_output(settings, strategy, directory, stop)


def _write_output(
    settings: Settings,
    strategy: tf.distribute.Strategy | None,
    directory: staging.StagingDirectory,
    stop: InterruptHandler,
) -> None:
    """Measure the means, or load the given ones, and write what the task asks for."""
    inputs = open_inputs(settings)
    began = time.monotonic()
    if settings.means:
        means, means_facts = channel_means.load_given(settings, inputs)
    else:
        means, means_facts = channel_means.measure(settings, inputs, strategy, directory, stop)
    facts = {**_facts(settings, inputs), **means_facts}
    with staging.guard_writes(directory.new):
        folder = directory.empty_new()
    check = None
    if settings.task == "normalize":
        if settings.means:
            say("normalising by given means; proving it")
        check = run_normalization.run(settings, inputs, means, folder, facts)
        if settings.means:
            facts["images"]["used"] = check.images
    facts["seconds"] = time.monotonic() - began
    facts["peak_memory_bytes"] = json_report.peak_memory()
    with staging.guard_writes(folder):
        if check is None or check.passed:
            means.save(folder / "means.npz")
        else:
            directory.empty_new()
            facts["formats"] = []
        json_report.write(folder, facts, means, check)
    _commit(settings, directory, means, check)


def _commit(
    settings: Settings, directory: staging.StagingDirectory, means: Means, check: Check | None
) -> None:
    """Give the output its name; the report of a failed check never replaces an earlier output.

    Raises:
        VerificationError: The check failed.
    """
    if check is None or check.passed:
        directory.commit()
        say(json_report.summary(means, check, settings.output))
        return
    target = _failed_target(directory.target)
    directory.commit(target)
    raise VerificationError(
        "Expected the normalised network to match the original up to its scales. Received: "
        f"{verification.describe(check)}. Nothing was saved but the report in {target}."
    )


def _failed_target(target: Path) -> Path:
    """Where the report of a failed check goes: beside an earlier output."""
    if target.exists() and any(target.iterdir()):
        return target.with_name(target.name + ".failed")
    return target


def _facts(settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """The entries of `report.json` that do not depend on the means."""
    return {
        "architecture": settings.architecture,
        "pooling": settings.pooling,
        "padding": settings.padding,
        "task": settings.task,
        "settings": {**dataclasses.asdict(settings), "formats": list(settings.formats)},
        "weights": inputs.weights.facts(),
        "versions": json_report.versions(),
    }
