"""The channel means of a run, measured or given, and what the report says of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from vgg_normalize import shipped_means
from vgg_normalize.cli import run_measurement
from vgg_normalize.cli.inputs import Inputs
from vgg_normalize.cli.settings import Settings
from vgg_normalize.data import sources
from vgg_normalize.errors import UsageError
from vgg_normalize.means import Means
from vgg_normalize.runtime import staging
from vgg_normalize.runtime.progress import InterruptHandler, say
from vgg_normalize.weights import loading


def measure(
    settings: Settings,
    inputs: Inputs,
    strategy: tf.distribute.Strategy | None,
    directory: staging.StagingDirectory,
    stop: InterruptHandler,
) -> tuple[Means, dict[str, Any]]:
    """Measure the means of the images (see `run_measurement.run`).

    Returns:
        The means, and the entries of `report.json` about them.
    """
    measurement = run_measurement.run(settings, inputs, strategy, directory, stop)
    skipped = [
        sources.skip_reason(inputs.source, index, inputs.options.min_side)
        for index in measurement.state.skipped
    ]
    for image in skipped:
        say(f"skipped {image['path']!r}: {image['reason']}")
    conditions = {
        "architecture": settings.architecture,
        "weights": inputs.weights.description,
        "biases": loading.bias_digests(inputs.model),
        **_conditions(settings),
        "images": settings.images,
        "images_sha256": inputs.source.sha256,
    }
    measured = measurement.state.sums.to_means(inputs.channels)
    measured = dataclasses.replace(measured, settings=conditions)
    return measured, {
        "means": {"source": "measured", "images": measured.images, "sha256": ""},
        "resumed_from": measurement.resumed_from,
        "images": _images_facts(settings, inputs, measured.images, skipped),
        "images_per_second": measurement.images_per_second,
    }


def load_given(settings: Settings, inputs: Inputs) -> tuple[Means, dict[str, Any]]:
    """Load the means of `--means`.

    Returns:
        The means, and the entries of `report.json` about them.

    Raises:
        NetworkError: They were measured on another network.
        UsageError: They were measured under other conditions, without `--allow_mismatch`.
    """
    path = settings.means or ""
    given, digest = shipped_means.load_means(path, settings.architecture)
    given = shipped_means.require_of_network(given, inputs.model, path)
    mismatches = shipped_means.differences(given, _conditions(settings))
    if mismatches and not settings.allow_mismatch:
        raise UsageError(
            f"Expected means measured as this run is set. Received: {path}, measured with "
            f"{'; '.join(mismatches)}. Change the flags, measure anew without --means, or use "
            "--allow_mismatch."
        )
    if not given.settings:
        say(f"{path} does not say how it was measured: its pooling and sizes are taken as given")
    return given, {
        "means": {"source": path, "images": given.images, "sha256": digest},
        "mismatches": mismatches,
        "resumed_from": 0,
        "images": _images_facts(settings, inputs, 0, []),
        "images_per_second": None,
    }


def _conditions(settings: Settings) -> dict[str, Any]:
    """What means depend on besides the weights and the images."""
    conditions = {name: getattr(settings, name) for name in shipped_means.CONDITIONS}
    if settings.resize == "none":
        del conditions["image_size"]
    return conditions


def _images_facts(
    settings: Settings, inputs: Inputs, used: int, skipped: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "source": settings.images,
        "used": used,
        "skipped": skipped,
        "sha256": inputs.source.sha256,
    }
