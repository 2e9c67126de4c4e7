"""The objective: terms against their formulas, sums, gradients, and how deep it computes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import assert_gradient, double, draw_weights, identity_chain, whole

from style.objective import losses, tiling, value_and_gradient
from style.objective import terms as objective
from vgg_normalize.networks import chain

# Of functions of sums.
NAMES = [name for name, make in losses.STYLE_LOSSES.items() if not make().projected]
X = np.random.default_rng(0).uniform(0, 1, (1, 8, 10, 3))
OTHER = np.random.default_rng(1).uniform(0, 1, (1, 8, 10, 3))
CONTENT = OTHER + 0.1


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
    terms = [
        objective.content_term("second", 1.5, (4, 5, 5)),
        objective.tv_term(0.3, X.shape),
        objective.norm_term(0.02, X.shape[1:]),
    ]
    for layer, weight in (("first", 2.0), ("second", 0.7)):
        positions = np.unravel_index([3, 1, 4, 15, 9, 2, 6], there[layer].shape[1:3])
        sums = objective.style_sums(loss, samples=tf.constant(np.transpose(positions), tf.int32))
        target = loss.target(sums(whole(there[layer])))
        terms.append(objective.style_term(layer, weight, loss, sums, target))
    return terms


def of_term(term, features, reference=None):
    reference = None if reference is None else double(reference)
    return float(term.distance(term.sums(whole(double(features), reference))))


def evaluation_of(network, terms, content=CONTENT):
    return value_and_gradient.make_value_and_gradient(
        network, terms, X.shape[1:3], content=double(content)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_difference_through_the_network(network, features, name):
    evaluate = evaluation_of(network, every_term(features, name))
    assert_gradient(lambda x: evaluate(x)[0], X)
    # The function's own gradient, which does not need a tape, is the same.
    with tf.GradientTape() as tape:
        x = double(X)
        tape.watch(x)
        total = evaluate(x)[0]
    np.testing.assert_allclose(evaluate(x)[1], tape.gradient(total, x), rtol=1e-10, atol=1e-14)


def test_the_value_is_the_weighted_sum_of_the_terms(network, features):
    terms = every_term(features)
    total, _, parts = evaluation_of(network, terms)(double(X))
    found = {**features(double(X)), "image": double(X)}
    content = {**features(double(CONTENT)), "image": double(CONTENT)}
    values = [term.weight * of_term(term, found[term.layer], content[term.layer]) for term in terms]
    assert all(value > 1e-6 for value in values)
    assert float(total) == pytest.approx(sum(values), rel=1e-12)
    assert float(sum(parts.values())) == pytest.approx(float(total), rel=1e-12)
    assert set(parts) == {"content", "tv", "norm", "style"}
    assert float(parts["style"]) == pytest.approx(values[3] + values[4], rel=1e-12)
    for kind, value in zip(("content", "tv", "norm"), values[:3], strict=True):
        assert float(parts[kind]) == pytest.approx(value, rel=1e-12)


@pytest.mark.slow
def test_the_objective_is_the_same_in_a_graph(network, features):
    evaluate = evaluation_of(network, every_term(features))
    eager, graph = evaluate(double(X)), tf.function(evaluate)(double(X))
    for ours, theirs in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_weights_scale_their_term_only(network, features):
    terms = every_term(features)
    before = evaluation_of(network, terms)(double(X))[2]
    terms[0] = terms[0]._replace(weight=10 * terms[0].weight)
    after = evaluation_of(network, terms)(double(X))[2]
    assert float(after["content"]) == pytest.approx(10 * float(before["content"]), rel=1e-12)
    for kind in ("tv", "norm", "style"):
        assert float(after[kind]) == float(before[kind])


def test_content_is_the_mean_over_positions_and_channels():
    term = objective.content_term("same", 1, X.shape[1:])
    assert term.kind == "content"
    assert of_term(term, X, OTHER) == pytest.approx(np.mean((X - OTHER) ** 2), rel=1e-12)
    assert of_term(term, OTHER, OTHER) == 0


def test_inversion_is_relative_to_the_squared_norm():
    term = objective.inversion_term("same", 1, np.sum(OTHER**2))
    expected = np.sum((X - OTHER) ** 2) / np.sum(OTHER**2)
    assert of_term(term, X, OTHER) == pytest.approx(expected, rel=1e-12)
    assert of_term(term, np.zeros_like(X), OTHER) == pytest.approx(1, rel=1e-12)


def test_inversion_of_features_that_are_all_zero_is_finite():
    term = objective.inversion_term("same", 1, 0.0)
    assert of_term(term, X, np.zeros_like(X)) == pytest.approx(np.sum(X**2), rel=1e-12)


def test_the_range_is_the_mean_over_positions_and_channels():
    term = objective.range_term(1, X.shape[1:])
    assert (term.kind, term.layer) == ("range", "image")
    wide = 3 * X - 1
    expected = np.mean((wide - wide.clip(0, 1)) ** 2)
    assert of_term(term, wide) == pytest.approx(expected, rel=1e-12)
    assert expected > 0.01 and of_term(term, X.clip(0, 1)) == 0


def squared_differences(x):
    down, right = np.zeros_like(x), np.zeros_like(x)
    down[:, :-1], right[:, :, :-1] = np.diff(x, axis=1), np.diff(x, axis=2)
    return down**2 + right**2


def test_variation_is_the_mean_over_positions_and_channels():
    term = objective.tv_term(1, X.shape)
    assert (term.kind, term.layer) == ("tv", "image")
    assert of_term(term, X) == pytest.approx(np.mean(squared_differences(X)), rel=1e-12)


@pytest.mark.parametrize("beta", [1.0, 2.0, 2.5])
def test_bounded_variation_is_that_of_mahendran_and_vedaldi(beta):
    term = objective.normalized_tv_term(1, X.shape[1:], beta)
    scaled = squared_differences(255 * X) / (80 / 6.5) ** 2
    expected = np.sum(scaled ** (beta / 2)) / (8 * 10)
    assert of_term(term, X) == pytest.approx(expected, rel=1e-5)


def test_the_norm_is_that_of_mahendran_and_vedaldi():
    term = objective.norm_term(1, X.shape[1:])
    assert (term.kind, term.layer) == ("norm", "image")
    centred = 255 * X - np.array([123.68, 116.779, 103.939])
    expected = np.sum(np.sum(centred**2, -1) ** 3) / 80**6 / (8 * 10)
    assert of_term(term, X) == pytest.approx(expected, rel=1e-5)


def rows(start, stop):
    """These rows of X as a part, to be compared with those of OTHER."""
    features, reference = double(X[:, start:stop]), double(OTHER[:, start:stop])
    origin, size = tf.constant([start, 0]), tf.constant([stop - start, X.shape[2]])
    return tiling.TileFeatures(features, reference, origin, size, double(X[:, start : stop + 1]))


def test_a_term_s_sums_of_parts_make_its_value_for_the_whole():
    loss = losses.gram()
    gaussian, samples = losses.mmd_gaussian(), tf.constant([[0, 3], [2, 9], [3, 0], [7, 7]])
    guide = double(np.random.default_rng(3).random((8, 10)))
    styles = []
    for of, options in ((loss, {}), (loss, {"guide": guide}), (gaussian, {"samples": samples})):
        sums = objective.style_sums(of, **options)
        target = of.target(sums(whole(double(OTHER))))
        styles.append(objective.style_term("same", 1, of, sums, target))
    terms = [
        *styles,
        objective.content_term("same", 1, X.shape[1:]),
        objective.norm_term(1, X.shape[1:]),
        objective.tv_term(1, X.shape, 1.5),
        objective.normalized_tv_term(1, X.shape[1:], 2.0),
    ]
    for term in terms:
        parts = [term.sums(rows(0, 3)), term.sums(rows(3, 8))]
        added = tf.nest.map_structure(tf.add, *parts)
        expected = of_term(term, X, OTHER)
        assert expected > 1e-6
        assert float(term.distance(added)) == pytest.approx(expected, rel=1e-12)


def test_linear_terms_of_parts_add_up_to_the_whole_s():
    terms = [
        objective.content_term("same", 1, X.shape[1:]),
        objective.inversion_term("same", 1, 7.0),
        objective.tv_term(1, X.shape, 1.5),
        objective.normalized_tv_term(1, X.shape[1:], 2.0),
        objective.norm_term(1, X.shape[1:]),
    ]
    for term in terms:
        assert term.linear and term.compares == (term.kind == "content")
        parts = (term.sums(rows(0, 3)), term.sums(rows(3, 8)))
        found = sum(float(term.distance(part)) for part in parts)
        assert found == pytest.approx(of_term(term, X, OTHER), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_sums_over_many_positions_are_exact(name):
    loss = losses.STYLE_LOSSES[name]()
    sums = objective.style_sums(loss, samples=tf.constant([[0, 0], [3, 9]]))
    found = sums(whole(tf.constant(X, tf.float32)))
    wanted = tf.float32 if loss.sampled else tf.float64
    assert {total.dtype for total in tf.nest.flatten(found)} == {wanted}


def test_style_terms_know_guides_and_samples():
    random = np.random.default_rng(2)
    inside, inside_style = random.random(80) > 0.5, random.random(80) > 0.5

    def only(x, chosen):
        return x.reshape(-1, 3)[chosen][None, None]

    def every(x):
        return tf.constant(list(np.ndindex(x.shape[1:3])), tf.int32)

    for name in NAMES:
        loss = losses.STYLE_LOSSES[name]()
        picked, picked_style = only(X, inside), only(OTHER, inside_style)
        everywhere, theirs = (
            objective.style_sums(loss, samples=every(pixels)) for pixels in (picked, picked_style)
        )
        plain = loss.target(theirs(whole(double(picked_style))))
        expected = of_term(objective.style_term("a", 1, loss, everywhere, plain), picked)
        ours, theirs = (
            objective.style_sums(loss, samples=tf.constant(np.argwhere(chosen), tf.int32))
            if loss.sampled
            else objective.style_sums(loss, guide=double(chosen))
            for chosen in (inside.reshape(8, 10), inside_style.reshape(8, 10))
        )
        target = loss.target(theirs(whole(double(OTHER))))
        found = of_term(objective.style_term("a", 1, loss, ours, target), X)
        assert found == pytest.approx(expected, rel=1e-9), name


@pytest.mark.parametrize("kernels", [None, {}], ids=["layers", "kernels"])
def test_features_are_computed_no_deeper_than_needed(network, kernels):
    extractor = value_and_gradient.feature_extractor(network, ["first"], kernels=kernels)
    graph = tf.function(extractor).get_concrete_function(double(X)).graph
    assert sum(op.type == "Conv2D" for op in graph.get_operations()) == 1
    features = extractor(double(X))
    assert set(features) == {"first", "image"}
    assert features["image"].shape == X.shape


def test_features_are_those_of_the_network(network, features):
    names = ["second", "image", "first", "second"]
    found = value_and_gradient.feature_extractor(network, names)(double(X))
    expected = {**features(double(X)), "image": X}
    assert set(found) == set(expected)
    for name, feature in expected.items():
        np.testing.assert_array_equal(found[name], feature)


def test_terms_of_the_picture_alone_need_no_network():
    terms = [objective.tv_term(2.0, X.shape), objective.tv_term(1.0, X.shape)]
    total, gradient, parts = evaluation_of(None, terms)(double(X))
    assert float(total) == pytest.approx(3 * np.mean(squared_differences(X)), rel=1e-12)
    assert set(parts) == {"tv"} and gradient.shape == X.shape


def identity_evaluation(terms, content):
    content = tf.constant(content, tf.float32)
    return value_and_gradient.make_value_and_gradient(
        identity_chain(), terms, X.shape[1:3], content=content
    )


def test_the_objective_is_zero_with_no_slope_where_everything_fits():
    x = np.float32(X)
    loss = losses.gram()
    sums = objective.style_sums(loss)
    terms = [
        objective.content_term("same", 1, x.shape[1:]),
        objective.style_term("same", 5, loss, sums, loss.target(sums(whole(tf.constant(x))))),
    ]
    total, gradient, _ = identity_evaluation(terms, x)(tf.constant(x))
    assert float(total) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_an_identity_network_has_the_gradient_of_the_formula():
    terms = [objective.content_term("same", 3, X.shape[1:])]
    _, gradient, _ = identity_evaluation(terms, OTHER)(tf.constant(X, tf.float32))
    np.testing.assert_allclose(gradient, 3 * 2 * (X - OTHER) / X.size, atol=1e-8)
