"""Pictures: what is read, what is written, and colours."""

from __future__ import annotations

import errno
import io
import os
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode, picture
from PIL import Image, ImageCms

from style.images import colors, reading, resizing, writing
from style.images.animation import LONG_SIDE, Animation
from vgg_normalize.data import decode
from vgg_normalize.errors import ImagesError, OutputError, UsageError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMALL = picture(7, 5)


def written(folder: Path, content: bytes, name: str = "picture.png") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path) -> str:
    with pytest.raises(ImagesError) as caught:
        reading.load(path)
    text = str(caught.value)
    assert text.startswith("Expected ") and "Received: " in text and "\n" not in text
    assert str(path) in text
    return text


# Loading.


def test_a_picture_is_rgb_float_in_the_unit_range(tmp_path):
    pixels = reading.load(written(tmp_path, encode(SMALL, "PNG"))).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, SMALL.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_the_orientation_in_exif_is_respected(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = reading.load(written(tmp_path, encode(SMALL, "PNG", exif=exif))).pixels
    np.testing.assert_array_equal(np.round(pixels * 255), upright(SMALL))


def test_alpha_is_laid_on_white(tmp_path):
    half = np.zeros((1, 3, 4), np.uint8)
    half[0, :, 3] = [0, 51, 255]  # black, ever more opaque
    pixels = reading.load(written(tmp_path, encode(half, "PNG"))).pixels
    np.testing.assert_allclose(pixels[0], [[1] * 3, [0.8] * 3, [0] * 3], atol=1 / 255)


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    content = encode(palette, "PNG", transparency=0)
    pixels = reading.load(written(tmp_path, content)).pixels
    np.testing.assert_array_equal(pixels[0], [[1, 1, 1], [0, 0, 1]])


def test_grey_and_alpha_is_grey_on_white(tmp_path):
    both = Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA")
    pixels = reading.load(written(tmp_path, encode(both, "PNG"))).pixels
    np.testing.assert_allclose(pixels[0], [[100 / 255] * 3, [1] * 3], atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_bilevel_and_palette_pictures_become_rgb(tmp_path, mode):
    converted = Image.fromarray(SMALL).convert(mode)
    pixels = reading.load(written(tmp_path, encode(converted, "PNG"))).pixels
    np.testing.assert_array_equal(np.round(pixels * 255), converted.convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_16_bits(tmp_path, kind):
    levels = np.array([[0, 1, 300], [40000, 65534, 65535]], np.uint16)
    pixels = reading.load(written(tmp_path, encode(Image.fromarray(levels), kind))).pixels
    assert pixels.shape == (2, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(np.round(pixels[..., channel] * 65535), levels)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    ink = Image.fromarray(SMALL).convert("CMYK")
    read = reading.load(written(tmp_path, encode(ink, "TIFF", icc_profile=PROFILE)))
    np.testing.assert_allclose(read.pixels * 255, SMALL, atol=2)
    assert read.profile is None


@pytest.mark.parametrize(
    ("mode", "kept"), [("RGB", True), ("RGBA", True), ("P", True), ("L", False), ("LA", False)]
)
def test_a_profile_is_kept_where_it_fits_rgb(tmp_path, mode, kept):
    content = encode(Image.fromarray(SMALL).convert(mode), "PNG", icc_profile=PROFILE)
    assert reading.load(written(tmp_path, content)).profile == (PROFILE if kept else None)


# Sixteen bits and floats.

DEEP = np.random.default_rng(3).integers(0, 65536, (5, 7, 4), np.uint16)
DEEP[0, 0], DEEP[0, 1] = 0, 65535


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(levels: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits of grey, grey and alpha, RGB or RGBA, with more chunks."""
    height, width, channels = levels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def tiff(
    width: int, data: bytes, bits: list[int], order: str = "<", **tags: int | list[int]
) -> bytes:
    """A TIFF of one row, not compressed: what Pillow does not write."""
    entries = {
        256: (4, [width]),
        257: (4, [1]),
        258: (3, bits),
        259: (3, [1]),
        262: (3, [2 if len(bits) > 2 else 1]),
        273: (4, [8]),
        277: (3, [len(bits)]),
        278: (4, [1]),
        279: (4, [len(data)]),
    }
    for name, value in tags.items():
        number = int(name.removeprefix("tag"))
        kind = 4 if number in (273, 279) else 3
        entries[number] = (kind, value if isinstance(value, list) else [value])
    data += b"\0" * (len(data) % 2)
    at, extra = 8 + len(data), b""
    directory = struct.pack(order + "H", len(entries))
    end = at + 2 + 12 * len(entries) + 4
    for number in sorted(entries):
        kind, values = entries[number]
        packed = struct.pack(order + f"{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack(order + "I", end + len(extra)), extra + packed
        directory += struct.pack(order + "HHI", number, kind, len(values)) + packed.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return start + struct.pack(order + "I", at) + data + directory + b"\0" * 4 + extra


def levels_of(path: Path) -> np.ndarray:
    pixels = reading.load(path).pixels
    assert pixels.dtype == np.float32
    levels = pixels.astype(float) * 65535
    np.testing.assert_allclose(levels, np.round(levels), atol=0.02)
    return np.round(levels)


def on_white(levels: np.ndarray) -> np.ndarray:
    values = levels / 65535
    alpha = values[..., -1:]
    return values[..., :-1] * alpha + 1 - alpha


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_of_16_bits_keeps_them(tmp_path, channels):
    levels = DEEP[..., :channels]
    found = levels_of(written(tmp_path, deep_png(levels)))
    np.testing.assert_array_equal(found, np.broadcast_to(levels, (5, 7, 3)))


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_16_bits_is_laid_on_white_in_16_bits(tmp_path, channels):
    levels = DEEP[..., :channels]
    pixels = reading.load(written(tmp_path, deep_png(levels))).pixels
    np.testing.assert_allclose(pixels, np.broadcast_to(on_white(levels), (5, 7, 3)), atol=1e-6)


def test_the_transparent_colour_of_16_bits_is_white(tmp_path):
    levels = DEEP[..., :3].copy()
    transparent = chunk(b"tRNS", levels[2, 3].astype(">u2").tobytes())
    found = levels_of(written(tmp_path, deep_png(levels, transparent)))
    levels[2, 3] = 65535
    np.testing.assert_array_equal(found, levels)


def test_16_bits_are_turned_and_keep_their_profile(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = chunk(b"iCCP", b"icc\0\0" + zlib.compress(PROFILE))
    extra += chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = written(tmp_path, deep_png(DEEP[..., :3], extra))
    np.testing.assert_array_equal(levels_of(path), np.rot90(DEEP[..., :3], -1))
    assert reading.load(path).profile == PROFILE


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_tiff_of_16_bits_keeps_them(tmp_path, order, apart):
    row = DEEP[1, :, :3]
    data = (row.T if apart else row).astype(order + "u2").tobytes()
    tags = {"tag284": 2, "tag273": [8, 22, 36], "tag279": [14] * 3} if apart else {}
    content = tiff(7, data, [16] * 3, order, **tags)
    np.testing.assert_array_equal(levels_of(written(tmp_path, content, "a.tif"))[0], row)


@pytest.mark.parametrize(("extra", "premultiplied"), [(1, True), (2, False)])
def test_a_tiff_of_16_bits_is_laid_on_white_by_its_kind_of_alpha(tmp_path, extra, premultiplied):
    row = DEEP[1:2].copy()
    if premultiplied:
        row[..., :3] = np.minimum(row[..., :3], row[..., 3:])
    content = tiff(7, row.astype("<u2").tobytes(), [16] * 4, tag338=extra)
    values = row / 65535
    expected = values[..., :3] + 1 - values[..., 3:] if premultiplied else on_white(row)
    pixels = reading.load(written(tmp_path, content, "a.tif")).pixels
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_a_compressed_tiff_of_16_bits_keeps_them_and_is_turned(tmp_path, tile):
    tifffile = pytest.importorskip("tifffile")
    levels = np.random.default_rng(0).integers(0, 65536, (20, 34, 3), np.uint16)
    options = {"photometric": "rgb", "compression": "zlib", "predictor": True, "tile": tile}
    for orientation, upright in ((1, levels), (6, np.rot90(levels, -1))):
        turned = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(tmp_path / "a.tif", levels, extratags=turned, **options)
        np.testing.assert_array_equal(levels_of(tmp_path / "a.tif"), upright)


def test_a_compressed_tiff_of_16_bits_apart_is_refused_by_name(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    planes = np.zeros((3, 5, 7), np.uint16)
    options = {"photometric": "rgb", "compression": "zlib", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", planes, **options)
    assert "colours apart" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_of_colour_go_through_without_any_change(tmp_path, suffix):
    row = DEEP[1:2, :, :3]
    content = deep_png(row) if suffix == ".png" else tiff(7, row.tobytes(), [16] * 3)
    read = reading.load(written(tmp_path, content, f"in{suffix}"))
    writing.save(tmp_path / "out.png", read.pixels, bits=16)
    found = tf.io.decode_png((tmp_path / "out.png").read_bytes(), dtype=tf.uint16)
    np.testing.assert_array_equal(found, row)


def test_floats_are_read_as_they_are(tmp_path):
    values = np.array([[0, 0.1, 0.25, 1]], np.float32)
    pixels = reading.load(
        written(tmp_path, encode(Image.fromarray(values), "TIFF"), "a.tif")
    ).pixels
    np.testing.assert_array_equal(pixels, np.repeat(values[..., None], 3, 2))


def test_white_may_be_zero_in_a_tiff(tmp_path):
    row = np.array([0, 1, 65535], np.uint16)
    content = tiff(3, row.tobytes(), [16], tag262=0)
    found = levels_of(written(tmp_path, content, "a.tif"))
    np.testing.assert_array_equal(found[0, :, 0], 65535 - row.astype(int))


def test_12_bits_are_white_at_4095(tmp_path):
    content = tiff(2, bytes([0xFF, 0xF8, 0x00]), [12])
    pixels = reading.load(written(tmp_path, content, "a.tif")).pixels
    np.testing.assert_allclose(pixels[0, :, 0], [1, 2048 / 4095], atol=1e-6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (encode(Image.fromarray(np.array([[0, 255]], np.float32)), "TIFF"), "from 0 to 255"),
        (encode(Image.fromarray(np.array([[-0.5, 1]], np.float32)), "TIFF"), "from -0.5 to 1"),
        (encode(Image.fromarray(np.array([[np.nan, 1]], np.float32)), "TIFF"), "nan"),
        (encode(Image.fromarray(np.array([[0, 70000]], np.int32)), "TIFF"), "32 bits"),
        (tiff(2, b"\0\1\0\2", [16], tag339=2), "integers of 16 bits"),
        (tiff(2, b"\x7f\x80", [8], tag339=2), "signed integers"),
        (tiff(1, b"\0" * 12, [32] * 3, tag339=[3] * 3), "a kind that is not read"),
        (encode(Image.fromarray(SMALL).convert("LAB"), "TIFF"), "Lab"),
    ],
    ids=["255", "negative", "nan", "int32", "int16", "int8", "float RGB", "Lab"],
)
def test_numbers_whose_white_is_not_known_are_refused_by_name(tmp_path, content, said):
    assert said in refused(written(tmp_path, content, "a.tif"))


# What is refused.

PHOTOGRAPH = encode(picture(300, 400), quality=90)


def hole(content: bytes, at: int) -> bytes:
    return content[:at] + b"\0" * 300 + content[at + 300 :]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_jpeg_with_a_hole_is_refused_as_vgg_normalize_does(tmp_path, mode, share):
    whole = encode(Image.fromarray(picture(300, 400)).convert(mode), quality=90)
    damaged = hole(whole, int(share * len(whole)))
    assert decode.find_defect(damaged) and not decode.find_defect(whole)
    reading.load(written(tmp_path, whole, "whole.jpg"))
    assert decode.find_defect(damaged) in refused(written(tmp_path, damaged, "damaged.jpg"))


def test_a_tiff_made_of_jpegs_is_looked_at_in_the_same_way(tmp_path):
    whole = encode(picture(300, 400), "TIFF", compression="jpeg", quality=90)
    reading.load(written(tmp_path, whole, "whole.tif"))
    assert "damaged JPEG" in refused(written(tmp_path, hole(whole, 5000), "damaged.tif"))


def test_a_png_with_a_wrong_check_sum_is_refused(tmp_path):
    # Stored, not compressed: nothing but the check sum tells.
    content = bytearray(encode(picture(), "PNG", compress_level=0))
    content[len(content) // 2] ^= 1
    refused(written(tmp_path, bytes(content)))


FRAMES = [Image.fromarray(picture(20, 31, seed)) for seed in range(3)]
SEVERAL = {"save_all": True, "append_images": FRAMES[1:]}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("MPO", {"subsampling": 0})],
)
def test_of_several_frames_the_first_is_taken(tmp_path, kind, options):
    content = encode(FRAMES[0], kind, **SEVERAL, **options)
    pixels = reading.load(written(tmp_path, content)).pixels
    difference = np.abs(pixels * 255 - FRAMES[0]).mean()
    assert difference < (9 if kind == "MPO" else 1e-4) < np.abs(pixels * 255 - FRAMES[1]).mean()


def test_of_an_animated_gif_the_first_frame_is_taken(tmp_path):
    frames = [frame.quantize(64) for frame in FRAMES]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    pixels = reading.load(written(tmp_path, content)).pixels
    np.testing.assert_array_equal(np.round(pixels * 255), frames[0].convert("RGB"))


CUT = {
    "PNG": encode(picture(), "PNG"),
    "PNG of 16 bits": deep_png(np.tile(DEEP, (9, 9, 1))),
    "WebP": encode(picture(), "WEBP"),
    "lossless WebP": encode(picture(), "WEBP", lossless=True),
    "GIF": encode(Image.fromarray(picture()).quantize(64), "GIF"),
    "BMP": encode(picture(), "BMP"),
    "TIFF": encode(picture(), "TIFF"),
    "packed TIFF": encode(picture(), "TIFF", compression="tiff_lzw"),
    "TIFF of 16 bits": tiff(700, DEEP[..., :3].tobytes() * 20, [16] * 3),
    "JPEG": PHOTOGRAPH,
}


@pytest.mark.parametrize("kind", CUT)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9, 0.99])
def test_what_is_cut_is_refused_and_never_half_used(tmp_path, kind, share):
    reading.load(written(tmp_path, CUT[kind]))
    refused(written(tmp_path, CUT[kind][: int(share * len(CUT[kind]))]))


@pytest.mark.timeout(20)
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        assert "no regular file" in refused(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket must be short
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
        assert "no regular file" in refused(tmp_path / "socket.png")


def test_links_lead_to_pictures_or_are_refused_with_their_goal(tmp_path):
    written(tmp_path, encode(SMALL, "PNG"))
    (tmp_path / "link.png").symlink_to("picture.png")
    assert reading.load(tmp_path / "link.png").pixels.shape == (7, 5, 3)
    (tmp_path / "dangling.png").symlink_to("gone.png")
    assert "a link to 'gone.png', which is no file" in refused(tmp_path / "dangling.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert "cannot be read" in refused(tmp_path / "loop.png")


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)  # takes no place
    assert str(2**40) in refused(tmp_path / "huge.png")


def test_a_name_with_a_zero_byte_is_refused_in_one_line():
    with pytest.raises(ImagesError, match="null"):
        reading.load("a\0b.png")


SAMPLES = {
    **CUT,
    "progressive": encode(picture(), quality=80, progressive=True),
    "CMYK": encode(Image.fromarray(picture()).convert("CMYK")),
    "grey JPEG": encode(Image.fromarray(picture()).convert("L")),
    "palette PNG": encode(Image.fromarray(picture()).quantize(17), "PNG", transparency=3),
    "animated WebP": encode(FRAMES[0], "WEBP", **SEVERAL),
    "palette BMP": encode(Image.fromarray(picture()).quantize(17), "BMP"),
    "float TIFF": encode(Image.fromarray(picture()[..., 0] / np.float32(255)), "TIFF"),
    "deflated TIFF": encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF of JPEGs": encode(picture(), "TIFF", compression="jpeg"),
    "fax TIFF": encode(Image.fromarray(picture()).convert("1"), "TIFF", compression="group4"),
}


@pytest.mark.timeout(120)
def test_whatever_the_damage_there_is_a_picture_or_an_error_of_the_house(tmp_path):
    path = tmp_path / "a.png"
    for seed in range(200):
        content = bytearray(list(SAMPLES.values())[seed % len(SAMPLES)])
        random = np.random.default_rng(seed)
        # Headers matter most.
        last = 100 if random.random() < 0.5 else len(content)
        for at in random.integers(0, last, random.integers(1, 5)):
            content[at] = random.integers(0, 256)
        if random.random() < 0.3:
            del content[random.integers(1, len(content)) :]
        path.write_bytes(content)
        try:
            pixels = reading.load(path).pixels
        except ImagesError as error:
            assert "\n" not in str(error), seed
        else:
            assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.float32, seed
            assert pixels.min() >= 0 and pixels.max() <= 1, seed


def bomb() -> bytes:
    """A PNG that says it has 100000 x 100000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    parts = [
        struct.pack(">I", len(p) - 4) + p + struct.pack(">I", zlib.crc32(p))
        for p in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not an image"),
        (b"<html>not found</html>", "not an image"),
        (encode(picture())[: len(encode(picture())) // 2], "damaged JPEG"),
        (encode(picture(), "PNG")[:-3000], "cannot be read"),
        (encode(picture())[:100], ""),
        (bomb(), "at most"),
    ],
    ids=["empty", "html", "half a JPEG", "half a PNG", "header", "bomb"],
)
def test_a_damaged_picture_is_refused_in_one_line(tmp_path, content, said):
    assert said in refused(written(tmp_path, content))


def test_a_missing_picture_and_a_folder_are_refused_in_one_line(tmp_path):
    assert "no file" in refused(tmp_path / "none.png")
    assert "no file" in refused(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_without_permission_is_refused_in_one_line(tmp_path):
    path = written(tmp_path, encode(SMALL, "PNG"))
    path.chmod(0)
    assert "Permission denied" in refused(path)


# Saving.


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".PNG"])
def test_saved_and_loaded_is_the_same(tmp_path, suffix):
    pixels = SMALL.astype(np.float32) / 255
    writing.save(tmp_path / f"out{suffix}", pixels)
    np.testing.assert_array_equal(reading.load(tmp_path / f"out{suffix}").pixels, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_a_jpeg_is_close_and_keeps_its_colours_at_full_resolution(tmp_path, suffix):
    writing.save(tmp_path / f"out{suffix}", picture() / 255)
    with Image.open(tmp_path / f"out{suffix}") as file:
        assert file.format == "JPEG"
        assert {layer[1:3] for layer in file.layer} == {(1, 1)}  # no subsampling
    read = reading.load(tmp_path / f"out{suffix}").pixels
    assert np.abs(read * 255 - picture()).mean() < 2


def test_values_are_rounded_and_clipped(tmp_path):
    values = np.array([-0.5, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.5], np.float32)
    writing.save(tmp_path / "out.png", np.repeat(values[None, :, None], 3, axis=2))
    read = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(read[0, :, 0], [0, 0, 1, 254, 255])


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.tif"])
def test_the_profile_is_embedded(tmp_path, name):
    writing.save(tmp_path / name, SMALL / 255, profile=PROFILE)
    with Image.open(tmp_path / name) as file:
        assert file.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("profile", [None, PROFILE])
def test_16_bits_are_16_bits_with_or_without_a_profile(tmp_path, profile):
    values = np.random.default_rng(0).random((5, 4, 3))
    writing.save(tmp_path / "out.png", values, bits=16, profile=profile)
    content = (tmp_path / "out.png").read_bytes()
    read = tf.io.decode_png(content, dtype=tf.uint16).numpy()
    np.testing.assert_array_equal(read, np.round(values * 65535))
    with Image.open(io.BytesIO(content)) as file:
        file.load()
        assert file.info.get("icc_profile") == profile


def test_16_bits_are_for_png_only(tmp_path):
    with pytest.raises(UsageError, match="png"):
        writing.save(tmp_path / "out.jpg", SMALL / 255, bits=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["write_bytes", "replace"])
def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch, when):
    path = written(tmp_path, b"old", "out.png")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if when == "replace":
        monkeypatch.setattr(os, "replace", full)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        writing.save(path, SMALL / 255)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]
    assert path.read_bytes() == b"old"


def test_a_suffix_that_names_no_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png.*Received: .*out\.bmp"):
        writing.require_writable(tmp_path / "out.bmp")


def test_a_folder_that_is_missing_or_the_path_itself_is_refused(tmp_path):
    (tmp_path / "is.png").mkdir()
    for path in (tmp_path / "none" / "out.png", tmp_path / "is.png"):
        with pytest.raises(OutputError, match="folder"):
            writing.require_writable(path)


ONE_BLACK = np.zeros((20, 20, 3), np.float32)


@pytest.mark.parametrize(
    "pixels",
    [
        SMALL,
        SMALL > 99,
        SMALL[..., 0] / 255,
        SMALL[..., :2] / 255,
        np.dstack([SMALL, SMALL[..., 0]]) / 255,
        SMALL[None] / 255,
        np.zeros((0, 5, 3)),
        SMALL.astype(np.float32),
        SMALL - np.float32(128),
        np.full((2, 2, 3), np.nan),
    ],
    ids=str,
)
def test_what_is_no_picture_of_floats_is_not_saved(tmp_path, pixels):
    with pytest.raises(UsageError, match=r"^Expected .*Received: .*[Dd]ivide .*255[^\n]*$"):
        writing.save(tmp_path / "out.png", pixels)
    assert not list(tmp_path.iterdir())


def test_a_few_pixels_far_out_are_cut_off(tmp_path):
    pixels = ONE_BLACK.copy()
    pixels[0, 0] = [40, -9, np.inf]
    writing.save(tmp_path / "out.png", pixels)
    np.testing.assert_array_equal(reading.load(tmp_path / "out.png").pixels[0, 0], [1, 0, 1])


@pytest.mark.parametrize(
    "function",
    [
        lambda a: resizing.resize(a, 3, 3),
        lambda a: resizing.fit(a, 3),
        lambda a: colors.with_luminance(a, ONE_BLACK),
        lambda a: colors.match_luminance(a, ONE_BLACK),
        lambda a: colors.match_luminance(ONE_BLACK, a),
        lambda a: colors.match_colors(a, ONE_BLACK),
        lambda a: colors.match_colors(ONE_BLACK, a),
        lambda a: Animation("out.gif").add(a),
    ],
)
@pytest.mark.parametrize("pixels", [SMALL, SMALL[..., 0] / 255])
def test_integers_and_wrong_shapes_are_refused_by_name(function, pixels):
    with pytest.raises(UsageError, match=r"\[H, W, .\]\. Received: (uint8|float64), \[7, 5"):
        function(pixels)


def test_pictures_that_do_not_fit_one_another_are_refused():
    with pytest.raises(UsageError, match="shape"):
        colors.with_luminance(ONE_BLACK, ONE_BLACK[:5])
    with pytest.raises(UsageError, match="cholesky"):
        colors.match_colors(ONE_BLACK, ONE_BLACK, root="qr")
    with pytest.raises(UsageError, match="0 x 5"):
        resizing.resize(ONE_BLACK, 0, 5)


@pytest.mark.parametrize(
    ("name", "bits", "most", "more"),
    [
        ("a.jpg", 8, (65_500, 1), (1, 65_501)),
        ("a.JPEG", 8, (1, 65_500), (65_501, 1)),
        ("a.gif", 8, (65_535, 9), (65_536, 9)),
        ("a.webp", 8, (16_383, 9), (9, 16_384)),
        ("a.png", 8, (2**31 - 1, 1), (1, 2**31)),
        ("a.png", 16, (1_000_000, 700), (1_000_001, 1)),
        ("a.png", 16, (26_754, 26_754), (26_755, 26_755)),
        ("a.tif", 8, (37_000, 38_000), (38_000, 38_000)),
    ],
)
def test_a_picture_must_fit_its_format(name, bits, most, more):
    writing.require_fits(name, *most, bits=bits)
    with pytest.raises(OutputError, match=f"^Expected at most .*{more[0]} x {more[1]}.*{name}"):
        writing.require_fits(name, *more, bits=bits)


@pytest.mark.parametrize(("name", "bits", "side"), [("a.jpg", 8, 65_500), ("a.png", 16, 10**6)])
def test_the_limits_are_those_of_the_encoders(tmp_path, name, bits, side):
    writing.save(tmp_path / name, np.zeros((1, side, 3), np.float32), bits=bits)
    with pytest.raises(OutputError, match=f"at most {side} pixels"):
        writing.save(tmp_path / name, np.zeros((1, side + 1, 3), np.float32), bits=bits)


@pytest.mark.slow
def test_frames_of_an_animation_wait_small_and_in_8_bits(tmp_path):
    writer = Animation(tmp_path / "run.gif")
    frame = np.random.default_rng(0).random((800, 400, 3), np.float32)
    tracemalloc.start()
    for _ in range(10):
        writer.add(frame)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Pillow's own pixels are not traced; they are at most this.
    assert kept < 100_000 and peak < 5 * frame.nbytes
    frame[:] = 0  # what was added is no view
    writer.finish(frame)
    with Image.open(tmp_path / "run.gif") as file:
        assert file.n_frames == 2 and file.size == (LONG_SIDE // 2, LONG_SIDE)


def test_an_animation_of_one_frame_and_of_growing_frames(tmp_path):
    Animation(tmp_path / "one.gif").finish(SMALL / 255)
    with Image.open(tmp_path / "one.gif") as file:
        assert file.size == (5, 7)
    writer = Animation(tmp_path / "grows.gif")
    for side in (10, 40):
        writer.add(np.full((side, 2 * side, 3), side / 100, np.float32))
    writer.finish(np.ones((600, 1200, 3), np.float32))
    with Image.open(tmp_path / "grows.gif") as file:
        assert file.size == (512, 256) and file.n_frames == 3
    assert {entry.name for entry in tmp_path.iterdir()} == {"one.gif", "grows.gif"}


def test_an_animation_has_all_frames_in_the_last_ones_size(tmp_path):
    levels = [0.0, 0.5, 1.0]
    shapes = [(10, 20), (10, 20), (20, 40)]
    frames = [np.full((*s, 3), v, np.float32) for s, v in zip(shapes, levels, strict=True)]
    animation = Animation(tmp_path / "run.gif")
    for frame in frames[:-1]:
        animation.add(frame)
    animation.finish(frames[-1])
    with Image.open(tmp_path / "run.gif") as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (3, (40, 20), 0)
        for i, level in enumerate(levels):
            file.seek(i)
            found = np.asarray(file.convert("RGB"))
            np.testing.assert_allclose(found, 255 * level, atol=2)
        assert file.info["duration"] > 1000  # the last one is held


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_each_kind_of_animation_holds_its_frames(tmp_path, suffix):
    if suffix == ".mp4":
        av = pytest.importorskip("av", reason="av is not installed: pip install '.[video]'")
    levels, path = [0.1, 0.5, 0.9], tmp_path / f"run{suffix}"
    animation = Animation(path)
    for level in levels[:-1]:
        animation.add(np.full((21, 41, 3), level, np.float32))
    animation.finish(np.full((21, 41, 3), levels[-1], np.float32))
    if suffix == ".mp4":
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert frames[0].shape == (20, 40, 3) and len(frames) > 10
    else:
        with Image.open(path) as file:
            frames = []
            for i in range(file.n_frames):
                file.seek(i)
                frames.append(np.asarray(file.convert("RGB")))
        assert frames[0].shape == (21, 41, 3) and len(frames) == 3
    for frame, level in zip(frames, levels, strict=False):
        np.testing.assert_allclose(frame, 255 * level, atol=4)
    np.testing.assert_allclose(frames[-1], 255 * levels[-1], atol=4)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


# Sizes.


@pytest.mark.parametrize(("height", "width"), [(20, 33), (122, 194), (5, 300)])
def test_resizing_is_pillows_lanczos_on_floats(height, width):
    pixels = np.random.default_rng(0).random((61, 97, 2)).astype(np.float32)
    found = resizing.resize(pixels, height, width)
    assert found.shape == (height, width, 2) and found.dtype == np.float32
    for c in range(2):
        channel = Image.fromarray(pixels[..., c]).resize((width, height), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(found[..., c], np.asarray(channel))


def test_resizing_keeps_the_overshoot_and_fitting_clips_it():
    step = np.zeros((16, 16, 3), np.float32)
    step[:, 8:] = 1
    assert resizing.resize(step, 16, 40).max() > 1.01
    fitted = resizing.fit(step, 40)
    assert fitted.shape == (40, 40, 3) and (fitted.min(), fitted.max()) == (0, 1)


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [((60, 90), 32, (21, 32)), ((90, 60, 3), 45, (45, 30)), ((1, 400), 32, (1, 32))],
)
def test_the_long_side_gets_its_length_and_the_aspect_stays(shape, side, expected):
    assert resizing.shape_for(shape, side) == expected


# Colours.

STYLE = picture(40, 50, seed=1).astype(np.float32) / 255
CONTENT = picture(30, 20, seed=2).astype(np.float32) / 255


def moments(pixels) -> tuple[np.ndarray, np.ndarray]:
    flat = np.reshape(pixels, (-1, 3)).astype(float)
    return flat.mean(0), np.cov(flat.T, bias=True)


@pytest.mark.parametrize("root", ["symmetric", "cholesky"])
def test_matched_colours_have_the_contents_mean_and_covariance(root):
    assert np.abs(moments(STYLE)[1] - moments(CONTENT)[1]).max() > 5e-3
    matched = colors.match_colors(STYLE, CONTENT, root=root)
    assert matched.shape == STYLE.shape and matched.dtype == np.float32
    np.testing.assert_allclose(moments(matched)[0], moments(CONTENT)[0], atol=1e-6)
    np.testing.assert_allclose(moments(matched)[1], moments(CONTENT)[1], atol=5e-5)


@pytest.mark.parametrize(
    ("root", "check"),
    [
        ("symmetric", lambda a: np.abs(a - a.T).max() < 1e-4 and np.linalg.eigvalsh(a)[0] > 0),
        ("cholesky", lambda a: np.abs(np.triu(a, 1)).max() < 1e-4 and np.diag(a).min() > 0),
    ],
)
def test_the_map_of_colours_is_the_one_that_is_named(root, check):
    matched = colors.match_colors(STYLE, CONTENT, root=root).reshape(-1, 3)
    ones = np.ones((matched.shape[0], 1))
    affine, *_ = np.linalg.lstsq(np.hstack([STYLE.reshape(-1, 3), ones]), matched, rcond=None)
    assert check(affine[:3].T)


def test_matching_a_picture_with_itself_changes_nothing():
    np.testing.assert_allclose(colors.match_colors(STYLE, STYLE), STYLE, atol=1e-5)


@pytest.mark.parametrize("root", ["symmetric", "cholesky"])
def test_grey_and_flat_pictures_have_finite_matches(root):
    grey = np.repeat(STYLE[..., :1], 3, axis=2)
    flat = np.full((4, 4, 3), 0.5, np.float32)
    for style, content in ((grey, CONTENT), (STYLE, grey), (flat, CONTENT), (STYLE, flat)):
        found = colors.match_colors(style, content, root=root)
        assert np.isfinite(found).all() and np.abs(found).max() < 10


def test_a_matched_luminance_is_grey_with_the_contents_mean_and_deviation():
    matched = colors.match_luminance(STYLE, CONTENT)
    assert (matched == matched[..., :1]).all()
    luminance = CONTENT @ colors.LUMA
    assert matched.mean() == pytest.approx(luminance.mean(), abs=1e-5)
    assert matched.std() == pytest.approx(luminance.std(), rel=1e-4)
    assert np.isfinite(colors.match_luminance(np.full_like(STYLE, 0.3), CONTENT)).all()


def test_a_result_with_the_contents_colours_differs_from_it_in_luminance_only():
    result = picture(30, 20, seed=5).astype(np.float32) / 255
    found = colors.with_luminance(result, CONTENT)
    np.testing.assert_allclose(found @ colors.LUMA, result @ colors.LUMA, atol=1e-6)

    def chroma(pixels):
        return pixels - (pixels @ colors.LUMA)[..., None]

    np.testing.assert_allclose(chroma(found), chroma(CONTENT), atol=1e-6)
