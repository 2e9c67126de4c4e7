"""Pictures for training: random crops, each of which depends on its number and the seed alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from vgg_normalize.data import decode
from vgg_normalize.data.sources import Source
from vgg_normalize.errors import ImagesError


def usable_images(source: Source, side: int, max_skipped: int = 0) -> tuple[np.ndarray, list[str]]:
    """The indices of the pictures that can be cropped, and why each of the others cannot.

    Args:
        source: The pictures.
        side: Side of the crops in pixels; smaller pictures are left out.
        max_skipped: Number of unreadable pictures that may be left out too.

    Raises:
        ImagesError: More than `max_skipped` are unreadable, or none is left.
    """
    usable, complaints, unreadable = [], [], 0
    for index in range(source.total):
        try:
            name, encoded = source.read(index)
            defect = decode.find_defect(encoded) or _find_decoding_error(encoded)
            reason = defect or decode.find_defect(encoded, side).replace("this network", "the crop")
        except OSError as error:
            name, defect = str(error.filename), f"cannot be read ({error.strerror or error})"
            reason = defect
        unreadable += bool(defect)
        if reason:
            complaints.append(f"{name!r}: {reason}")
        else:
            usable.append(index)
        if unreadable > max_skipped:
            raise ImagesError(
                f"Expected at most {max_skipped} unreadable pictures under {source.name!r}. "
                f"Received: {complaints[-1]}. Mend or remove it, or allow more with --max_skipped."
            )
    if not usable:
        raise ImagesError(
            f"Expected pictures of at least {side} x {side} under {source.name!r}. Received: none, "
            f"for example {complaints[-1]}. Lower --size, or give larger pictures."
        )
    return np.array(usable), complaints


def _find_decoding_error(encoded: bytes) -> str:
    """Why a picture with a good header cannot be decoded, or ""; JPEGs are left to `find_defect`."""
    if encoded[:3] == b"\xff\xd8\xff":
        return ""
    try:
        decode.decode(tf.constant(encoded))
    except tf.errors.OpError as error:
        return f"cannot be decoded ({_shorten(error.message)})"
    return ""


def _shorten(message: str) -> str:
    """An error message of TensorFlow without the names of its nodes."""
    text = re.sub(r"\{\{.*?\}\}|.*Iterator::\S+: |\[\[|\]\]|\[Op:.*", " ", message)
    return " ".join(text.split())[-200:]


def example_order(count: int, first: int, last: int, seed: int) -> np.ndarray:
    """The pictures that examples number `first` to before `last` are, as indices [last - first].

    Each picture comes once an epoch, in an order that depends on the seed and the epoch alone.

    Args:
        count: Number of pictures.
        first: Number of the first example, counted from the beginning of the training.
        last: Number of the example after the last one.
        seed: Random seed of the order.
    """
    epochs = range(first // count, -(-last // count))
    orders = [np.random.Generator(np.random.PCG64([seed, e])).permutation(count) for e in epochs]
    begin = first % count
    return np.concatenate(orders)[begin : begin + last - first] if orders else np.empty(0, int)


def random_crops(
    source: Source,
    indices: np.ndarray,
    *,
    size: int,
    resize: int,
    batch_size: int,
    first: int,
    seed: int,
) -> tf.data.Dataset:
    """Random crops [B, size, size, 3] in [0, 1]; each depends on its number and the seed alone.

    Args:
        source: The pictures.
        indices: Indices of the pictures to crop, in order.
        size: Side of the crops in pixels.
        resize: Short side of the pictures before cropping, in pixels; at least `size`.
        batch_size: B; an incomplete last batch is dropped.
        first: Number of the first crop, counted from the beginning of the training.
        seed: Random seed of the positions of the crops.
    """

    def load(number: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(decode.decode(encoded), tf.float32) / 255
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        scaled = tf.cast(tf.round(shape * (resize / tf.reduce_min(shape))), tf.int32)
        pixels = tf.image.resize(pixels, tf.maximum(scaled, size), antialias=True)
        seeds = tf.stack([tf.constant(seed, tf.int64), number])
        return tf.image.stateless_random_crop(pixels, [size, size, 3], seeds)

    numbers = tf.data.Dataset.range(first, first + len(indices))
    encoded = source.encoded(indices).map(lambda _, encoded: encoded)
    options = tf.data.Options()
    options.autotune.enabled = False
    numbered = tf.data.Dataset.zip(numbers, encoded)
    crops = numbered.map(load, num_parallel_calls=2, deterministic=True)
    return crops.batch(batch_size, drop_remainder=True).prefetch(2).with_options(options)


def decode_pixels(encoded: bytes) -> np.ndarray:
    """Decode an image file to float32 pixels [H, W, 3] in [0, 1]."""
    return decode.decode(tf.constant(encoded)).numpy().astype(np.float32) / 255


def center_square(encoded: bytes, size: int) -> np.ndarray:
    """The central square of an image file, resized to [size, size, 3] in [0, 1]."""
    return decode.resize(decode.decode(tf.constant(encoded)), "crop", size).numpy()


def zip_batches(contents: tf.data.Dataset, styles: tf.data.Dataset) -> Iterator[tuple[Any, Any]]:
    """(contents, styles), batch by batch.

    Raises:
        ImagesError: A picture was changed or removed after it was checked.
    """
    try:
        yield from tf.data.Dataset.zip(contents, styles)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        raise ImagesError(
            "Expected pictures that stay as they are while they are used. Received: "
            f"{_shorten(error.message)}. Restore them, and go on with --resume."
        ) from error
