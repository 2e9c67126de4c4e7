"""Images from files and to files, for Python users."""

from __future__ import annotations

import os

import numpy as np

from style.images import reading, resizing, writing


def load_image(path: str | os.PathLike[str], *, size: int | None = None) -> np.ndarray:
    """Read a picture, see `reading.load`.

    Args:
        path: Path of a file in any format that Pillow reads.
        size: Long side of the result in pixels; default: as in the file.

    Returns:
        float32, RGB, [H, W, 3], in [0, 1].

    Raises:
        ImagesError: It cannot be read.
    """
    pixels = reading.load(path).pixels
    return pixels if size is None else resizing.fit(pixels, size)


def save_image(path: str | os.PathLike[str], image: np.ndarray, *, bits: int = 8) -> None:
    """Write a picture, clipped to [0, 1], by a temporary file that is renamed.

    Args:
        path: Path of a .png, .jpg or .tif.
        image: Floats, RGB, [H, W, 3], in [0, 1].
        bits: Bits per channel: 8, or 16 for .png.

    Raises:
        UsageError: This is no image in [0, 1], or the format does not take 16 bits.
        OutputError: It cannot be written.
    """
    writing.save(path, image, bits=bits)
