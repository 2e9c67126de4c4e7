"""Opening and reading images: from a folder, a tar, a TensorFlow data set or the built-in sample.

A `Source` knows its images by index, so that reading can start anywhere, workers can share the
images, and every image that was skipped can be named.  A new kind of source is one function that
returns a `Source`, and a line in `open_source`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from vgg_normalize.data import decode
from vgg_normalize.data.base import CORES, NOT_REGULAR, Source
from vgg_normalize.data.folder import open_folder
from vgg_normalize.data.sample import open_sample
from vgg_normalize.data.tar import open_tar
from vgg_normalize.data.tfds import open_tfds
from vgg_normalize.errors import ImagesError

# Batches that are decoded while the network computes.
PREFETCH = 2


def open_source(spec: str, *, max_images: int = 0, seed: int = 0, shuffle: bool = False) -> Source:
    """Open the images of a name.

    Args:
        spec: A folder, a `.tar`, "tfds:NAME/SPLIT", or "sample".
        max_images: Largest number of images (0: all): drawn at random from a folder, else the
            first ones.
        seed: Random seed of the draw and of the order.
        shuffle: Whether to read a folder in a random order.

    Raises:
        ImagesError: The source cannot be read, or holds no images.
    """
    if max_images < 0:
        raise ImagesError(f"Expected max_images of 0 or more. Received: {max_images}. 0 means all.")
    if spec == "sample":
        return open_sample(max_images)
    if spec.startswith("tfds:"):
        return open_tfds(spec, max_images)
    path = Path(spec).expanduser()
    if os.path.isdir(path):
        return open_folder(spec, path, max_images, seed, shuffle)
    if os.path.isfile(path):
        return open_tar(spec, path, max_images)
    reason = f"is {NOT_REGULAR}" if os.path.exists(path) else "does not exist"
    raise ImagesError(
        "Expected a folder, a .tar, tfds:NAME/SPLIT or sample. Received: "
        f"{spec!r}, which {reason}. Check the path."
    )


def representative(source: Source, count: int) -> np.ndarray:
    """Indices of `count` images that represent the source (0: all), int64 [count].

    They are the first ones of a random order, else evenly spaced, since folders are often sorted by
    class.
    """
    if count <= 0 or count >= source.total:
        return np.arange(source.total)
    return np.arange(count) if source.mixed else np.arange(count) * source.total // count


def batches(
    source: Source,
    indices: np.ndarray,
    *,
    batch_size: int,
    resize: str = "squash",
    image_size: int = 224,
    min_side: int = 1,
) -> tf.data.Dataset:
    """Decoded, resized images in the order of `indices`; unreadable ones are left out.

    Args:
        source: The source that holds the images.
        indices: Indices of the images to read, int64 [N] (see `Source.encoded`).
        batch_size: Images per batch; with resize "none", where sizes differ, it is 1.
        resize: "squash", "crop" or "none", see `decode.resize`.
        image_size: Side of the resized images in pixels.
        min_side: Smallest width and height in pixels with resize "none"; smaller images are left
            out.

    Returns:
        A data set of (index int64 [B], image float32 [B, H, W, 3] in [0, 1]); the last batch may
        be smaller.  Running out of memory while resizing is an error of the data set, not an
        unreadable image.
    """
    if resize != "none":
        min_side = 1

    @tf.autograph.experimental.do_not_convert
    def decode_image(index: tf.Tensor, encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        good = tf.numpy_function(
            lambda data: not decode.find_defect(data, min_side), [encoded], tf.bool
        )
        with tf.control_dependencies([tf.debugging.Assert(good, ["unreadable"])]):
            encoded = tf.identity(encoded)
        return index, decode.decode(encoded)

    @tf.autograph.experimental.do_not_convert
    def resize_image(index: tf.Tensor, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, decode.resize(pixels, resize, image_size)

    options = tf.data.Options()
    # Autotuning gains nothing here, and closing a data set waits seconds for its thread.
    options.autotune.enabled = False
    images = source.encoded(indices)
    images = images.map(decode_image, num_parallel_calls=CORES, deterministic=True)
    images = images.ignore_errors()
    images = images.map(resize_image, num_parallel_calls=CORES, deterministic=True)
    images = images.batch(1 if resize == "none" else batch_size)
    return images.prefetch(PREFETCH).with_options(options)


def skip_reason(source: Source, index: int, min_side: int = 1) -> dict[str, str]:
    """Why image `index` was left out.

    Args:
        source: The source that holds the image.
        index: Its index in the source.
        min_side: Smallest width and height in pixels that were asked for.

    Returns:
        {"path": name in the source, "reason": a phrase}.
    """
    try:
        name, encoded = source.read(index)
    except OSError as error:
        path = _printable(str(error.filename or index))
        return {"path": path, "reason": f"cannot be read ({error.strerror or error})"}
    reason = decode.find_defect(encoded, min_side)
    if not reason:
        try:
            decode.decode(tf.constant(encoded))
            reason = "could not be read the first time"
        except tf.errors.OpError as error:
            reason = f"cannot be decoded ({_first_words(error.message)})"
    return {"path": _printable(name), "reason": reason}


def _printable(name: str) -> str:
    """A file name as text that can be encoded as UTF-8: other bytes are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _first_words(message: str) -> str:
    return " ".join(message.split("}}")[-1].split())[:200]
