"""The GIF of a run."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from style.images import resizing, writing

# Pixels: a GIF in the size of a large picture would be hundreds of megabytes.
LONG_SIDE = 512
# Milliseconds.
FRAME_TIME, LAST_FRAME_TIME = 120, 1500


class Animation:
    """An endless GIF, its last frame held, made of frames that come one by one.

    All frames get the size of the last, reduced to a long side of at most 512 pixels.  Until then
    they are held in 8 bits, reduced likewise: at most 0.8 MB each.

    Args:
        path: Path of the GIF.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._frames: list[Image.Image] = []

    def add(self, pixels: np.ndarray) -> None:
        """Add a frame.

        Args:
            pixels: Floats, [H, W, 3], clipped to [0, 1]; nothing of the array is kept.

        Raises:
            UsageError: The pixels are integers, or have another shape.
        """
        pixels = resizing.require_pixels(pixels)
        frame = Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        height, width = resizing.shape_for(pixels.shape, min(LONG_SIDE, max(pixels.shape[:2])))
        self._frames.append(_resized(frame, (width, height)))

    def finish(self, pixels: np.ndarray) -> None:
        """Add the last frame and write the GIF, by a temporary file that is renamed.

        Args:
            pixels: Floats, [H, W, 3], clipped to [0, 1].

        Raises:
            UsageError: The pixels are integers, or have another shape.
            OutputError: The GIF cannot be written; an earlier file stays.
        """
        self.add(pixels)
        first, *others = [_resized(frame, self._frames[-1].size) for frame in self._frames]
        buffer = io.BytesIO()
        first.save(
            buffer,
            "GIF",
            save_all=True,
            append_images=others,
            duration=[FRAME_TIME] * len(others) + [LAST_FRAME_TIME],
            loop=0,
        )
        writing.write_bytes(self._path, buffer.getvalue())


def _resized(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The frame at this width and height in pixels."""
    return frame if frame.size == size else frame.resize(size, Image.Resampling.LANCZOS)
