"""Borders: tiles give the objective of the whole whatever is beyond it, and wrapping has no seam."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights
from keras import layers

from style.objective import terms as objective
from style.objective import tiling, value_and_gradient, windows
from style.synthesis import neighbor_terms, picture_terms
from style.synthesis.picture_terms import Style, as_batch
from vgg_normalize.networks import borders

pytestmark = pytest.mark.slow

SHAPE, TILE = (40, 48), 16
PADDINGS = list(borders.PADDINGS)


@cache
def network(padding: str) -> keras.Model:
    """Three convolutions in two blocks of stride 2 and 4."""
    stack = [
        layers.Conv2D(4, 3, padding="same", activation="relu", name="first"),
        layers.MaxPooling2D(2),
        layers.Conv2D(6, 3, padding="same", activation="relu", name="second"),
        layers.MaxPooling2D(2),
        layers.Conv2D(5, 3, padding="same", activation="relu", name="third"),
    ]
    plain = keras.Sequential([keras.Input((None, None, 3)), *stack])
    return borders.with_padding(draw_weights(plain), padding)


def noise(shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def make_terms(model: keras.Model, loss: str, tile: int) -> list[objective.Term]:
    where = [("first", 1.0), ("third", 1.0)]
    return [
        *picture_terms.style_terms(
            model, [Style(noise((32, 24), 3))], where, 2.0, shape=SHAPE, loss=loss, tile=tile
        ),
        *picture_terms.content_terms(model, [("second", 1.0)], 0.3, shape=SHAPE),
        objective.tv_term(0.2, (*SHAPE, 3), 1.5),
    ]


def evaluated_each(model, terms, pairs, tile=0):
    """Objective and gradient of pairs (picture, content).

    By tiles in one graph, as runs do; whole without, which is quicker for a few evaluations.
    """
    evaluate = value_and_gradient.make_value_and_gradient(
        model, terms, SHAPE, content=as_batch(pairs[0][1]), tile=tile
    )
    call = tf.function(evaluate) if tile else evaluate
    found = []
    for picture, content in pairs:
        evaluate.compare_with(as_batch(content), None)
        value, gradient, _ = call(as_batch(picture))
        found.append((float(value), np.asarray(gradient)))
    return found


def evaluated(model, terms, picture, content, tile=0):
    return evaluated_each(model, terms, [(picture, content)], tile)[0]


def assert_close(found, expected, value=1e-5, gradient=1e-4) -> None:
    assert found[0] == pytest.approx(expected[0], rel=value)
    difference = np.linalg.norm(found[1] - expected[1]) / np.linalg.norm(expected[1])
    assert difference <= gradient


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("loss", ["gram", "sliced_wasserstein"])
def test_tiles_give_the_objective_of_the_whole(padding, loss):
    model, picture, content = network(padding), noise(SHAPE, 1), noise(SHAPE, 2)
    whole, tiled = (
        evaluated(model, make_terms(model, loss, tile), picture, content, tile)
        for tile in (0, TILE)
    )
    assert_close(tiled, whole)


def test_paddings_differ():
    values = {
        evaluated(network(p), make_terms(network(p), "gram", 0), noise(SHAPE, 1), noise(SHAPE, 2))[
            0
        ]
        for p in PADDINGS
    }
    assert len(values) == len(PADDINGS)


@pytest.mark.parametrize("tile", [0, TILE])
@pytest.mark.parametrize("loss", ["gram", "moments", "sliced_wasserstein"])
def test_a_wrapped_objective_does_not_change_under_a_roll(loss, tile):
    model, pair = network("wrap"), (noise(SHAPE, 1), noise(SHAPE, 2))
    rolls = ((4, 8), (20, -16))
    rolled = [[np.roll(array, roll, (0, 1)) for array in pair] for roll in rolls]
    terms = make_terms(model, loss, tile)
    (value, gradient), *others = evaluated_each(model, terms, [pair, *rolled], tile)
    for roll, (found, rolled_gradient) in zip(rolls, others, strict=True):
        assert found == pytest.approx(value, rel=1e-6)
        expected = np.roll(gradient, roll, (1, 2))
        np.testing.assert_allclose(rolled_gradient, expected, atol=1e-5 * np.abs(expected).max())


def test_a_roll_within_the_stride_or_without_wrapping_changes_it():
    content = noise(SHAPE, 2)
    for padding, roll in (("wrap", (1, 0)), ("reflect", (4, 8)), ("zero", (4, 8))):
        model = network(padding)
        terms = make_terms(model, "gram", 0)
        values = [
            evaluated(
                model, terms, np.roll(noise(SHAPE, 1), r, (0, 1)), np.roll(content, r, (0, 1))
            )[0]
            for r in ((0, 0), roll)
        ]
        assert abs(values[0] - values[1]) > 1e-5 * values[0], padding


def test_a_tile_wider_than_the_picture_wraps_more_than_once():
    model, shape = network("wrap"), (64, 8)
    made = tiling.make_tiling(model, ["third"], shape, 16)
    picture = noise(shape, 1)
    window = np.asarray(windows.crop_window(as_batch(picture), made, 0))[0]
    halo = made.halo
    rows = (np.arange(len(window)) - halo) % 64
    columns = (np.arange(window.shape[1]) - halo) % 8
    np.testing.assert_array_equal(window, picture[np.ix_(rows, columns)])
    total = windows.blank(as_batch(picture), made)
    total = windows.add_to_window(total, tf.ones((1, *window.shape)), made, 0)
    assert float(tf.reduce_sum(windows.fold(total, made))) == window.size


@pytest.mark.parametrize("padding", ["zero", "wrap"])
def test_neighbours_by_tiles_are_those_of_the_whole(padding):
    model, picture, content = network(padding), noise(SHAPE, 1), noise(SHAPE, 2)
    found = []
    for tile in (0, TILE):
        terms = neighbor_terms.neighbor_terms(
            model,
            as_batch(content),
            [Style(noise((32, 24), 3))],
            [("first", 1.0), ("third", 2.0)],
            strength=0.7,
            tile=tile,
        )
        found.append(evaluated(model, terms, picture, content, tile))
    assert_close(found[1], found[0])
