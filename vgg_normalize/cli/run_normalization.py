"""Normalising a network: rescale it, save it, read it back, and verify what was read.

An ONNX file is not read back but run: its features must be the network's, and its weights' bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import onnx_files, rescaling, saved_network, verification
from vgg_normalize.cli.inputs import Inputs
from vgg_normalize.cli.settings import Settings
from vgg_normalize.data import sources
from vgg_normalize.errors import VerificationError
from vgg_normalize.means import Means
from vgg_normalize.runtime.progress import Heartbeat, Progress
from vgg_normalize.verification import Check

# Of images in the verification, which runs two networks at once.
LARGEST_BATCH = 4
# On how many images ONNX Runtime is compared with TensorFlow.
ONNX_IMAGES = 4


def run(
    settings: Settings, inputs: Inputs, means: Means, folder: Path, facts: dict[str, Any]
) -> Check:
    """Write the normalised network in every format, and compare it with the original.

    Args:
        settings: The settings of the run.
        inputs: The images and the original network.
        means: The channel means to divide by.
        folder: Where the files are written.
        facts: What `report.json` will say of the run; "formats" is added.

    Raises:
        VerificationError: The files do not hold the same weights, or ONNX Runtime computes
            something else.
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
    written = [name for name in saved_network.FORMATS if name in settings.formats]
    readable = [name for name in written if name != "onnx"]
    reloaded = saved_network.reload(normalized, folder, readable[0]) if readable else normalized
    for name in readable[1:]:
        _require_equal(reloaded, saved_network.reload(normalized, folder, name), name)
    facts["formats"] = [_artefact(folder, normalized, name) for name in written]
    if "onnx" in written:
        facts["formats"][-1]["worst_difference"] = _require_same_onnx(inputs, reloaded, folder)
    indices = sources.representative(inputs.source, settings.check_images)
    progress = Progress(len(indices), title="checking")
    check = verification.check(
        inputs.model,
        reloaded,
        means,
        _batches(inputs, indices, progress),
        artefact=saved_network.saved_function(folder) if "saved_model" in written else None,
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


def _artefact(folder: Path, model: keras.Model, form: str) -> dict[str, Any]:
    """The entry of `report.json` for an artefact; its weights are equal bit for bit."""
    path = folder / saved_network.file_name(model, form)
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return {"name": form, "file": path.name, "bytes": size, "worst_difference": 0.0}


def _require_same_onnx(inputs: Inputs, model: keras.Model, folder: Path) -> float:
    """Check that the ONNX file is the network, and return the worst difference of its features."""
    path = folder / saved_network.file_name(model, "onnx")
    missing = onnx_files.missing_weights(path, model)
    if missing:
        raise VerificationError(
            f"Expected the same weights in every artefact. Received: {path.name} without those of "
            f"{missing[0]}. Check the disk and run again."
        )
    indices = sources.representative(inputs.source, ONNX_IMAGES)
    progress = Progress(len(indices), title="checking ONNX")
    worst = max(
        onnx_files.worst_difference(path, model, np.asarray(images))
        for images in _batches(inputs, indices, progress)
    )
    progress.close()
    if not worst <= onnx_files.TOLERANCE:
        raise VerificationError(
            f"Expected {path.name} to give the network's features within {onnx_files.TOLERANCE:g} "
            f"of the largest. Received: {worst:.2g}. Leave onnx out of --formats, or install "
            "other versions of tf2onnx and onnxruntime."
        )
    return worst
