"""Images in a folder and its subfolders."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from vgg_normalize.data.base import (
    CORES,
    EXTENSIONS,
    NOT_REGULAR,
    Source,
    digest,
    is_image_name,
    naming_errors,
)
from vgg_normalize.errors import ImagesError


def open_folder(
    spec: str, folder: Path, max_images: int = 0, seed: int = 0, shuffle: bool = False
) -> Source:
    """Open a folder; links are followed, and the order is that of the names unless shuffled.

    Args:
        spec: What the user gave, for messages and reports.
        folder: Its path.
        max_images: Number of images to draw at random (0: all).
        seed: Random seed of the draw and of the order.
        shuffle: Whether to read in a random order.

    Raises:
        ImagesError: There are no images in it.
    """
    names = sorted(_walk(folder))
    if not names:
        raise ImagesError(
            f"Expected pictures ({', '.join(sorted(EXTENSIONS))}). Received: no images under "
            f"{spec!r}. Check the path."
        )
    if shuffle or 0 < max_images < len(names):
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
        drawn = order[: max_images or None]
        names = [names[i] for i in (drawn if shuffle else np.sort(drawn))]
    paths = [os.path.join(folder, name) for name in names]
    statuses = [_status(path) for path in paths]
    # Opening a pipe or a device could block for ever.  No file is named "", so that reading it
    # fails and the entry is skipped.
    irregular = {
        i for i, status in enumerate(statuses) if status and not stat.S_ISREG(status.st_mode)
    }

    @tf.autograph.experimental.do_not_convert
    def read_file(index: tf.Tensor, path: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index, tf.io.read_file(path)

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        readable = [b"" if i in irregular else os.fsencode(paths[i]) for i in indices]
        pairs = tf.data.Dataset.from_tensor_slices((indices, tf.constant(readable, tf.string)))
        return pairs.map(read_file, num_parallel_calls=CORES)

    def read(index: int) -> tuple[str, bytes]:
        with naming_errors(names[index]):
            if index in irregular:
                raise OSError(errno.EINVAL, NOT_REGULAR)
            return names[index], Path(paths[index]).read_bytes()

    sizes = [status.st_size if status else -1 for status in statuses]
    sha256 = digest(zip(names, sizes, strict=True))
    return Source(spec, len(names), sha256, encoded, read, mixed=shuffle)


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _walk(root: Path) -> Iterator[str]:
    """Paths of images relative to `root`; a folder reached twice through links is read once."""
    seen = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders.sort()
        for name in files:
            if is_image_name(name):
                yield os.path.relpath(os.path.join(folder, name), root)
