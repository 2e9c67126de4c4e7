"""Sums over positions and the statistics made of them, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import activations, assert_gradient, double

from style.objective import statistics

F = activations(29, 5)
T = np.random.default_rng(1).uniform(0, 2, 29)
KINDS = {
    "first": statistics.first_sums,
    "diagonal": statistics.diagonal_sums,
    "gram": statistics.gram_sums,
    "full": statistics.full_sums,
}
each_kind = pytest.mark.parametrize("sums", KINDS.values(), ids=KINDS)


def assert_sums(found, expected, tolerance=1e-12):
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_flatten_keeps_channels_together_and_runs_along_rows():
    features = np.arange(2 * 3 * 4, dtype=np.float32).reshape(1, 2, 3, 4)
    flat = statistics.flatten(tf.constant(features)).numpy()
    assert flat.shape == (6, 4)
    np.testing.assert_array_equal(flat[1 * 3 + 2], features[0, 1, 2])


def test_mean_is_that_of_numpy():
    for sums in (statistics.first_sums, statistics.diagonal_sums, statistics.full_sums):
        np.testing.assert_allclose(statistics.mean(sums(double(F))), F.mean(0), rtol=1e-12)


def test_gram_is_the_mean_product_of_channels():
    for sums in (statistics.gram_sums, statistics.full_sums):
        found = statistics.gram(sums(double(F)))
        np.testing.assert_allclose(found, F.T @ F / len(F), rtol=1e-12)


def test_standard_deviation_is_biased_and_has_its_epsilon():
    found = statistics.standard_deviation(statistics.diagonal_sums(double(F)))
    np.testing.assert_allclose(found, np.sqrt(F.var(0) + 1e-8), rtol=1e-12)


def test_covariance_is_biased():
    found = statistics.covariance(statistics.full_sums(double(F)))
    np.testing.assert_allclose(found, np.cov(F.T, bias=True), rtol=1e-10, atol=1e-12)


def test_a_constant_channel_has_the_root_of_epsilon_as_deviation():
    for value in (0.0, 7.3):
        sums = statistics.diagonal_sums(tf.fill([50, 2], tf.constant(value, tf.float64)))
        np.testing.assert_allclose(statistics.standard_deviation(sums), 1e-4, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 123.4])
def test_a_constant_channel_in_float32_has_a_finite_deviation_and_gradient(value):
    features = tf.fill([37, 3], tf.constant(value, tf.float32))
    with tf.GradientTape() as tape:
        tape.watch(features)
        found = tf.reduce_sum(statistics.standard_deviation(statistics.diagonal_sums(features)))
    assert np.isfinite(found) and np.isfinite(tape.gradient(found, features)).all()


def test_weighted_statistics_are_those_of_a_loop_over_positions():
    weight, first, second = 0.0, np.zeros(5), np.zeros((5, 5))
    for f, t in zip(F, T, strict=True):
        weight, first = weight + t, first + t * f
        second = second + t * np.outer(f, f)
    mu = first / weight
    sigma = np.sqrt(np.diag(second) / weight - mu**2 + 1e-8)
    full = statistics.full_sums(double(F), double(T))
    np.testing.assert_allclose(statistics.mean(full), mu, rtol=1e-12)
    np.testing.assert_allclose(statistics.gram(full), second / weight, rtol=1e-12)
    covariance = second / weight - np.outer(mu, mu)
    np.testing.assert_allclose(statistics.covariance(full), covariance, rtol=1e-9, atol=1e-12)
    diagonal = statistics.diagonal_sums(double(F), double(T))
    np.testing.assert_allclose(statistics.standard_deviation(diagonal), sigma, rtol=1e-12)
    np.testing.assert_allclose(
        statistics.mean(statistics.first_sums(double(F), double(T))), mu, rtol=1e-12
    )
    gram = statistics.gram(statistics.gram_sums(double(F), double(T)))
    np.testing.assert_allclose(gram, second / weight, rtol=1e-12)


@pytest.mark.parametrize("weights", [None, T], ids=["plain", "weighted"])
def test_products_are_those_of_numpy_with_the_gradient_of_both_factors(weights):
    # Not symmetric, so that the two factors' gradients differ.
    upstream = np.random.default_rng(2).normal(size=(5, 5))
    t = np.ones(29) if weights is None else weights

    def products(f):
        return statistics.products(f, f if weights is None else f * double(t)[:, None])

    np.testing.assert_allclose(products(double(F)), F.T @ (t[:, None] * F), rtol=1e-12)
    for seed in range(3):
        assert_gradient(lambda f: tf.reduce_sum(upstream * products(f)), F, seed=seed)


@each_kind
@pytest.mark.parametrize("weights", [None, T], ids=["plain", "weighted"])
def test_the_gradient_of_sums_is_the_difference(sums, weights):
    t = None if weights is None else double(weights)
    factors = [np.random.default_rng(3).normal(size=total.shape) for total in sums(double(F), t)]

    def along(f):
        parts = zip(factors, sums(f, t), strict=True)
        return tf.add_n([tf.reduce_sum(factor * total) for factor, total in parts])

    assert_gradient(along, F)


def test_a_guide_flattens_as_the_features_of_its_part_do():
    guide = np.random.default_rng(4).random((7, 9))
    part = guide[2:5, 3:7]
    found = statistics.flatten_guide(double(guide), tf.constant([2, 3]), tf.constant([3, 4]))
    np.testing.assert_array_equal(found, statistics.flatten(double(part[None, ..., None]))[:, 0])


@each_kind
def test_weights_of_one_are_no_weights(sums):
    assert_sums(sums(double(F), double(np.ones(29))), sums(double(F)))


@each_kind
def test_weights_of_zero_and_one_restrict_to_positions(sums):
    inside = T > 1
    assert 0 < inside.sum() < 29
    assert_sums(sums(double(F), double(inside)), sums(double(F[inside])))


@each_kind
def test_sums_of_parts_add_up_to_those_of_the_whole(sums):
    for weights in (None, T):
        pick = [slice(0, 7), slice(7, 8), slice(8, 29)]
        parts = [sums(double(F[p]), None if weights is None else double(T[p])) for p in pick]
        added = [sum(part[i] for part in parts) for i in range(3)]
        assert_sums(added, sums(double(F), None if weights is None else double(T)))


def test_statistics_do_not_depend_on_the_scale_of_the_weights():
    for statistic, sums in (
        (statistics.mean, statistics.first_sums),
        (statistics.gram, statistics.gram_sums),
        (statistics.standard_deviation, statistics.diagonal_sums),
        (statistics.covariance, statistics.full_sums),
    ):
        once, more = (statistic(sums(double(F), double(c * T))) for c in (1, 40))
        np.testing.assert_allclose(once, more, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("statistic", "sums"),
    [
        (statistics.mean, statistics.first_sums),
        (statistics.gram, statistics.gram_sums),
        (statistics.standard_deviation, statistics.diagonal_sums),
        (statistics.covariance, statistics.full_sums),
    ],
)
def test_gradients_of_statistics_are_differences(statistic, sums):
    for weights in (None, double(T)):
        shape = statistic(sums(double(F))).shape
        cotangent = double(np.random.default_rng(2).normal(size=shape))

        def projected(f, weights=weights, cotangent=cotangent):
            return tf.reduce_sum(statistic(sums(f, weights)) * cotangent)

        assert_gradient(projected, F)
