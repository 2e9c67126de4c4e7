"""The animation of a run: a GIF, a WebP, or a video."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from style.images import resizing, writing

# Pixels: an animation in the size of a large picture would be hundreds of megabytes.
LONG_SIDE = 512
# Milliseconds.
FRAME_TIME, LAST_FRAME_TIME = 120, 1500


class Animation:
    """An animation, its last frame held, made of frames that come one by one; endless but for .mp4.

    All frames get the size of the last, reduced to a long side of at most 512 pixels.  Until then
    they are held in 8 bits, reduced likewise: at most 0.8 MB each.

    Args:
        path: Its path: .gif, .webp, or .mp4, which needs the package av.
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
        """Add the last frame and write the animation, by a temporary file that is renamed.

        Args:
            pixels: Floats, [H, W, 3], clipped to [0, 1].

        Raises:
            UsageError: The pixels are integers, or have another shape.
            OutputError: It cannot be written; an earlier file stays.
        """
        self.add(pixels)
        frames = [_resized(frame, self._frames[-1].size) for frame in self._frames]
        encode = _ENCODERS[self._path.suffix.lower()]
        writing.write_bytes(self._path, encode(frames))


def _encode_images(frames: list[Image.Image], **options: Any) -> bytes:
    """The bytes of an animation that Pillow writes."""
    first, *others = frames
    buffer = io.BytesIO()
    first.save(
        buffer,
        save_all=True,
        append_images=others,
        duration=[FRAME_TIME] * len(others) + [LAST_FRAME_TIME],
        loop=0,
        **options,
    )
    return buffer.getvalue()


def _encode_video(frames: list[Image.Image]) -> bytes:
    """The bytes of an H.264 video in MP4, which browsers and phones play; sides are made even."""
    import av  # of the extra [video]

    buffer = io.BytesIO()
    width, height = (side - side % 2 or 2 for side in frames[0].size)
    rate = round(1000 / FRAME_TIME)
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"}
        held = [frames[-1]] * round(LAST_FRAME_TIME / FRAME_TIME)
        for frame in (*frames, *held):
            image = av.VideoFrame.from_image(_resized(frame, (width, height)))
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return buffer.getvalue()


_ENCODERS: dict[str, Callable[[list[Image.Image]], bytes]] = {
    ".gif": partial(_encode_images, format="GIF"),
    ".webp": partial(_encode_images, format="WEBP", quality=85),
    ".mp4": _encode_video,
}


def _resized(frame: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The frame at this width and height in pixels."""
    return frame if frame.size == size else frame.resize(size, Image.Resampling.LANCZOS)
