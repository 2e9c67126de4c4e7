"""Decoding and resizing, against Pillow, NumPy and TensorFlow's own resize."""

from __future__ import annotations

import io
import re
import resource
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from helpers import DATA, encode, picture
from PIL import Image

from vgg_normalize.data import decode
from vgg_normalize.errors import UsageError

PIXELS = picture()
JPEG = encode(PIXELS, quality=90)
PHOTOGRAPH = encode(picture(400, 500), quality=90)
RGBA = Image.fromarray(np.dstack([PIXELS, PIXELS[..., 1]]), "RGBA")


def decoded(encoded):
    return decode.decode(tf.constant(encoded)).numpy()


def by_pillow(encoded, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))


def is_refused(encoded):
    """Whether a picture is left out: a fault is known, or TensorFlow refuses it."""
    if decode.find_defect(encoded):
        return True
    try:
        decoded(encoded)
    except tf.errors.InvalidArgumentError:
        return True
    return False


def start_of_frame(height, width):
    """A whole JPEG of 8 x 8 pixels whose header claims other sizes."""
    small = bytearray(encode(np.zeros((8, 8, 3), np.uint8)))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(small)


def png_header(height, width):
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95}, {"progressive": True}])
@pytest.mark.parametrize("size", [(61, 97), (8, 8), (17, 1)])
def test_a_jpeg_is_decoded_bit_for_bit_as_pillow_does(subsampling, options, size):
    encoded = encode(picture(*size), subsampling=subsampling, **options)
    assert not decode.find_defect(encoded)
    assert np.array_equal(decoded(encoded), by_pillow(encoded))


@pytest.mark.skipif(not DATA.exists(), reason="needs the photographs beside the repository")
def test_real_photographs_are_decoded_bit_for_bit_as_pillow_does():
    for path in sorted((DATA / "imagenet").iterdir())[::10]:
        encoded = path.read_bytes()
        assert not decode.find_defect(encoded), path.name
        assert np.array_equal(decoded(encoded), by_pillow(encoded)), path.name


GREY = Image.fromarray(PIXELS[..., 0])
FRAMES = [Image.fromarray(picture(20, 31, seed)) for seed in range(3)]
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}
EXACT = {
    "8 PNG": encode(PIXELS, "PNG"),
    "10 grey JPEG": encode(GREY),
    "10 grey PNG": encode(GREY, "PNG"),
    "10 one bit PNG": encode(GREY.convert("1"), "PNG"),
    "10 palette PNG": encode(Image.fromarray(PIXELS).quantize(17), "PNG"),
    "13 animated GIF": encode(FRAMES[0], "GIF", **ANIMATED),
    "13 animated PNG": encode(FRAMES[0], "PNG", **ANIMATED),
    "14 WebP": encode(PIXELS, "WEBP", quality=80),
    "14 lossless WebP": encode(PIXELS, "WEBP", lossless=True),
    "16 empty DHT": JPEG[:2] + b"\xff\xc4\x00\x02" + JPEG[2:],
    "GIF": encode(Image.fromarray(PIXELS).quantize(100), "GIF"),
    "BMP": encode(PIXELS, "BMP"),
    "grey BMP": encode(GREY, "BMP"),
}


@pytest.mark.parametrize("encoded", EXACT.values(), ids=EXACT)
def test_every_format_gives_what_pillow_gives(encoded):
    assert not decode.find_defect(encoded)
    assert np.array_equal(decoded(encoded), by_pillow(encoded))


ALPHA = {
    "11 PNG": encode(RGBA, "PNG"),
    "10 grey PNG": encode(RGBA.convert("LA"), "PNG"),
    "BMP": encode(RGBA, "BMP"),
}


@pytest.mark.parametrize("encoded", ALPHA.values(), ids=ALPHA)
def test_case_11_alpha_is_dropped_not_composited(encoded):
    assert not decode.find_defect(encoded)
    assert np.array_equal(decoded(encoded), by_pillow(encoded, "RGBA")[..., :3])


def test_case_6_what_follows_the_end_of_a_jpeg_does_not_matter():
    junk = JPEG + b"and a trailer \xff\xd8" * 50
    assert not decode.find_defect(junk)
    assert np.array_equal(decoded(junk), decoded(JPEG))


def test_case_9_a_cmyk_jpeg_is_within_two_levels_of_pillow():
    encoded = encode(Image.fromarray(np.dstack([PIXELS, PIXELS[..., 0] // 2]), "CMYK"))
    assert not decode.find_defect(encoded)
    difference = decoded(encoded).astype(int) - by_pillow(encoded)
    assert np.abs(difference).max() <= 2


def test_case_12_sixteen_bits_give_their_top_eight():
    grey = np.random.default_rng(0).integers(0, 65536, (9, 7), np.uint16)
    found = decoded(encode(grey, "PNG"))
    assert np.array_equal(found, np.repeat((grey >> 8)[..., None], 3, axis=2))


def test_case_17_the_orientation_of_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(PIXELS, quality=90, exif=exif)
    assert np.array_equal(decoded(turned), decoded(JPEG))


GARBAGE = np.random.default_rng(1).integers(0, 256, 600, np.uint8).tobytes()
MIDDLE = len(PHOTOGRAPH) // 2
UNUSABLE = {
    "1 zero bytes": (b"", "^empty file$"),
    "2 half": (PHOTOGRAPH[:MIDDLE], "damaged JPEG"),
    "3 no end": (JPEG[:-2], "damaged JPEG"),
    "3 cut by one byte": (JPEG[:-1], "damaged JPEG"),
    "4 header": (JPEG[:100], "damaged header"),
    "4 less than a header": (JPEG[:20], "damaged JPEG header"),
    "5 garbage": (PHOTOGRAPH[:MIDDLE] + GARBAGE + PHOTOGRAPH[MIDDLE + 600 :], "damaged JPEG"),
    "5 hole": (PHOTOGRAPH[:MIDDLE] + PHOTOGRAPH[MIDDLE + 2000 :], "damaged JPEG"),
    "7 html": (b"<!DOCTYPE html><html>404 not found</html>", "^not an image$"),
    "7 text": ("größer\n".encode(), "^not an image$"),
    "15 TIFF": (encode(PIXELS, "TIFF"), "^unsupported format TIFF"),
    "15 AVIF": (encode(PIXELS, "AVIF"), "^unsupported format AVIF"),
    "20 bomb": (png_header(100_000, 100_000), "pixels"),
    "21 claim": (start_of_frame(13_000, 13_000), "13000 x 13000 pixels; at most"),
    "palette BMP": (encode(Image.fromarray(PIXELS).quantize(17), "BMP"), "unsupported format BMP"),
    "WebP with alpha": (encode(RGBA, "WEBP"), "^unsupported format WEBP with alpha$"),
    "1 bit BMP": (encode(GREY.convert("1"), "BMP"), "unsupported format BMP"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_picture_is_refused_with_its_reason(name):
    encoded, reason = UNUSABLE[name]
    found = decode.find_defect(encoded)
    assert re.search(reason, found), found
    assert "\n" not in found


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_picture_cut_anywhere_is_never_half_decoded(kind, share):
    whole = encode(PIXELS, kind)
    assert not is_refused(whole)
    assert is_refused(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("alpha", [False, True])
def test_an_animated_webp_is_refused(alpha):
    # TensorFlow 2.21 writes past its buffer where it is asked for all channels of one.
    first = RGBA if alpha else FRAMES[0].resize(RGBA.size)
    others = [first.rotate(90), first.rotate(180)]
    assert is_refused(encode(first, "WEBP", save_all=True, append_images=others, lossless=True))


def test_garbage_in_a_jpeg_that_is_decoded_left_no_trace_but_padding():
    import simplejpeg

    random = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(PHOTOGRAPH)
        at = random.integers(1000, len(damaged) - 600)
        damaged[at : at + 400] = random.integers(0, 256, 400, np.uint8).tobytes()
        if not is_refused(bytes(damaged)):
            try:
                simplejpeg.decode_jpeg(bytes(damaged))
            except ValueError as error:
                assert re.search(r": \d extraneous bytes", str(error))


def test_a_stream_of_zeros_is_told_in_every_kind_of_jpeg():
    pixels = Image.fromarray(picture(300, 400))
    for mode in ("RGB", "L", "CMYK"):
        whole = encode(pixels.convert(mode), quality=90)
        assert decode.find_jpeg_defect(whole) == ""
        for share in (0.3, 0.5, 0.8):
            at = int(share * len(whole))
            damaged = whole[:at] + b"\0" * 300 + whole[at + 300 :]
            assert "damaged JPEG" in decode.find_jpeg_defect(damaged)
            assert decode.find_defect(damaged) == decode.find_jpeg_defect(damaged)


SAMPLES = [
    JPEG,
    encode(PIXELS, progressive=True),
    encode(GREY),
    encode(Image.fromarray(PIXELS).convert("CMYK")),
    encode(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    encode(RGBA, "PNG"),
    encode(PIXELS, "TIFF"),
    *EXACT.values(),
]


@pytest.mark.timeout(120)
def test_whatever_the_damage_there_is_a_reason_an_image_or_a_refusal():
    for seed in range(200):
        damaged = bytearray(SAMPLES[seed % len(SAMPLES)])
        random = np.random.default_rng(seed)
        # Headers matter most.
        last = min(100, len(damaged)) if random.random() < 0.5 else len(damaged)
        for at in random.integers(0, last, random.integers(1, 5)):
            damaged[at] = random.integers(0, 256)
        if random.random() < 0.3:
            del damaged[random.integers(1, len(damaged)) :]
        reason = decode.find_defect(bytes(damaged))
        assert "\n" not in reason, seed
        if not reason:
            try:
                found = decoded(bytes(damaged))
            except tf.errors.InvalidArgumentError:
                continue
            assert found.dtype == np.uint8 and found.shape[2] == 3, seed


def test_case_20_and_21_bombs_take_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for side in (10_000, 13_000, 20_000, 65_000):
        assert decode.find_defect(start_of_frame(side, side))
        assert decode.find_defect(png_header(side, side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_the_limit_on_pixels_is_exact():
    side = int(decode.MAX_PIXELS**0.5)
    assert "at most" not in decode.find_defect(png_header(side, side))
    assert "at most" in decode.find_defect(png_header(side + 1, side + 1))


def test_case_18_a_picture_smaller_than_the_network_needs_is_refused_with_both_sizes():
    encoded = encode(picture(15, 40), "PNG")
    assert not decode.find_defect(encoded, 15)
    assert decode.find_defect(encoded, 16) == "40 x 15 pixels; this network needs 16 x 16"


SIZES = [(300, 200), (200, 300), (61, 97), (256, 256), (1, 1), (31, 500), (1000, 7)]


def as_float(size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_crop_equals_to_resize_and_then_to_crop(size):
    pixels, side = as_float(size), 56
    short = side * 256 / 224
    height, width = (round(length * short / min(size)) for length in size)
    whole = tf.image.resize(tf.cast(pixels, tf.float32), (height, width), antialias=True)
    top, left = (height - side) // 2, (width - side) // 2
    expected = whole[top : top + side, left : left + side] / 255
    found = decode.resize(tf.constant(pixels), "crop", side)
    assert found.shape == (side, side, 3)
    # Coordinates of thousands of pixels in float32: a fortieth of a grey level.
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_squash_equals_tensorflow_and_pillow(size):
    pixels, side = as_float(size), 48
    found = decode.resize(tf.constant(pixels), "squash", side).numpy()
    expected = tf.image.resize(tf.cast(pixels, tf.float32), (side, side), antialias=True) / 255
    assert np.array_equal(found, expected)
    for channel in range(3):
        image = Image.fromarray(pixels[..., channel].astype(np.float32))
        oracle = image.resize((side, side), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found[..., channel] * 255, oracle, atol=2e-2)


def test_none_keeps_every_pixel():
    found = decode.resize(tf.constant(PIXELS), "none", 224).numpy()
    assert np.array_equal(found, PIXELS.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("mode", ["squash", "crop", "none"])
def test_resizing_keeps_a_constant_and_the_range(mode):
    white = decode.resize(tf.fill([37, 90, 3], tf.constant(255, tf.uint8)), mode, 32).numpy()
    np.testing.assert_allclose(white, 1, atol=1e-6)
    noise = decode.resize(tf.constant(as_float((37, 90))), mode, 32).numpy()
    assert noise.min() >= 0 and noise.max() <= 1 + 1e-6


def test_case_19_a_panorama_is_never_upscaled_whole():
    pixels = tf.constant(as_float((1, 400)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode.resize(pixels, "crop", 224).shape == (224, 224, 3)
    # 256 x 102400 x 3 floats would be 315 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_an_unknown_way_to_resize_is_named():
    with pytest.raises(UsageError, match="Received: 'stretch'"):
        decode.resize(tf.constant(PIXELS), "stretch", 32)
