"""Writing pictures.

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

from style.images.resizing import require_pixels, require_unit_range
from vgg_normalize.errors import OutputError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Sides in pixels that a format can hold; libjpeg stops a little below the 65,535 of its headers.
MAX_SIDE = {".png": 2**31 - 1, ".jpg": 65_500, ".jpeg": 65_500, ".gif": 65_535, ".webp": 16_383}
# Of the encoder that writes PNGs of 16 bits: a side, and all numbers of a picture.
MAX_SIDE_16_BITS = 1_000_000
MAX_NUMBERS_16_BITS = 2**31 - 1
# A TIFF counts its bytes in 32 bits; some are left for the profile and the table of strips.
MAX_TIFF_BYTES = 2**32 - 2**24


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The path of a picture, checked before any work to be writable.

    Args:
        path: Path of the picture, with one of `SUFFIXES`.

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
    """`require_writable` for a given number of bits per channel.

    Args:
        path: Path of the picture, with one of `SUFFIXES`.
        bits: Bits per channel.

    Raises:
        UsageError: The bits are neither 8 nor 16, or 16 for another format than .png.
        OutputError: As `require_writable`.
    """
    path = require_writable(path)
    if bits not in (8, 16):
        raise UsageError(f"Expected `bits` of 8 or 16. Received: {bits}. Choose one.")
    if bits == 16 and path.suffix.lower() != ".png":
        raise UsageError(f"Expected a .png for 16 bits. Received: {str(path)!r}. Change `output`.")
    return path


def require_fits(path: str | os.PathLike[str], height: int, width: int, *, bits: int = 8) -> None:
    """Check that the format can hold such a picture, before any work.

    Args:
        path: Path of the picture; its suffix, one of `SUFFIXES`, .gif or .webp, names the format.
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        bits: Bits per channel, 8 or 16.

    Raises:
        OutputError: The picture is too large for it.
    """
    suffix = Path(path).suffix.lower()
    max_side = MAX_SIDE_16_BITS if bits == 16 else MAX_SIDE.get(suffix, 2**32 - 1)
    if max(height, width) > max_side:
        limit = f"at most {max_side} pixels a side"
    elif suffix in (".tif", ".tiff") and 3 * height * width > MAX_TIFF_BYTES:
        limit = f"at most {MAX_TIFF_BYTES // 3} pixels (4 GiB)"
    elif bits == 16 and 3 * height * width > MAX_NUMBERS_16_BITS:
        limit = f"at most {MAX_NUMBERS_16_BITS // 3} pixels in 16 bits"
    else:
        return
    raise OutputError(
        f"Expected {limit}, as a {suffix} can hold. Received: {height} x {width} for "
        f"{str(path)!r}. Lower `size` or choose another format."
    )


def save(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    profile: bytes | None = None,
    bits: int = 8,
) -> None:
    """Write a picture, clipped to [0, 1], by a temporary file that is renamed.

    Args:
        path: Path of a .png, .jpg or .tif.
        pixels: Floats, [H, W, 3], about in [0, 1]: what an optimiser overshoots is cut off.
        profile: ICC profile to embed.
        bits: Bits per channel: 8, or 16 for .png.

    Raises:
        UsageError: 16 bits for another format than PNG; integers, another shape, or values that
            are far outside [0, 1].
        OutputError: The format cannot hold that size, or it cannot be written.
    """
    path = require_writable_bits(path, bits)
    pixels = require_pixels(pixels)
    require_unit_range(pixels)
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


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by a temporary one that is renamed, so that there is never half of it.

    Args:
        path: Path of the file.
        content: All bytes of the file.

    Raises:
        OutputError: It cannot be written; an earlier file stays.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
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
