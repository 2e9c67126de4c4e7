"""The objective under XLA, and what its graphs hold: whole pictures, and each tile by itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from graphs import assert_same_compiled, assert_stays_on_device
from helpers import images, tiny_chain

from style.objective import (
    features,
    tile_references,
    tiled_objective,
    tiling,
    value_and_gradient,
    windows,
    winograd,
)
from style.objective import terms as objective
from style.objective.losses import STYLE_LOSSES
from style.synthesis import neighbor_terms, picture_terms
from style.synthesis.picture_terms import Style

pytestmark = pytest.mark.slow

SHAPE, TILE = (37, 45), 16
LAYERS = [("first", 1.0), ("second", 2.0)]
# Seven channels are the most: no sum need be larger.
LARGEST_SUM = 7 * 7
# These are small differences of large numbers, whose last bits count a thousandfold.
CLOSE = {"mmd_gaussian": 1e-3, "wasserstein": 1e-3}

model = cache(tiny_chain)
every_loss = pytest.mark.parametrize("loss", STYLE_LOSSES)


def picture(seed: int) -> tf.Tensor:
    return tf.constant(images(1, *SHAPE, seed=seed))


def make_terms(loss: str, tile: int = 0) -> list[objective.Term]:
    """A term of each kind."""
    return [
        *picture_terms.content_terms(model(), LAYERS[1:], 1.0, shape=SHAPE),
        *picture_terms.style_terms(
            *(model(), [Style(images(1, 40, 33, seed=5)[0])], LAYERS, 3.0),
            **{"shape": SHAPE, "loss": loss, "tile": tile},
        ),
        objective.tv_term(0.1, (*SHAPE, 3), 1.5),
        objective.norm_term(0.1, SHAPE),
    ]


def evaluator(loss: str, tile: int = 0):
    return value_and_gradient.make_value_and_gradient(
        model(), make_terms(loss, tile), SHAPE, content=picture(1), tile=tile
    )


@every_loss
def test_the_objective_compiles_to_the_same(loss):
    assert_same_compiled(evaluator(loss), [picture(2)], close=CLOSE.get(loss, 1e-4))


def test_nearest_neighbours_compile_to_the_same_and_stay_on_the_device():
    style = Style(images(1, 40, 33, seed=5)[0])
    terms = neighbor_terms.neighbor_terms(model(), picture(1), [style], LAYERS, strength=0.5)
    evaluate = value_and_gradient.make_value_and_gradient(model(), terms, SHAPE)
    assert_same_compiled(evaluate, [picture(2)])
    assert_stays_on_device(evaluate, picture(2), doubles=LARGEST_SUM)


def test_winograds_convolution_compiles_to_the_same():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)
    convolve = winograd.winograd_convolution(kernel)

    def value_and_slope(image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = convolve(image)
        return value, tape.gradient(value, image)

    assert_same_compiled(value_and_slope, [picture(2)])
    assert_stays_on_device(value_and_slope, picture(2), doubles=0)


def make_tiled(loss: str) -> tiled_objective.TiledObjective:
    terms = make_terms(loss, TILE)
    nonlinear = [term for term in terms if not term.linear]
    compared = [term.layer for term in terms if term.compares]
    extract, of_nonlinear, of_content = (
        features.feature_extractor(model(), names)
        for names in (
            [term.layer for term in terms],
            [term.layer for term in nonlinear],
            compared,
        )
    )
    tiles = tiling.make_tiling(model(), [term.layer for term in terms], SHAPE, TILE)
    shapes = tiling.layer_shapes(model(), compared, SHAPE)
    references = tile_references.TileReferences(
        of_content, {name: shapes[name] for name in compared}, tiles, picture(1)
    )
    return tiled_objective.TiledObjective(
        tiles,
        nonlinear,
        [term for term in terms if term.linear],
        of_nonlinear,
        extract,
        references,
    )


# One loss of each kind of sums: of all positions, of samples, and of projections.
@pytest.mark.parametrize("loss", ["gram", "mmd_gaussian", "sliced_wasserstein"])
def test_both_passes_over_a_tile_compile_to_the_same(loss):
    """A tile by itself, because XLA has no loop over windows of several sizes."""
    tiled = make_tiled(loss)
    slopes, _ = tiled.slopes(picture(2))

    def passes(image):
        i = tf.constant(5)  # at the right edge, smaller than others
        piece, kinds = tiled.gradient_of_tile(image, slopes, i)
        blank = windows.blank(image, tiled.tiling)
        added = windows.add_to_window(blank, piece, tiled.tiling, i)
        return tiled.sums_of_tile(image, i), added, kinds

    assert_same_compiled(passes, [picture(2)])


@pytest.mark.parametrize("tile", [0, TILE])
@every_loss
def test_an_evaluation_stays_on_the_device(loss, tile):
    assert_stays_on_device(evaluator(loss, tile), picture(2), doubles=LARGEST_SUM)


@pytest.mark.parametrize(
    ("function", "doubles"),
    [
        (lambda x: tf.numpy_function(np.sin, [x], tf.float32), LARGEST_SUM),
        (lambda x: tf.cast(tf.cast(x, tf.float64) * 2, tf.float32), LARGEST_SUM),
        (lambda x: tf.map_fn(lambda row: tf.cast(row, tf.float64), x, tf.float64), LARGEST_SUM),
        (lambda x: tf.cast(tf.reduce_sum(x, [0, 1, 2]), tf.float64), 2),
    ],
    ids=["python", "double", "double in a loop", "long sums"],
)
def test_what_leaves_the_device_is_found(function, doubles):
    with pytest.raises(AssertionError):
        assert_stays_on_device(function, picture(2), doubles=doubles)
