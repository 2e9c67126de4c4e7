"""Normalising a network: rescale it, save it, read it back, and verify what was read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import rescaling, saved_network, verification
from vgg_normalize.cli.inputs import Inputs
from vgg_normalize.cli.settings import Settings
from vgg_normalize.data import sources
from vgg_normalize.errors import VerificationError
from vgg_normalize.means import Means
from vgg_normalize.runtime.progress import Heartbeat, Progress
from vgg_normalize.verification import Check

# Of images in the verification, which runs two networks at once.
LARGEST_BATCH = 4


def run(
    settings: Settings, inputs: Inputs, means: Means, folder: Path, facts: dict[str, Any]
) -> Check:
    """Write the normalised network in every format, and compare it with the original.

    Args:
        settings: The settings of the run.
        inputs: The images and the original network.
        means: The channel means to divide by.
        folder: Where the files are written.
        facts: What `report.json` will say of the run.

    Raises:
        VerificationError: The files do not hold the same weights.
    """
    normalized = rescaling.normalize(inputs.model, means)
    Heartbeat.doing("saving")
    saved_network.write(
        normalized,
        means,
        folder,
        formats=settings.formats,
        settings={**facts["settings"], "weights": inputs.weights.description},
    )
    first, *others = [name for name in saved_network.FORMATS if name in settings.formats]
    reloaded = saved_network.reload(normalized, folder, first)
    for name in others:
        _require_equal(reloaded, saved_network.reload(normalized, folder, name), name)
    indices = sources.representative(inputs.source, settings.check_images)
    progress = Progress(len(indices), title="checking")
    check = verification.check(
        inputs.model,
        reloaded,
        means,
        _batches(inputs, indices, progress),
        artefact=saved_network.saved_function(folder) if first == "saved_model" else None,
        other_images=bool(facts.get("mismatches"))
        or means.settings.get("images_sha256") != inputs.source.sha256,
    )
    progress.close()
    return check


def _batches(inputs: Inputs, indices: np.ndarray, progress: Progress) -> Iterator[tf.Tensor]:
    """Batches of the images at these indices, float32 [B, H, W, 3]."""
    options = inputs.options._replace(batch_size=min(LARGEST_BATCH, inputs.options.batch_size))
    done = 0
    for index, images in sources.batches(inputs.source, indices, **options._asdict()):
        yield images
        done += len(index)
        progress.update(done)


def _require_equal(model: keras.Model, other: keras.Model, other_format: str) -> None:
    """Check that two files hold the same weights bit for bit, so that one check covers both."""
    others = saved_network.named_weights(other)
    for name, array in saved_network.named_weights(model).items():
        if not np.array_equal(array, others[name]):
            raise VerificationError(
                f"Expected the same weights in every artefact. Received: {name} of {other_format}, "
                "which differs. Check the disk and run again."
            )
