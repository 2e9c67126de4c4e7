"""Pictures: what is read, what is written, and colours."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import encode, picture
from PIL import Image, ImageCms

from style import image
from vgg_normalize.errors import ImagesError, OutputError, UsageError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMALL = picture(7, 5)


def written(folder: Path, content: bytes, name: str = "picture.png") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(path) -> str:
    with pytest.raises(ImagesError) as caught:
        image.load(path)
    text = str(caught.value)
    assert text.startswith("Expected ") and "Received: " in text and "\n" not in text
    assert str(path) in text
    return text


# Loading.


def test_a_picture_is_rgb_float_in_the_unit_range(tmp_path):
    pixels = image.load(written(tmp_path, encode(SMALL, "PNG"))).pixels
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
    pixels = image.load(written(tmp_path, encode(SMALL, "PNG", exif=exif))).pixels
    np.testing.assert_array_equal(np.round(pixels * 255), upright(SMALL))


def test_alpha_is_laid_on_white(tmp_path):
    half = np.zeros((1, 3, 4), np.uint8)
    half[0, :, 3] = [0, 51, 255]  # black, ever more opaque
    pixels = image.load(written(tmp_path, encode(half, "PNG"))).pixels
    np.testing.assert_allclose(pixels[0], [[1] * 3, [0.8] * 3, [0] * 3], atol=1 / 255)


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    content = encode(palette, "PNG", transparency=0)
    pixels = image.load(written(tmp_path, content)).pixels
    np.testing.assert_array_equal(pixels[0], [[1, 1, 1], [0, 0, 1]])


def test_grey_and_alpha_is_grey_on_white(tmp_path):
    both = Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA")
    pixels = image.load(written(tmp_path, encode(both, "PNG"))).pixels
    np.testing.assert_allclose(pixels[0], [[100 / 255] * 3, [1] * 3], atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_bilevel_and_palette_pictures_become_rgb(tmp_path, mode):
    converted = Image.fromarray(SMALL).convert(mode)
    pixels = image.load(written(tmp_path, encode(converted, "PNG"))).pixels
    np.testing.assert_array_equal(np.round(pixels * 255), converted.convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_16_bits(tmp_path, kind):
    levels = np.array([[0, 1, 300], [40000, 65534, 65535]], np.uint16)
    pixels = image.load(written(tmp_path, encode(Image.fromarray(levels), kind))).pixels
    assert pixels.shape == (2, 3, 3)
    for channel in range(3):
        np.testing.assert_array_equal(np.round(pixels[..., channel] * 65535), levels)


def test_cmyk_becomes_rgb_without_its_profile(tmp_path):
    ink = Image.fromarray(SMALL).convert("CMYK")
    read = image.load(written(tmp_path, encode(ink, "TIFF", icc_profile=PROFILE)))
    np.testing.assert_allclose(read.pixels * 255, SMALL, atol=2)
    assert read.profile is None


@pytest.mark.parametrize(
    ("mode", "kept"), [("RGB", True), ("RGBA", True), ("P", True), ("L", False), ("LA", False)]
)
def test_a_profile_is_kept_where_it_fits_rgb(tmp_path, mode, kept):
    content = encode(Image.fromarray(SMALL).convert(mode), "PNG", icc_profile=PROFILE)
    assert image.load(written(tmp_path, content)).profile == (PROFILE if kept else None)


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
        (encode(picture())[: len(encode(picture())) // 2], "cannot be read"),
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
    image.save(tmp_path / f"out{suffix}", pixels)
    np.testing.assert_array_equal(image.load(tmp_path / f"out{suffix}").pixels, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_a_jpeg_is_close_and_keeps_its_colours_at_full_resolution(tmp_path, suffix):
    image.save(tmp_path / f"out{suffix}", picture() / 255)
    with Image.open(tmp_path / f"out{suffix}") as file:
        assert file.format == "JPEG"
        assert {layer[1:3] for layer in file.layer} == {(1, 1)}  # no subsampling
    read = image.load(tmp_path / f"out{suffix}").pixels
    assert np.abs(read * 255 - picture()).mean() < 2


def test_values_are_rounded_and_clipped(tmp_path):
    values = np.array([-0.5, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.5], np.float32)
    image.save(tmp_path / "out.png", np.repeat(values[None, :, None], 3, axis=2))
    read = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(read[0, :, 0], [0, 0, 1, 254, 255])


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.tif"])
def test_the_profile_is_embedded(tmp_path, name):
    image.save(tmp_path / name, SMALL / 255, profile=PROFILE)
    with Image.open(tmp_path / name) as file:
        assert file.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("profile", [None, PROFILE])
def test_16_bits_are_16_bits_with_or_without_a_profile(tmp_path, profile):
    values = np.random.default_rng(0).random((5, 4, 3))
    image.save(tmp_path / "out.png", values, bits=16, profile=profile)
    content = (tmp_path / "out.png").read_bytes()
    read = tf.io.decode_png(content, dtype=tf.uint16).numpy()
    np.testing.assert_array_equal(read, np.round(values * 65535))
    with Image.open(io.BytesIO(content)) as file:
        file.load()
        assert file.info.get("icc_profile") == profile


def test_16_bits_are_for_png_only(tmp_path):
    with pytest.raises(UsageError, match="png"):
        image.save(tmp_path / "out.jpg", SMALL / 255, bits=16)
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
        image.save(path, SMALL / 255)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["out.png"]
    assert path.read_bytes() == b"old"


def test_a_suffix_that_names_no_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.png.*Received: .*out\.bmp"):
        image.require_writable(tmp_path / "out.bmp")


def test_a_folder_that_is_missing_or_the_path_itself_is_refused(tmp_path):
    (tmp_path / "is.png").mkdir()
    for path in (tmp_path / "none" / "out.png", tmp_path / "is.png"):
        with pytest.raises(OutputError, match="folder"):
            image.require_writable(path)


def test_an_animation_has_all_frames_in_the_last_ones_size(tmp_path):
    levels = [0.0, 0.5, 1.0]
    shapes = [(10, 20), (10, 20), (20, 40)]
    frames = [np.full((*s, 3), v, np.float32) for s, v in zip(shapes, levels, strict=True)]
    image.animation(tmp_path / "run.gif", frames)
    with Image.open(tmp_path / "run.gif") as file:
        assert (file.n_frames, file.size, file.info["loop"]) == (3, (40, 20), 0)
        for i, level in enumerate(levels):
            file.seek(i)
            found = np.asarray(file.convert("RGB"))
            np.testing.assert_allclose(found, 255 * level, atol=2)
        assert file.info["duration"] > 1000  # the last one is held


# Sizes.


@pytest.mark.parametrize(("height", "width"), [(20, 33), (122, 194), (5, 300)])
def test_resizing_is_pillows_lanczos_on_floats(height, width):
    pixels = np.random.default_rng(0).random((61, 97, 2)).astype(np.float32)
    found = image.resize(pixels, height, width)
    assert found.shape == (height, width, 2) and found.dtype == np.float32
    for c in range(2):
        channel = Image.fromarray(pixels[..., c]).resize((width, height), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(found[..., c], np.asarray(channel))


def test_resizing_keeps_the_overshoot_and_fitting_clips_it():
    step = np.zeros((16, 16, 3), np.float32)
    step[:, 8:] = 1
    assert image.resize(step, 16, 40).max() > 1.01
    fitted = image.fit(step, 40)
    assert fitted.shape == (40, 40, 3) and (fitted.min(), fitted.max()) == (0, 1)


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [((60, 90), 32, (21, 32)), ((90, 60, 3), 45, (45, 30)), ((1, 400), 32, (1, 32))],
)
def test_the_long_side_gets_its_length_and_the_aspect_stays(shape, side, expected):
    assert image.shape_for(shape, side) == expected


# Colours.

STYLE = picture(40, 50, seed=1).astype(np.float32) / 255
CONTENT = picture(30, 20, seed=2).astype(np.float32) / 255


def moments(pixels) -> tuple[np.ndarray, np.ndarray]:
    flat = np.reshape(pixels, (-1, 3)).astype(float)
    return flat.mean(0), np.cov(flat.T, bias=True)


@pytest.mark.parametrize("root", ["symmetric", "cholesky"])
def test_matched_colours_have_the_contents_mean_and_covariance(root):
    assert np.abs(moments(STYLE)[1] - moments(CONTENT)[1]).max() > 5e-3
    matched = image.match_colors(STYLE, CONTENT, root=root)
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
    matched = image.match_colors(STYLE, CONTENT, root=root).reshape(-1, 3)
    ones = np.ones((matched.shape[0], 1))
    affine, *_ = np.linalg.lstsq(np.hstack([STYLE.reshape(-1, 3), ones]), matched, rcond=None)
    assert check(affine[:3].T)


def test_matching_a_picture_with_itself_changes_nothing():
    np.testing.assert_allclose(image.match_colors(STYLE, STYLE), STYLE, atol=1e-5)


@pytest.mark.parametrize("root", ["symmetric", "cholesky"])
def test_grey_and_flat_pictures_have_finite_matches(root):
    grey = np.repeat(STYLE[..., :1], 3, axis=2)
    flat = np.full((4, 4, 3), 0.5, np.float32)
    for style, content in ((grey, CONTENT), (STYLE, grey), (flat, CONTENT), (STYLE, flat)):
        found = image.match_colors(style, content, root=root)
        assert np.isfinite(found).all() and np.abs(found).max() < 10


def test_a_matched_luminance_is_grey_with_the_contents_mean_and_deviation():
    matched = image.match_luminance(STYLE, CONTENT)
    assert (matched == matched[..., :1]).all()
    luminance = CONTENT @ image.LUMA
    assert matched.mean() == pytest.approx(luminance.mean(), abs=1e-5)
    assert matched.std() == pytest.approx(luminance.std(), rel=1e-4)
    assert np.isfinite(image.match_luminance(np.full_like(STYLE, 0.3), CONTENT)).all()


def test_a_result_with_the_contents_colours_differs_from_it_in_luminance_only():
    result = picture(30, 20, seed=5).astype(np.float32) / 255
    found = image.with_luminance(result, CONTENT)
    np.testing.assert_allclose(found @ image.LUMA, result @ image.LUMA, atol=1e-6)

    def chroma(pixels):
        return pixels - (pixels @ image.LUMA)[..., None]

    np.testing.assert_allclose(chroma(found), chroma(CONTENT), atol=1e-6)
