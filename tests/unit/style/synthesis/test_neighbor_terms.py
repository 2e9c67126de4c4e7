"""Nearest-neighbour features: the assignment, the grid, and what the terms compare with."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import draw_weights
from keras import layers

import style
from style.objective import value_and_gradient
from style.synthesis import neighbor_terms
from style.synthesis.picture_terms import Style, as_batch
from vgg_normalize.networks import chain

SHAPE = (26, 37)
LAYERS = [("first", 1.0), ("third", 4.0)]


@cache
def network() -> keras.Model:
    """Layers of stride 1, 2, 4 and 8."""
    stack = []
    for name in ("first", "second", "third", "fourth"):
        stack += [
            layers.Conv2D(4, 3, padding="same", activation="relu", name=name),
            layers.MaxPooling2D(2),
        ]
    return draw_weights(keras.Sequential([keras.Input((None, None, 3)), *stack[:-1]]))


def noise(shape, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def terms_of(content, *styles, strength=1.0, where=LAYERS):
    pictures = [s if isinstance(s, Style) else Style(s) for s in styles]
    return neighbor_terms.neighbor_terms(
        network(), as_batch(content), pictures, where, strength=strength
    )


def value_of(terms, picture) -> float:
    shape = picture.shape[:2]
    evaluate = value_and_gradient.make_value_and_gradient(network(), terms, shape)
    return float(evaluate(as_batch(picture))[0])


def test_the_nearest_is_that_of_loops():
    random = np.random.default_rng(0)
    wanted, given = random.random((30, 5)), random.random((21, 5))
    found = neighbor_terms.nearest_by_cosine(wanted, given)
    mean, given_mean = wanted.mean(0), given.mean(0)
    for i, row in enumerate(wanted):
        cosines = [
            np.dot(row - mean, other - given_mean)
            / np.linalg.norm(row - mean)
            / np.linalg.norm(other - given_mean)
            for other in given
        ]
        assert found[i] == np.argmax(cosines)


def test_blocks_change_nothing(monkeypatch):
    random = np.random.default_rng(0)
    wanted, given = random.random((50, 5)), random.random((20, 5))
    whole = neighbor_terms.nearest_by_cosine(wanted, given)
    monkeypatch.setattr(neighbor_terms, "BLOCK", 60)
    np.testing.assert_array_equal(neighbor_terms.nearest_by_cosine(wanted, given), whole)


def test_a_constant_picture_has_neighbours_too():
    flat, given = np.ones((4, 3)), np.random.default_rng(0).random((5, 3))
    assert neighbor_terms.nearest_by_cosine(flat, given).shape == (4,)


@pytest.mark.parametrize("where", [LAYERS, [("first", 1.0), ("fourth", 1.0)], [("second", 1.0)]])
def test_the_style_itself_is_its_own_neighbour(where):
    picture = noise(SHAPE, 1)
    terms = terms_of(picture, picture, where=where)
    assert value_of(terms, picture) <= 1e-8
    assert value_of(terms, noise(SHAPE, 2)) > 1e-3


def test_without_strength_the_targets_are_the_contents():
    content = noise(SHAPE, 1)
    assert value_of(terms_of(content, noise((20, 24), 2), strength=0.0), content) == 0
    assert value_of(terms_of(content, noise((20, 24), 2), strength=0.5), content) > 0


@pytest.mark.parametrize(("strength", "blend"), [(0.3, 0.6), (0.8, 1.0)])
def test_one_layer_is_that_of_numpy(strength, blend):
    content, picture, given = noise((16, 12), 1), noise((16, 12), 4), noise((8, 12), 2)
    (term,) = terms_of(content, given, strength=strength, where=[("third", 2.0)])
    features = chain.features(network(), ["third"])
    own, now, of_style = (
        np.asarray(features(p[None])["third"])[0] for p in (content, picture, given)
    )

    def expected(query: np.ndarray) -> float:
        candidates = of_style.reshape(-1, 4)
        nearest = neighbor_terms.nearest_by_cosine(query.reshape(-1, 4), candidates)
        theirs = candidates[nearest].reshape(own.shape)
        return 2 * np.mean((now - ((1 - blend) * own + blend * theirs)) ** 2)

    assert value_of([term], picture) == pytest.approx(expected(own), rel=1e-5)
    term.renew(1, as_batch(picture))
    query = strength * now + (1 - strength) * own
    assert value_of([term], picture) == pytest.approx(expected(query), rel=1e-5)


@pytest.mark.parametrize("layer", ["first", "second", "third", "fourth"])
def test_what_is_cut_joins_again(layer):
    grid = neighbor_terms.make_grid(network(), ["first", "second", "third", "fourth"])
    assert (grid.stride, grid.cell) == (4, 8)
    places = grid.shape(*SHAPE)
    assert places == (8, 10)
    stride = grid.strides[layer]
    features = np.random.default_rng(0).random((26 // stride, 37 // stride, 3), np.float32)
    parts = grid.cut(layer, features, places)
    assert parts.shape[0] == 80
    joined = grid.join(layer, parts, places)
    kept = joined[: len(features), : features.shape[1]]
    np.testing.assert_allclose(kept, features, rtol=1e-6)


def test_masks_say_what_may_be_chosen_and_where():
    content, dark, bright = noise((16, 16), 1), 0.1 * noise((16, 16), 2), noise((16, 16), 3)
    left = np.zeros((16, 16))
    left[:, :8] = 1
    both = terms_of(
        content,
        Style(dark, content_mask=left),
        Style(bright, content_mask=1 - left),
        where=[("third", 1.0)],
    )
    halves = terms_of(content, dark, where=[("third", 1.0)])
    x = noise((16, 16), 4)
    assert value_of(both, x) != value_of(halves, x)
    masked = terms_of(content, Style(bright, mask=left), where=[("third", 1.0)])
    cut = terms_of(content, bright[:, :8].copy(), where=[("third", 1.0)])
    assert value_of(masked, x) != pytest.approx(value_of(cut, x), rel=1e-12)


def test_a_transfer_by_neighbours_comes_nearer_and_is_the_seeds():
    # Few pairs, each of which is a part of the graph.
    options = {"steps": 12, "renew_every": 4, "history_size": 5}
    options |= {"content_loss": "neighbors", "content_layers": tuple(LAYERS)}
    content, painting = noise(SHAPE, 1), noise((24, 24), 2)
    first, *_, last = style.iter_transfer(network(), content, painting, **options)
    again = style.transfer(network(), content, painting, **options)
    np.testing.assert_array_equal(last.image, again.image)
    assert last.loss < 0.8 * first.loss and last.terms.keys() == {"content", "tv"}


def test_a_style_loss_counts_where_its_weight_is_given():
    result = style.transfer(
        *(network(), noise(SHAPE, 1), noise((24, 24), 2)),
        steps=2,
        optimizer="adam",
        content_loss="neighbors",
        style_weight=2.0,
        style_layers=(("third", 1.0),),
    )
    assert result.terms.keys() == {"content", "style", "tv"}


def test_several_styles_of_weight_zero_are_left_out():
    content, given = noise(SHAPE, 1), noise((20, 24), 2)
    alone, with_other = (
        terms_of(content, given),
        terms_of(content, given, Style(noise(SHAPE, 3), 0.0)),
    )
    x = noise(SHAPE, 4)
    assert value_of(alone, x) == value_of(with_other, x)
    assert float(tf.reduce_sum(as_batch(x))) > 0
