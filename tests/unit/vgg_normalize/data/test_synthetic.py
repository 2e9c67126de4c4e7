"""The built-in pictures: always the same, and natural in what vision measures."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from helpers import python
from PIL import Image

from vgg_normalize.data import sources, synthetic

GREY = [synthetic.picture(index).mean(2) / 255 for index in range(12)]


def slope(grey):
    """Exponent of the power spectrum, fitted over two octaves and more of frequency."""
    side = min(grey.shape)
    window = np.hanning(side)
    patch = grey[:side, :side]
    power = np.abs(np.fft.fft2((patch - patch.mean()) * np.outer(window, window))) ** 2
    frequency = np.fft.fftfreq(side) * side
    ring = np.round(np.hypot(frequency[:, None], frequency[None, :])).astype(int)
    radius = np.arange(3, side // 8)
    mean = np.array([power[ring == r].mean() for r in radius])
    return np.polyfit(np.log(radius), np.log(mean), 1)[0]


def kurtosis(values):
    values = values - values.mean()
    return (values**4).mean() / (values**2).mean() ** 2


def test_the_fitted_slope_of_noise_with_a_known_spectrum_is_that_spectrum():
    random = np.random.default_rng(0)
    assert np.mean(
        [slope(synthetic._fractal(random, 224, 224)) for _ in range(8)]
    ) == pytest.approx(-2, abs=0.15)
    assert slope(random.random((224, 224))) == pytest.approx(0, abs=0.2)


def test_the_power_spectrum_falls_near_the_square_of_frequency():
    # Photographs: -2 with a spread of 0.3 between scenes; sharp edges alone give -3.
    slopes = [slope(grey) for grey in GREY]
    assert -2.9 < np.mean(slopes) < -1.7
    assert np.std(slopes) > 0


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_have_heavier_tails_than_a_gaussian(axis):
    for grey in GREY:
        assert kurtosis(np.diff(grey, axis=axis)) > 6


def test_brightness_varies_more_than_colour():
    pixels = np.concatenate([synthetic.picture(index).reshape(-1, 3) for index in range(8)]) / 255
    red, green, blue = pixels.T
    brightness = pixels.mean(1).std()
    assert brightness > 2 * (red - blue).std() / 2
    assert brightness > 2 * (green - (red + blue) / 2).std() / 2


@pytest.mark.slow
def test_pictures_differ_and_come_in_both_orientations():
    assert len({hashlib.sha256(synthetic.picture(i).tobytes()).digest() for i in range(20)}) == 20
    sizes = [synthetic.size(i) for i in range(20)]
    assert len(set(sizes)) >= 8
    assert {height > width for height, width in sizes} == {True, False}
    assert all(synthetic.picture(i).shape == (*sizes[i], 3) for i in range(4))


def test_every_process_makes_the_same_pictures():
    code = (
        "import hashlib; from vgg_normalize.data import synthetic as sample;"
        "print(*(hashlib.sha256(sample.picture(i).tobytes()).hexdigest() for i in (5, 0)))"
    )
    here = [hashlib.sha256(synthetic.picture(i).tobytes()).hexdigest() for i in (5, 0)]
    assert python(code).stdout.split() == here


def test_the_source_holds_these_pictures():
    source = sources.open_source("sample", max_images=3)
    assert source.total == 3 and source.mixed
    assert sources.open_source("sample").total == synthetic.COUNT
    for index, encoded in source.encoded(np.arange(3)).as_numpy_iterator():
        assert source.read(index) == (f"sample/{index:04}.png", encoded)
        assert np.array_equal(Image.open(io.BytesIO(encoded)), synthetic.picture(int(index)))
