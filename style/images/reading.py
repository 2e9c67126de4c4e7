"""Reading pictures of all kinds to the last bit that they hold, and none that is damaged.

In memory a picture is float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image, UnidentifiedImageError

from vgg_normalize.data import decode
from vgg_normalize.errors import ImagesError

# What is taken from a folder.
READ_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
# No picture that is small enough to be read has a larger file.
MAX_BYTES = 2**32
# The first bytes of what is a picture even where its header cannot be read.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Where the white of integers in grey is the largest number of so many bits.
SCALED_TO_BITS = ("TIFF", "PPM", "JPEG2000")
# Tags of a TIFF.
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _PLANAR = 258, 259, 262, 274, 284
_SAMPLE_FORMAT, _JPEG_TABLES = 339, 347


class Picture(NamedTuple):
    """A picture as it was read.

    Attributes:
        pixels: float32, [H, W, 3], in [0, 1].
        profile: Its ICC profile, or None.
    """

    pixels: np.ndarray
    profile: bytes | None


class _Samples(NamedTuple):
    """A picture as it is stored.

    Attributes:
        values: float32, [H, W, C], in [0, 1]: grey (C = 1, 2) or RGB (3, 4), then alpha (2, 4).
        orientation: How it is to be turned, as EXIF numbers it: 1 to 8.
        premultiplied: Whether the colours were multiplied by alpha.
    """

    values: np.ndarray
    orientation: int
    premultiplied: bool = False


def load(path: str | os.PathLike[str]) -> Picture:
    """Read a picture: upright (EXIF), grey made RGB, alpha laid on white, of several the first.

    16 bits are kept in grey, RGB and alpha of PNGs and TIFFs, floats within [0, 1] in grey TIFFs.
    All else (CMYK and palettes too) is read in 8 bits.  Its ICC profile is kept where it is one of
    RGB.

    Args:
        path: Path of a file in any format that Pillow reads.  A damaged JPEG is recognised as in `vgg_normalize.data.decode`.

    Raises:
        ImagesError: It is missing, no regular file, no picture, damaged, too large, or of numbers
            whose white is not known.
    """
    encoded = _read(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decoded(path, encoded)
    except ImagesError:
        raise
    except UnidentifiedImageError as error:
        if encoded.startswith(TIFF_SIGNATURES):
            why = "a TIFF that is damaged or of a kind that is not read"
            raise _refusal(path, why, remedy="Save it as a PNG of 16 bits.") from error
        if encoded.startswith(SIGNATURES):
            raise _damaged(path, "whose header is damaged") from error
        raise _refusal(path, "which is not an image") from error
    except Image.DecompressionBombError as error:
        most = f"a picture of at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels"
        why = str(error).rstrip(".")
        raise _refusal(path, why, expected=most, remedy="Reduce it first.") from error
    except Exception as error:  # the readers raise many kinds for damaged files
        said = " ".join(str(error).split()) or type(error).__name__
        raise _damaged(path, f"which cannot be read ({said})") from error


def _refusal(
    path: str | os.PathLike[str],
    why: str,
    *,
    expected: str = "a picture",
    remedy: str = "Check the path.",
) -> ImagesError:
    return ImagesError(f"Expected {expected}. Received: {str(path)!r}, {why}. {remedy}")


def _damaged(path: str | os.PathLike[str], why: str) -> ImagesError:
    return _refusal(path, why, expected="a whole picture", remedy="Fetch it again.")


def _read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file; a FIFO would be waited for, and a device may have no end."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        why = f"which cannot be read ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, FileNotFoundError):
            why = "which is no file"
            if os.path.islink(path):
                why = f"a link to {os.readlink(path)!r}, which is no file"
        raise _refusal(path, why) from error
    if stat.S_ISDIR(status.st_mode):
        raise _refusal(path, "which is no file but a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "which is no regular file but a pipe, a socket or a device")
    raise _refusal(path, f"of {status.st_size} bytes", expected=f"at most {MAX_BYTES} bytes")


def _decoded(path: str | os.PathLike[str], encoded: bytes) -> Picture:
    with Image.open(io.BytesIO(encoded)) as file:
        for stream in _jpeg_streams(file, encoded):
            damage = decode.find_jpeg_defect(stream)
            if damage:
                raise _damaged(path, damage)
        if file.format == "PNG":
            file.verify()  # without it Pillow does not look at the check sums of the pixels
    with Image.open(io.BytesIO(encoded)) as file:
        if file.format == "PNG" and encoded[24] == 16:
            samples = _deep_png(file, encoded)
        elif file.format == "TIFF" and _is_deep(file):
            samples = _deep_tiff(path, file, encoded)
        elif file.mode[0] in "IF":
            samples = _deep_grey(path, file)
        else:
            samples = _shallow(path, file)
        colour = file.mode in ("RGB", "RGBA", "P")  # a profile fits its colour model only
        profile = file.info.get("icc_profile") if colour else None
        pixels = _upright(_on_white(samples), samples.orientation)
    return Picture(np.ascontiguousarray(pixels, np.float32), profile)


def _jpeg_streams(file: Image.Image, encoded: bytes) -> Iterator[bytes]:
    """All JPEGs in a file: it is one itself, or a TIFF made of them."""
    if file.format in ("JPEG", "MPO"):
        yield encoded
    elif file.format == "TIFF" and _tag(file, _COMPRESSION, 1) == 7:
        tags: Any = file.tag_v2  # type: ignore[attr-defined]
        shared = bytes(tags.get(_JPEG_TABLES, b""))
        places, lengths = (273, 279) if 273 in tags else (324, 325)  # of strips or tiles
        for start, length in zip(tags[places], tags[lengths], strict=True):
            stream = encoded[start : start + length]
            yield shared[:-2] + stream[2:] if shared else stream  # without an end and a start


def _shallow(path: str | os.PathLike[str], file: Image.Image) -> _Samples:
    """8 bits, or fewer."""
    if file.mode == "LAB":
        raise _refusal(path, "with colours in Lab", remedy="Save it in RGB.")
    if _tag(file, _SAMPLE_FORMAT, 1) == 2:
        raise _unscaled(path, "signed integers")
    file.load()
    mode = "RGBA" if file.has_transparency_data else "RGB"
    return _Samples(_scaled(np.asarray(file.convert(mode)), 255), _orientation(file))


def _scaled(levels: np.ndarray, white: float) -> np.ndarray:
    """Levels in float32, in [0, 1]; divided in place, since a picture may take gigabytes."""
    values = levels.astype(np.float32)
    values /= white
    return values


def _orientation(file: Image.Image) -> int:
    """Of a picture that was loaded: Pillow turns a TIFF while it loads it, and then says 1."""
    orientation = file.getexif().get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _deep_png(file: Image.Image, encoded: bytes) -> _Samples:
    """16 bits, by TensorFlow: Pillow keeps them in grey only."""
    channels = 4 if file.has_transparency_data else 3
    levels = tf.io.decode_png(encoded, channels=channels, dtype=tf.uint16).numpy()
    return _Samples(_scaled(levels, 65535), _orientation(file))


def _tag(file: Image.Image, number: int, default: int) -> int:
    """A TIFF's tag, the first of its numbers."""
    value = getattr(file, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _is_deep(file: Image.Image) -> bool:
    return file.mode in ("RGB", "RGBA") and _tag(file, _BITS, 8) == 16


def _deep_tiff(path: str | os.PathLike[str], file: Image.Image, encoded: bytes) -> _Samples:
    """RGB(A) of 16 bits.  Pillow takes the upper byte of each number and leaves the lower one; told
    that the bytes lie the other way round it takes the lower one."""
    tiles: list[Any] = file.tile  # type: ignore[attr-defined]
    packed = tiles[0].codec_name != "raw"
    if packed and _tag(file, _PLANAR, 1) == 2:
        why = "a compressed TIFF of 16 bits with its colours apart"
        raise _refusal(path, why, remedy="Save it as a PNG of 16 bits.")
    big = sys.byteorder == "big" if packed else encoded[:2] == b"MM"
    premultiplied = tiles[0].args[0].startswith("RGBa")
    halves, orientation = [], 1
    for order in "BL" if big else "LB":
        with Image.open(io.BytesIO(encoded)) as half:
            half.tile = [  # type: ignore[attr-defined]
                tile._replace(args=(_stored_as(tile.args[0], order), *tile.args[1:]))
                for tile in tiles
            ]
            half.load()
            halves.append(np.asarray(half, np.uint16))
            orientation = _orientation(half)
    upper, lower = halves
    return _Samples(_scaled(256 * upper + lower, 65535), orientation, premultiplied)


def _stored_as(raw_mode: str, order: str) -> str:
    """Of "RGB;16N", "RGBa;16L" or "R": the same with its bytes in this order, alpha left alone."""
    return f"{raw_mode.split(';')[0].replace('a', 'A')};16{order}"


def _deep_grey(path: str | os.PathLike[str], file: Image.Image) -> _Samples:
    """Grey of 12 or 16 bits, or of floats."""
    file.load()
    values = np.asarray(file, np.float32)[..., None]
    bits = _tag(file, _BITS, 16)
    if file.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            why, most = f"floats from {low:g} to {high:g}", "a picture within [0, 1]"
            raise _refusal(path, why, expected=most, remedy="Scale it first.")
    elif bits > 16 or _tag(file, _SAMPLE_FORMAT, 1) != 1 or file.format not in SCALED_TO_BITS:
        kind = f"integers of {bits} bits" if file.format == "TIFF" else f"{file.format} integers"
        raise _unscaled(path, kind)
    else:
        values = np.clip(values / (2**bits - 1), 0, 1)
    if file.format == "TIFF" and _tag(file, _PHOTOMETRIC, 1) == 0:  # white is 0
        values = 1 - values
    return _Samples(values, _orientation(file))


def _unscaled(path: str | os.PathLike[str], what: str) -> ImagesError:
    why = f"{what}, whose white is not known"
    return _refusal(path, why, remedy="Save it as a PNG of 16 bits.")


def _on_white(samples: _Samples) -> np.ndarray:
    """[H, W, 3], alpha laid on white, in place."""
    values = samples.values
    if values.shape[2] in (2, 4):
        values, alpha = values[..., :-1], values[..., -1:]
        if not samples.premultiplied:
            values *= alpha
        values += 1 - alpha
        np.minimum(values, 1, out=values)
    return values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turned and mirrored as EXIF says: 1 to 8, else as it is."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
