"""What comes from a browser is checked, and what is painted becomes masks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="no gradio here: pip install '.[studio]'")

from style.studio import uploads
from vgg_normalize.errors import ImagesError, UsageError


@pytest.fixture
def masks():
    masks = uploads.Masks()
    yield masks
    masks.close()


def painted(**areas: tuple[slice, slice]) -> dict:
    """A painting of 20 x 30 pixels with these colours in these areas."""
    layer = np.zeros((20, 30, 4), np.uint8)
    for color, area in areas.items():
        number = int(uploads.COLORS[color][1:], 16)
        layer[area] = (number >> 16, number >> 8 & 255, number & 255, 255)
    return {"background": None, "layers": [layer], "composite": None}


LEFT, RIGHT = (slice(None), slice(0, 12)), (slice(5, 20), slice(12, 30))


def test_each_style_goes_where_its_colour_is(masks):
    paths = masks.of_painting(painted(red=LEFT, blue=RIGHT), 2)
    for path, area in zip(paths, (LEFT, RIGHT), strict=True):
        expected = np.zeros((20, 30), np.uint8)
        expected[area] = 255
        with Image.open(path) as mask:
            np.testing.assert_array_equal(np.asarray(mask), expected)


def test_the_same_painting_gives_the_same_files(masks):
    one, other = (masks.of_painting(painted(red=LEFT), 1) for _ in range(2))
    assert one == other != masks.of_painting(painted(red=RIGHT), 1)


def test_nothing_painted_is_no_mask(masks):
    assert masks.of_painting(None, 2) == () == masks.of_painting(painted(), 2)


def test_a_style_that_goes_nowhere_is_told_of(masks):
    with pytest.raises(UsageError, match="Expected blue somewhere, where style 2 goes"):
        masks.of_painting(painted(red=LEFT), 2)


def test_the_files_go_with_the_studio(masks):
    (path,) = masks.of_painting(painted(red=LEFT), 1)
    masks.close()
    with pytest.raises(OSError):
        Image.open(path)


def test_pictures_are_bounded_in_pixels(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    uploads.require_allowed([str(tmp_path / "a.png")])
    monkeypatch.setattr(uploads, "MAX_PIXELS", 1000)
    with pytest.raises(ImagesError, match="a.png, 40 x 30"):
        uploads.require_allowed([str(tmp_path / "a.png")])


def test_what_is_no_picture_is_told_of_by_its_name(tmp_path):
    (tmp_path / "a.png").write_text("none")
    with pytest.raises(ImagesError, match="Received: a.png, which is none"):
        uploads.require_allowed([str(tmp_path / "a.png")])
