"""Pictures: loading, saving, resizing, colours.  The only module that knows Pillow.

In memory a picture is float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from vgg_normalize.errors import ImagesError, OutputError, UsageError

# What is taken from a folder.
READ_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Luma of Rec. 601, as in Gatys et al. (2017).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Picture(NamedTuple):
    """A picture as it was read.

    Attributes:
        pixels: float32, [H, W, 3], in [0, 1].
        profile: Its ICC profile, or None.
    """

    pixels: np.ndarray
    profile: bytes | None


def load(path: str | os.PathLike[str]) -> Picture:
    """Read a picture: upright (EXIF), grey made RGB, alpha laid on white, 16 bits kept.

    Raises:
        ImagesError: It is missing, no picture, damaged or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as file:
                file.load()
                picture = ImageOps.exif_transpose(file)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ImagesError(
            f"Expected a picture. Received: {str(path)!r}, which is no file. Check the path."
        ) from error
    except UnidentifiedImageError as error:
        raise ImagesError(
            f"Expected a picture. Received: {str(path)!r}, which is not an image. Check the path."
        ) from error
    except Image.DecompressionBombError as error:
        raise ImagesError(
            f"Expected a picture of at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels. Received: "
            f"{str(path)!r}, {error}. Reduce it first."
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise ImagesError(
            f"Expected a whole picture. Received: {str(path)!r}, which cannot be read "
            f"({' '.join(str(error).split())}). Fetch it again."
        ) from error
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion cuts off
        grey = np.clip(np.asarray(picture, np.float32) / 65535, 0, 1)
        return Picture(np.repeat(grey[..., None], 3, axis=2), None)
    if picture.mode not in ("RGB", "RGBA", "P"):
        profile = None  # it fits its colour model only
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return Picture(np.asarray(picture.convert("RGB"), np.float32) / 255, profile)


def require_writable(path: str | os.PathLike[str]) -> Path:
    """The path of a picture that can be written; checked before any work.

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


def save(
    path: str | os.PathLike[str],
    pixels: np.ndarray,
    *,
    profile: bytes | None = None,
    bits: int = 8,
) -> None:
    """Write a picture, clipped to [0, 1], beside and renamed.

    Args:
        path: .png, .jpg or .tif.
        pixels: [H, W, 3].
        profile: ICC profile to embed.
        bits: 8, or 16 for .png.

    Raises:
        UsageError: 16 bits for another format than PNG.
        OutputError: It cannot be written.
    """
    path = require_writable_bits(path, bits)
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
    """Write beside and rename."""
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


def animation(path: str | os.PathLike[str], frames: list[np.ndarray]) -> None:
    """Write frames [H, W, 3] as an endless GIF, the last one held; all in the first's size."""
    pictures = [Image.fromarray(np.round(np.clip(f, 0, 1) * 255).astype(np.uint8)) for f in frames]
    size = pictures[-1].size
    pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    buffer = io.BytesIO()
    durations = [120] * (len(pictures) - 1) + [1500]
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
    write_bytes(Path(path), buffer.getvalue())


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [H, W, C] by Pillow's Lanczos filter in float32; its overshoot is kept."""
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
    """Resize so that the long side has so many pixels; clipped to [0, 1]."""
    height, width = shape_for(pixels.shape, long_side)
    return np.clip(resize(pixels, height, width), 0, 1)


def shape_for(shape: tuple[int, ...], long_side: float) -> tuple[int, int]:
    """Height and width of a picture of this aspect with such a long side."""
    factor = long_side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def with_luminance(result: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The result's luminance with the content's colours.

    Reference: Gatys et al., "Controlling Perceptual Factors in Neural Style Transfer", CVPR 2017,
    section 5.2 (its YIQ space and this differ in no way but the name of the colour axes).
    """
    luminance = np.clip(result, 0, 1) @ LUMA
    return content + (luminance - content @ LUMA)[..., None]


def match_luminance(style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """The style in grey, its mean and deviation of luminance made the content's.

    Reference: Gatys et al., CVPR 2017, equation 10.
    """
    y_style, y_content = style @ LUMA, content @ LUMA
    scale = y_content.std() / max(float(y_style.std()), 1e-5)
    grey = scale * (y_style - y_style.mean()) + y_content.mean()
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)


def match_colors(style: np.ndarray, content: np.ndarray, *, root: str = "symmetric") -> np.ndarray:
    """The style with the mean and covariance of the content's colours: x' = A x + b.

    Args:
        style: [H, W, 3].
        content: [H, W, 3].
        root: "cholesky": A = L_c L_s^-1; "symmetric": the A that moves colours least.

    Reference: Gatys et al., CVPR 2017, section 5.1; the 1e-5 I keeps a grey picture solvable.
    """
    source, goal = style.reshape(-1, 3).astype(float), content.reshape(-1, 3).astype(float)
    sigma_s = np.cov(source.T, bias=True) + 1e-5 * np.eye(3)
    sigma_c = np.cov(goal.T, bias=True) + 1e-5 * np.eye(3)
    if root == "cholesky":
        transform = np.linalg.cholesky(sigma_c) @ np.linalg.inv(np.linalg.cholesky(sigma_s))
    else:
        q = _matrix_root(sigma_s)
        inverse = np.linalg.inv(q)
        transform = inverse @ _matrix_root(q @ sigma_c @ q) @ inverse
    matched = (source - source.mean(0)) @ transform.T + goal.mean(0)
    return matched.reshape(style.shape).astype(np.float32)


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
