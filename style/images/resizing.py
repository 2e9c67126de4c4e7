"""Resizing pictures, float32, [H, W, C] in [0, 1], by Pillow's Lanczos filter."""

from __future__ import annotations

import numpy as np
from PIL import Image

from style.images.reading import READ_SUFFIXES as READ_SUFFIXES
from style.images.reading import Picture as Picture
from style.images.reading import load as load
from vgg_normalize.errors import UsageError


def require_pixels(pixels: np.ndarray, *, channels: int | None = 3) -> np.ndarray:
    """The array itself, if it is a picture.

    Args:
        pixels: Floats, [H, W, C].
        channels: Number of channels C; None for any.

    Raises:
        UsageError: The array holds integers, has another shape, or is empty.
    """
    pixels = np.asarray(pixels)
    is_picture = pixels.ndim == 3 and pixels.size and channels in (None, pixels.shape[-1])
    if pixels.dtype.kind != "f" or not is_picture:
        raise UsageError(
            f"Expected pixels as floats in [0, 1], [H, W, {channels or 'C'}]. Received: "
            f"{pixels.dtype}, {list(pixels.shape)}. Divide integers by 255; add or drop channels."
        )
    return pixels


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by Pillow's Lanczos filter in float32; its overshoot is kept.

    Args:
        pixels: Floats, [H, W, C].
        height: Height of the result in pixels.
        width: Width of the result in pixels.

    Returns:
        float32, [height, width, C]; the array itself where it has this size.

    Raises:
        UsageError: The array is no picture, or a side is below 1.
    """
    pixels = require_pixels(pixels, channels=None)
    if min(height, width) < 1:
        raise UsageError(f"Expected a size from 1. Received: {height} x {width}. Raise it.")
    if pixels.shape[:2] == (height, width):
        return pixels
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[..., c], np.float32), mode="F").resize(
                (width, height), Image.Resampling.LANCZOS
            )
        )
        for c in range(pixels.shape[2])
    ]
    return np.stack(channels, axis=-1)


def fit(pixels: np.ndarray, long_side: float) -> np.ndarray:
    """Resize to a given long side.

    Args:
        pixels: Floats, [H, W, C], in [0, 1].
        long_side: Long side of the result in pixels, above 0; rounded.

    Returns:
        float32, [H', W', C], clipped to [0, 1].
    """
    height, width = shape_for(require_pixels(pixels, channels=None).shape, long_side)
    return np.clip(resize(pixels, height, width), 0, 1)


def shape_for(shape: tuple[int, ...], long_side: float) -> tuple[int, int]:
    """Height and width of a picture with the same aspect ratio and a given long side.

    Args:
        shape: Shape (H, W, ...) of a picture, in pixels.
        long_side: Long side of the result in pixels, above 0; rounded.

    Returns:
        Height and width in pixels, each at least 1.
    """
    factor = long_side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def require_unit_range(pixels: np.ndarray) -> None:
    """Check that a picture is about in [0, 1], and not in 0..255.

    Up to 1 % of the numbers may be anywhere: hours of work must not be lost because an optimiser
    threw a few pixels far out.

    Raises:
        UsageError: More of them lie below -3 or above 4, or one is NaN.
    """
    low, high = float(pixels.min()), float(pixels.max())
    far = (low < -3 or high > 4) and np.mean((pixels < -3) | (pixels > 4)) > 0.01
    if far or low != low:
        raise UsageError(
            f"Expected pixels in [0, 1]. Received: values from {low:g} to {high:g}. Divide 0..255 "
            "by 255; look for what is not a number."
        )
