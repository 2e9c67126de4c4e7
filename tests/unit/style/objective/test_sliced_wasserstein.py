"""The sliced Wasserstein loss against closed forms, SciPy and POT, and its terms."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_gradient, double, gradient_of, tiny_chain
from scipy import stats

from style.objective import losses, quantiles, value_and_gradient
from style.objective.quantiles import Projections
from style.synthesis import picture_terms, sliced_terms
from style.synthesis.picture_terms import Style, as_batch

LOSS = losses.sliced_wasserstein()
RANDOM = np.random.default_rng(0)
# Three directions of pictures with as many positions, and with others.
X, SAME, LESS = (RANDOM.normal(size=(3, n)) for n in (40, 40, 24))
WEIGHTS = RANDOM.uniform(0.1, 2, 40)


def loss_of(x, style, weights=None, style_weights=None) -> float:
    target = LOSS.target(Projections(double(style), style_weights))
    return float(LOSS.distance(Projections(double(x), weights), target))


def test_in_one_channel_a_shift_and_a_stretch_have_the_closed_form():
    x = np.sort(RANDOM.normal(size=(1, 200)))
    assert loss_of(x + 0.7, x) == pytest.approx(0.7**2, rel=1e-12)
    expected = np.mean((1.5 * x - x) ** 2)
    assert loss_of(1.5 * x, x) == pytest.approx(expected, rel=1e-12)


def test_each_direction_is_scipys_distance():
    # Of order 1, between values of which one picture's are all smaller: the mean difference.
    for x, style in zip(X, SAME, strict=True):
        shifted = style + 100
        root = np.sqrt(loss_of(x[None], shifted[None]))
        first_order = stats.wasserstein_distance(x, shifted)
        spread = np.std(np.sort(shifted) - np.sort(x))
        assert root == pytest.approx(np.hypot(first_order, spread), rel=1e-9)


def test_the_mean_over_directions_is_pots():
    ot = pytest.importorskip("ot", reason="POT is not installed: pip install '.[test]'")
    a, b = RANDOM.normal(size=(50, 4)), RANDOM.normal(1, 2, size=(50, 4))
    vectors = sliced_terms.unit_vectors(4, [0]).astype(np.float64)
    expected = ot.sliced_wasserstein_distance(a, b, projections=vectors.T, p=2) ** 2
    assert loss_of(vectors @ a.T, vectors @ b.T) == pytest.approx(expected, rel=1e-6)


def test_another_number_of_positions_is_interpolated():
    ranks, style_ranks = ((np.arange(n) + 0.5) / n for n in (40, 24))
    expected = [
        np.mean((np.sort(x) - np.interp(ranks, style_ranks, np.sort(style))) ** 2)
        for x, style in zip(X, LESS, strict=True)
    ]
    assert loss_of(X, LESS) == pytest.approx(np.mean(expected), rel=1e-10)


def test_weights_of_one_change_nothing_and_doubled_positions_count_twice():
    ones = np.ones(40)
    assert loss_of(X, SAME, ones, ones) == pytest.approx(loss_of(X, SAME), rel=1e-9)
    twice, weights = np.concatenate([X, X[:, :7]], axis=1), np.ones(40)
    weights[:7] = 2
    # The quantiles are those of the doubled positions but for the interpolation between them.
    assert loss_of(X, SAME, weights) == pytest.approx(loss_of(twice, SAME), rel=0.05)


def test_weighted_quantiles_are_those_of_numpy():
    target = np.asarray(LOSS.target(Projections(double(X), WEIGHTS)))
    for row, x in zip(target, X, strict=True):
        order = np.argsort(x)
        shares = WEIGHTS[order] / WEIGHTS.sum()
        expected = np.interp((np.arange(40) + 0.5) / 40, np.cumsum(shares) - shares / 2, x[order])
        np.testing.assert_allclose(row, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("style", [SAME, LESS])
def test_the_gradient_is_the_difference(style, weights):
    target = LOSS.target(Projections(double(style)))
    assert_gradient(lambda x: LOSS.distance(Projections(x, weights), target), X)


def test_it_is_zero_without_slope_at_the_target():
    target = LOSS.target(Projections(double(X)))
    slope = gradient_of(lambda x: LOSS.distance(Projections(x), target), X[:, ::-1].copy())
    assert loss_of(X[:, ::-1], X) == 0
    np.testing.assert_array_equal(slope, 0)


def test_equal_moments_do_not_hide_another_distribution():
    two_values = np.tile([-1.0, 1.0], 2000)[None]
    normal = RANDOM.normal(size=(1, 4000))
    normal = (normal - normal.mean()) / normal.std()
    assert loss_of(two_values, normal) > 0.05


def test_large_styles_keep_a_bounded_number_of_quantiles(monkeypatch):
    whole = loss_of(X, SAME)
    monkeypatch.setattr(quantiles, "QUANTILES", 10)
    assert LOSS.target(Projections(double(SAME))).shape == (3, 10)
    assert loss_of(X, SAME) == pytest.approx(whole, rel=0.5)


# Terms.


def terms_of(seed: int = 0, batch: int | None = None) -> list:
    with pytest.MonkeyPatch.context() as patch:
        if batch is not None:
            patch.setattr(sliced_terms, "BATCH", batch)
        style = np.random.default_rng(5).random((20, 16, 3), np.float32)
        return picture_terms.style_terms(
            *(tiny_chain(), [Style(style)], [("first", 1.0), ("second", 2.0)], 3.0),
            shape=(24, 18),
            loss="sliced_wasserstein",
            seed=seed,
        )


def value_of(terms) -> float:
    picture = as_batch(np.random.default_rng(6).random((24, 18, 3), np.float32))
    evaluate = value_and_gradient.make_value_and_gradient(tiny_chain(), terms, (24, 18))
    return float(evaluate(picture)[0])


def test_directions_in_batches_give_the_same_objective():
    whole, parts = terms_of(), terms_of(batch=24 * 18 * 2)
    assert (len(whole), len(parts)) == (2, 3 + 1)
    assert value_of(parts) == pytest.approx(value_of(whole), rel=1e-5)


def test_directions_are_the_seeds_and_change_with_each_draw():
    terms, again, other = terms_of(), terms_of(), terms_of(seed=1)
    assert value_of(terms) == value_of(again) != value_of(other)
    first = value_of(terms)
    terms[0].renew(1, tf.zeros((1, 24, 18, 3)))
    assert value_of(terms) != first
    terms[0].renew(0, tf.zeros((1, 24, 18, 3)))
    assert value_of(terms) == first


def test_unit_vectors_are_of_length_one_and_uniform():
    vectors = sliced_terms.unit_vectors(64, [0, 2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert vectors.shape == (64, 64) and abs(vectors.mean()) < 0.01
