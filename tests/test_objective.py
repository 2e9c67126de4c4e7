"""The objective: terms against their formulas, sums, gradients, and how deep it computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_gradient, double, draw_weights, identity_chain

from style import losses, objective
from vgg_normalize import chain

X = np.random.default_rng(0).uniform(0, 1, (1, 8, 10, 3))
OTHER = np.random.default_rng(1).uniform(0, 1, (1, 8, 10, 3))


@pytest.fixture(scope="module")
def network():
    """Three convolutions in float64, of which nothing looks at the last."""

    def convolution(filters, name):
        return keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=name, dtype="float64"
        )

    model = keras.Sequential(
        [
            keras.Input((None, None, 3), dtype="float64"),
            convolution(4, "first"),
            keras.layers.AveragePooling2D(2, dtype="float64"),
            convolution(5, "second"),
            convolution(6, "third"),
        ]
    )
    return draw_weights(model)


@pytest.fixture(scope="module")
def features(network):
    return chain.features(network, ["first", "second"])


def every_term(features, name="gram"):
    """One or more of each kind."""
    there, loss = features(double(OTHER)), losses.STYLE_LOSSES[name]()
    samples = tf.constant([3, 1, 4, 15, 9, 2, 6])
    terms = [
        objective.content_term("second", 1.5, features(double(OTHER + 0.1))["second"]),
        objective.variation_term(0.3, X.shape),
        objective.norm_term(0.02, X.shape[1:]),
    ]
    for layer, weight in (("first", 2.0), ("second", 0.7)):
        target = objective.style_target(loss, there[layer], samples=samples)
        terms.append(objective.style_term(layer, weight, loss, target, samples=samples))
    return terms


def of_term(term, features):
    return float(term.distance(term.sums(double(features))))


@pytest.mark.parametrize("name", losses.STYLE_LOSSES)
def test_the_gradient_is_the_difference_through_the_network(network, features, name):
    evaluate = objective.evaluation(network, every_term(features, name))
    assert_gradient(lambda x: evaluate(x)[0], X)
    # The function's own gradient, which does not need a tape, is the same.
    with tf.GradientTape() as tape:
        x = double(X)
        tape.watch(x)
        total = evaluate(x)[0]
    np.testing.assert_allclose(evaluate(x)[1], tape.gradient(total, x), rtol=1e-10, atol=1e-14)


def test_the_value_is_the_weighted_sum_of_the_terms(network, features):
    terms = every_term(features)
    total, _, parts = objective.evaluation(network, terms)(double(X))
    found = {**features(double(X)), "image": double(X)}
    values = [term.weight * of_term(term, found[term.layer]) for term in terms]
    assert all(value > 1e-6 for value in values)
    assert float(total) == pytest.approx(sum(values), rel=1e-12)
    assert float(sum(parts.values())) == pytest.approx(float(total), rel=1e-12)
    assert set(parts) == {"content", "tv", "norm", "style"}
    assert float(parts["style"]) == pytest.approx(values[3] + values[4], rel=1e-12)
    for kind, value in zip(("content", "tv", "norm"), values[:3], strict=True):
        assert float(parts[kind]) == pytest.approx(value, rel=1e-12)


def test_the_objective_is_the_same_in_a_graph(network, features):
    evaluate = objective.evaluation(network, every_term(features))
    eager, graph = evaluate(double(X)), tf.function(evaluate)(double(X))
    for ours, theirs in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_weights_scale_their_term_only(network, features):
    terms = every_term(features)
    before = objective.evaluation(network, terms)(double(X))[2]
    terms[0] = terms[0]._replace(weight=10 * terms[0].weight)
    after = objective.evaluation(network, terms)(double(X))[2]
    assert float(after["content"]) == pytest.approx(10 * float(before["content"]), rel=1e-12)
    for kind in ("tv", "norm", "style"):
        assert float(after[kind]) == float(before[kind])


def test_content_is_the_mean_over_positions_and_channels():
    term = objective.content_term("same", 1, double(OTHER))
    assert term.kind == "content"
    assert of_term(term, X) == pytest.approx(np.mean((X - OTHER) ** 2), rel=1e-12)
    assert of_term(term, OTHER) == 0


def test_inversion_is_relative_to_the_squared_norm():
    term = objective.inversion_term("same", 1, double(OTHER))
    expected = np.sum((X - OTHER) ** 2) / np.sum(OTHER**2)
    assert of_term(term, X) == pytest.approx(expected, rel=1e-12)
    assert of_term(term, np.zeros_like(X)) == pytest.approx(1, rel=1e-12)


def test_inversion_of_features_that_are_all_zero_is_finite():
    term = objective.inversion_term("same", 1, double(np.zeros_like(X)))
    assert of_term(term, X) == pytest.approx(np.sum(X**2), rel=1e-12)


def squared_differences(x):
    down, right = np.zeros_like(x), np.zeros_like(x)
    down[:, :-1], right[:, :, :-1] = np.diff(x, axis=1), np.diff(x, axis=2)
    return down**2 + right**2


def test_variation_is_the_mean_over_positions_and_channels():
    term = objective.variation_term(1, X.shape)
    assert (term.kind, term.layer) == ("tv", "image")
    assert of_term(term, X) == pytest.approx(np.mean(squared_differences(X)), rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
def test_bounded_variation_is_that_of_mahendran_and_vedaldi(beta):
    term = objective.bounded_variation_term(1, X.shape[1:], beta)
    scaled = squared_differences(255 * X) / (80 / 6.5) ** 2
    expected = np.sum(scaled ** (beta / 2)) / (8 * 10)
    assert of_term(term, X) == pytest.approx(expected, rel=1e-5)


def test_the_norm_is_that_of_mahendran_and_vedaldi():
    term = objective.norm_term(1, X.shape[1:])
    assert (term.kind, term.layer) == ("norm", "image")
    centred = 255 * X - np.array([123.68, 116.779, 103.939])
    expected = np.sum(np.sum(centred**2, -1) ** 3) / 80**6 / (8 * 10)
    assert of_term(term, X) == pytest.approx(expected, rel=1e-5)


def test_a_term_s_sums_of_parts_make_its_value_for_the_whole():
    loss = losses.gram()
    terms = [
        objective.norm_term(1, X.shape[1:]),
        objective.style_term("same", 1, loss, objective.style_target(loss, double(OTHER))),
    ]
    for term in terms:
        parts = [term.sums(double(X[:, rows])) for rows in (slice(0, 3), slice(3, 8))]
        added = tf.nest.map_structure(tf.add, *parts)
        assert float(term.distance(added)) == pytest.approx(of_term(term, X), rel=1e-12)
    content = objective.content_term("same", 1, double(OTHER))
    pick = (slice(0, 5), slice(5, 8))
    parts = [losses.squared_error(double(X[:, rows]), double(OTHER[:, rows])) for rows in pick]
    assert float(content.distance(sum(parts))) == pytest.approx(of_term(content, X), rel=1e-12)


def test_style_terms_know_guides_and_samples():
    random = np.random.default_rng(2)
    inside, inside_style = random.random(80) > 0.5, random.random(80) > 0.5

    def only(x, chosen):
        return x.reshape(-1, 3)[chosen][None, None]

    for name in losses.STYLE_LOSSES:
        loss = losses.STYLE_LOSSES[name]()
        plain = objective.style_target(loss, double(only(OTHER, inside_style)))
        expected = of_term(objective.style_term("a", 1, loss, plain), only(X, inside))
        how, how_style = (
            {"samples": tf.constant(np.flatnonzero(chosen))}
            if loss.sampled
            else {"guide": double(chosen)}
            for chosen in (inside, inside_style)
        )
        target = objective.style_target(loss, double(OTHER), **how_style)
        found = of_term(objective.style_term("a", 1, loss, target, **how), X)
        assert found == pytest.approx(expected, rel=1e-9), name


def test_features_are_computed_no_deeper_than_needed(network):
    terms = [objective.content_term("first", 1, double(np.zeros((1, 8, 10, 4))))]
    graph = tf.function(objective.extractor(network, terms)).get_concrete_function(double(X)).graph
    assert sum(op.type == "Conv2D" for op in graph.get_operations()) == 1
    features = objective.extractor(network, terms)(double(X))
    assert set(features) == {"first", "image"}
    assert features["image"].shape == X.shape


def test_terms_of_the_picture_alone_need_no_network():
    terms = [objective.variation_term(2.0, X.shape), objective.variation_term(1.0, X.shape)]
    total, gradient, parts = objective.evaluation(None, terms)(double(X))
    assert float(total) == pytest.approx(3 * np.mean(squared_differences(X)), rel=1e-12)
    assert set(parts) == {"tv"} and gradient.shape == X.shape


def test_the_objective_is_zero_with_no_slope_where_everything_fits():
    x = np.float32(X)
    loss = losses.gram()
    terms = [
        objective.content_term("same", 1, tf.constant(x)),
        objective.style_term("same", 5, loss, objective.style_target(loss, tf.constant(x))),
    ]
    total, gradient, _ = objective.evaluation(identity_chain(), terms)(tf.constant(x))
    assert float(total) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_an_identity_network_has_the_gradient_of_the_formula():
    terms = [objective.content_term("same", 3, tf.constant(OTHER, tf.float32))]
    _, gradient, _ = objective.evaluation(identity_chain(), terms)(tf.constant(X, tf.float32))
    np.testing.assert_allclose(gradient, 3 * 2 * (X - OTHER) / X.size, atol=1e-8)
