"""Pictures: writing, resizing, and reading by `reading.load`.

In memory a picture is float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from style.reading import READ_SUFFIXES as READ_SUFFIXES
from style.reading import Picture as Picture
from style.reading import load as load
from vgg_normalize.errors import OutputError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Sides in pixels that a format can hold; libjpeg stops a little below the 65,535 of its headers.
LONGEST = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".gif": 65_535, ".webp": 16_383}
# Of the encoder that writes PNGs of 16 bits: a side, and all numbers of a picture.
LONGEST_16_BITS = 1_000_000
MOST_NUMBERS_16_BITS = 2**31 - 1
# A TIFF counts its bytes in 32 bits; some are left for the profile and the table of strips.
TIFF_BYTES = 2**32 - 2**24


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The path of a picture that can be written; checked before any work.

    Args:
        path: Where it is to be, with one of `SUFFIXES`.

    Raises:
        UsageError: The suffix names no format that is written.
        OutputError: The folder is missing or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"Expected a picture {', '.join(SUFFIXES)}. Received: {str(path)!r}. Change the suffix."
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OutputError(
            f"Expected a file in a folder that can be written. Received: {str(path)!r}. Create "
            "the folder or choose another path."
        )
    return path


def require_writable_bits(path: str | os.PathLike[str], bits: int) -> Path:
    """`require_writable`, in so many bits a channel.

    Args:
        path: Where it is to be, with one of `SUFFIXES`.
        bits: Of each number of the file.

    Raises:
        UsageError: 8 and 16 are all there are, and 16 only in a .png.
        OutputError: As `require_writable`.
    """
    path = require_writable(path)
    if bits not in (8, 16):
        raise UsageError(f"Expected --bits of 8 or 16. Received: {bits}. Choose one.")
    if bits == 16 and path.suffix.lower() != ".png":
        raise UsageError(f"Expected a .png for 16 bits. Received: {str(path)!r}. Change --output.")
    return path


def require_fits(path: str | os.PathLike[str], height: int, width: int, *, bits: int = 8) -> None:
    """That the format can hold such a picture; checked before any work.

    Args:
        path: Where it is to be; its suffix names the format, one of `SUFFIXES`, .gif or .webp.
        height: In pixels.
        width: In pixels.
        bits: Of each number of the file, 8 or 16.

    Raises:
        OutputError: The picture is too large for it.
    """
    suffix = Path(path).suffix.lower()
    longest = LONGEST_16_BITS if bits == 16 else LONGEST.get(suffix, 2**32 - 1)
    if max(height, width) > longest:
        limit = f"at most {longest} pixels a side"
    elif suffix in (".tif", ".tiff") and 3 * height * width > TIFF_BYTES:
        limit = f"at most {TIFF_BYTES // 3} pixels (4 GiB)"
    elif bits == 16 and 3 * height * width > MOST_NUMBERS_16_BITS:
        limit = f"at most {MOST_NUMBERS_16_BITS // 3} pixels in 16 bits"
    else:
        return
    raise OutputError(
        f"Expected {limit}, as a {suffix} can hold. Received: {height} x {width} for "
        f"{str(path)!r}. Lower --size or choose another format."
    )


def save(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    profile: bytes | None = None,
    bits: int = 8,
) -> None:
    """Write a picture, clipped to [0, 1], beside its place and then renamed.

    Args:
        path: .png, .jpg or .tif.
        pixels: Floats, [H, W, 3], about in [0, 1]: what an optimiser overshoots is cut off.
        profile: ICC profile to embed.
        bits: Of each number of the file: 8, or 16 for .png.

    Raises:
        UsageError: 16 bits for another format than PNG; integers, another shape, or values that
            are far outside [0, 1].
        OutputError: The format cannot hold that size, or it cannot be written.
    """
    path = require_writable_bits(path, bits)
    pixels = require_pixels(pixels)
    _require_unit_range(pixels)
    require_fits(path, *pixels.shape[:2], bits=bits)
    clipped = np.clip(pixels, 0, 1)
    if bits == 16:
        encoded = tf.io.encode_png(np.round(clipped * 65535).astype(np.uint16)).numpy()
        encoded = _with_profile(encoded, profile)
    else:
        buffer = io.BytesIO()
        picture = Image.fromarray(np.round(clipped * 255).astype(np.uint8))
        options: dict[str, Any] = {"icc_profile": profile} if profile else {}
        kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(path.suffix.lower(), "TIFF")
        if kind == "JPEG":
            options |= {"quality": 95, "subsampling": 0}
        picture.save(buffer, kind, **options)
        encoded = buffer.getvalue()
    write_bytes(path, encoded)


def require_pixels(pixels: np.ndarray, *, channels: int | None = 3) -> np.ndarray:
    """The array itself, where it is a picture.

    Args:
        pixels: Floats, [H, W, C].
        channels: What C must be; None for any.

    Raises:
        UsageError: Integers, another shape, or no pixels at all.
    """
    pixels = np.asarray(pixels)
    deep = pixels.ndim == 3 and pixels.size and channels in (None, pixels.shape[-1])
    if pixels.dtype.kind != "f" or not deep:
        raise UsageError(
            f"Expected pixels as floats in [0, 1], [H, W, {channels or 'C'}]. Received: "
            f"{pixels.dtype}, {list(pixels.shape)}. Divide integers by 255; add or drop channels."
        )
    return pixels


def _require_unit_range(pixels: np.ndarray) -> None:
    """That it is no picture in 0..255.  Single pixels may be anywhere: the work of hours must not
    be lost because an optimiser threw a few of them far out."""
    low, high = float(pixels.min()), float(pixels.max())
    far = (low < -3 or high > 4) and np.mean((pixels < -3) | (pixels > 4)) > 0.01
    if far or low != low:
        raise UsageError(
            f"Expected pixels in [0, 1]. Received: values from {low:g} to {high:g}. Divide 0..255 "
            "by 255; look for what is not a number."
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it: there is never half of it.

    Args:
        path: Its place.
        content: All its bytes.

    Raises:
        OutputError: It cannot be written; what was there stays.
    """
    beside = path.with_name(f".{path.name}.writing")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OutputError(
            f"Expected to write {path}. Received: {error.strerror or error}. Make room or choose "
            "another path."
        ) from error


def _with_profile(png: bytes, profile: bytes | None) -> bytes:
    """Insert an iCCP chunk behind the header (PNG specification, 11.3.2.3)."""
    if not profile:
        return png
    content = b"ICC profile\0\0" + zlib.compress(profile)
    chunk = b"iCCP" + content
    header = 8 + 25  # signature and IHDR
    framed = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:header] + framed + png[header:]


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by Pillow's Lanczos filter in float32; its overshoot is kept.

    Args:
        pixels: Floats, [H, W, C].
        height: Of the result, in pixels.
        width: Of the result, in pixels.

    Returns:
        float32, [height, width, C]; the array itself where it has this size.

    Raises:
        UsageError: Integers, another shape, or a size below 1.
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
    """Resize so that the long side has so many pixels.

    Args:
        pixels: Floats, [H, W, C], in [0, 1].
        long_side: Above 0, in pixels; rounded.

    Returns:
        float32, [H', W', C], clipped to [0, 1].
    """
    height, width = shape_for(require_pixels(pixels, channels=None).shape, long_side)
    return np.clip(resize(pixels, height, width), 0, 1)


def shape_for(shape: tuple[int, ...], long_side: float) -> tuple[int, int]:
    """Height and width of a picture with this aspect and such a long side.

    Args:
        shape: (H, W, ...) in pixels.
        long_side: Above 0, in pixels; rounded.

    Returns:
        Height and width in pixels, each at least 1.
    """
    factor = long_side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
