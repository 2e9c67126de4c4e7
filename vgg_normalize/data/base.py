"""What a source of images is, and what every kind of source needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp")
    + (".tif", ".tiff", ".avif", ".heic", ".jxl")
)
NOT_REGULAR = "not a regular file"
CORES = os.cpu_count() or 1


def is_image_name(name: str) -> bool:
    """Whether a file name ends like that of an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


class Source(NamedTuple):
    """Encoded images in a fixed order.

    Attributes:
        name: The source as the user named it.
        total: Number of images.
        sha256: SHA-256 of the ordered names and sizes in bytes, as hexadecimal digits.
        encoded: Maps indices, int64 [N], to a data set of (index int64 [], file content string [])
            in the same order.  A TensorFlow data set is read sequentially, so its indices must
            ascend.
        read: Maps an index to (name, file content); raises OSError if the image cannot be read.
        mixed: Whether the order is random, so that the first images are a fair sample.
        sequential: Whether it is read from its beginning on, so that `read` takes long.
    """

    name: str
    total: int
    sha256: str
    encoded: Callable[[np.ndarray], tf.data.Dataset]
    read: Callable[[int], tuple[str, bytes]]
    mixed: bool = False
    sequential: bool = False


def digest(entries: Iterable[tuple[str, int]]) -> str:
    """SHA-256 of (name, size in bytes) pairs, as hexadecimal digits."""
    sha256 = hashlib.sha256()
    for name, size in entries:
        sha256.update(os.fsencode(name) + b"\0" + str(size).encode() + b"\n")
    return sha256.hexdigest()


def dataset_from_reader(
    read: Callable[[int], tuple[str, bytes]],
) -> Callable[[np.ndarray], tf.data.Dataset]:
    """`Source.encoded` for a source that is read in Python, one image after the other."""

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        def generate() -> Iterator[tuple[int, bytes]]:
            for index in indices:
                yield int(index), read(int(index))[1]

        signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string))
        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    return encoded


@contextlib.contextmanager
def naming_errors(name: str) -> Iterator[None]:
    """Make an OSError name the image as the report does, not by its path on the disk."""
    try:
        yield
    except OSError as error:
        error.filename = name
        raise
