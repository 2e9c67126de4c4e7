"""From an encoded picture to an image: decoding and resizing, in the graph.

EXIF orientation is ignored and alpha is dropped, as in every ImageNet pipeline; a GIF gives its
first frame; 16 bits give their top 8.
"""

from __future__ import annotations

import io
import re
import warnings

import simplejpeg
import tensorflow as tf
from PIL import Image

from vgg_normalize.errors import UsageError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "MPO")  # MPO: a JPEG with more behind it
# What TensorFlow misreads or refuses (asked for 4 channels, it crashes on an animated WebP).
UNSUPPORTED = {("BMP", "1"): "a palette", ("BMP", "P"): "a palette", ("WEBP", "RGBA"): "alpha"}
# Pillow's own limit against decompression bombs.
MAX_PIXELS = 89_478_485
CROP_RATIO = 256 / 224
# Bytes that some cameras write before the end of a picture.
PADDING_BYTES = 8


def decode(encoded: tf.Tensor) -> tf.Tensor:
    """An encoded JPEG, PNG, GIF, BMP or WebP (string []) as uint8 RGB, [H, W, 3].

    JPEGs are decoded with the accurate DCT, bit for bit as Pillow does.

    Raises:
        tf.errors.InvalidArgumentError: Not such a picture, or cut short.
    """
    pixels = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.image.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(pixels, [None, None, 3])


def resize(pixels: tf.Tensor, mode: str, size: int) -> tf.Tensor:
    """Pixels (uint8, [H, W, 3]) as an image in [0, 1], resized with antialiasing (bilinear).

    Args:
        pixels: The decoded picture, uint8, [H, W, 3], in 0..255.
        mode: "squash" to size x size; "crop": short side to size x 256/224, then the centre;
            "none": as it is.
        size: Side of the image in pixels.

    Returns:
        float32 [size, size, 3], or [H, W, 3] for "none".
    """
    if mode not in ("squash", "crop", "none"):
        raise UsageError(f"Expected resize squash, crop or none. Received: {mode!r}. Choose one.")
    image = tf.cast(pixels, tf.float32)
    if mode == "squash":
        image = tf.image.resize(image, (size, size), antialias=True)
        image = tf.ensure_shape(image, [size, size, 3])
    elif mode == "crop":
        image = _resize_and_crop(image, size)
    return image / 255.0


def _resize_and_crop(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize and crop in one operation: a 1 x 400 panorama never becomes 256 x 102400."""
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    target = tf.round(shape * (size * CROP_RATIO / tf.reduce_min(shape)))
    corner = tf.floor((target - size) / 2)
    cropped = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[size, size],
        scale=target / shape,
        translation=-corner,
        kernel_type="triangle",
        antialias=True,
    )
    return tf.ensure_shape(cropped[0], [size, size, 3])


def find_defect(encoded: bytes, min_side: int = 1) -> str:
    """Why a picture cannot be used, or "" for a good one.

    Looks at what TensorFlow would pass over: it has no limit on size, takes the palette indices
    of a BMP for grey, and decodes a JPEG with garbage in its stream to grey blocks without a word.

    Args:
        encoded: The bytes of a picture file.
        min_side: The least width and height in pixels that the network takes.
    """
    if not encoded:
        return "empty file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as picture:
                kind, mode, (width, height) = picture.format, picture.mode, picture.size
    except Image.DecompressionBombError:
        return f"more than {MAX_PIXELS} pixels, the most that are read"
    except Image.UnidentifiedImageError:
        return "damaged JPEG header" if encoded[:3] == b"\xff\xd8\xff" else "not an image"
    except Exception as error:  # Pillow's readers raise many kinds for damaged headers
        return f"damaged header ({' '.join(str(error).split())})"
    if kind not in FORMATS:
        return f"unsupported format {kind}; expected {', '.join(FORMATS[:5])}"
    if (kind, mode) in UNSUPPORTED:
        return f"unsupported format {kind} with {UNSUPPORTED[kind, mode]}"
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels; at most {MAX_PIXELS} are read"
    if min(width, height) < min_side:
        return f"{width} x {height} pixels; this network needs {min_side} x {min_side}"
    return find_jpeg_defect(encoded) if kind in ("JPEG", "MPO") else ""


def find_jpeg_defect(encoded: bytes) -> str:
    """What libjpeg says of a JPEG's stream, where that means lost pixels; "" for a good one.

    Its other complaints (a padding byte before the end, unusual scan parameters) are common in
    real photographs and harmless.  What stops a decoder altogether is left to the decoder.
    """
    try:
        # At an eighth of the size the whole stream is read and hardly any pixel computed.
        simplejpeg.decode_jpeg(encoded, "GRAY", min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        extraneous = re.search(r"(\d+) extraneous bytes", str(error))
        if extraneous and int(extraneous[1]) > PADDING_BYTES:
            return f"damaged JPEG ({error})"
        if re.search(r"premature|huffman|unsupported marker|restart", str(error), re.IGNORECASE):
            return f"damaged JPEG ({error})"
    return ""
