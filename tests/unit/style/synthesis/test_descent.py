"""The tasks as terms, first pictures, sizes, and the loop over steps."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from helpers import picture, small_vgg, tiny_chain, whole

import vgg_normalize as vn
from style.objective import tiling, value_and_gradient
from style.objective.losses import SAMPLES, STYLE_LOSSES
from style.optimizers.history import InMemoryHistory
from style.synthesis import descent, inputs, picture_terms, sizes
from style.synthesis.picture_terms import Style
from style.synthesis.sliced_terms import ComparedLayer
from vgg_normalize.errors import ImagesError, UsageError

LAYERS = [("first", 1.0), ("second", 2.0)]
SHAPE = (24, 30)
FIRST = picture(*SHAPE, seed=1).astype(np.float32) / 255
SECOND = picture(26, 20, seed=2).astype(np.float32) / 255
RESULT = picture(*SHAPE, seed=3).astype(np.float32) / 255


@pytest.fixture(scope="module")
def model():
    return tiny_chain()


def evaluator(model, terms):
    """The objective, whose content is the first picture."""
    return value_and_gradient.make_value_and_gradient(
        model, terms, SHAPE, content=picture_terms.as_batch(FIRST)
    )


def features_of(model, pixels) -> dict[str, np.ndarray]:
    found = vn.features(model, [name for name, _ in LAYERS])(pixels[None])
    return {name: feature.numpy() for name, feature in found.items()}


def evaluated(model, terms, pixels=RESULT) -> tuple[float, np.ndarray, dict]:
    """Objective, gradient and the parts of it, at a picture."""
    evaluate = evaluator(model, terms)
    value, gradient, parts = evaluate(picture_terms.as_batch(pixels))
    return float(value), gradient.numpy()[0], {k: float(v) for k, v in parts.items()}


def style_terms(model, *styles, loss="gram", layers=LAYERS, weight=3.0, shape=SHAPE, seed=0):
    return picture_terms.style_terms(
        model, styles, layers, weight, shape=shape, loss=loss, seed=seed
    )


# Sizes and first pictures.


@pytest.mark.parametrize(
    ("shape", "scales", "least", "expected"),
    [
        ((64, 48), 1, 4, [(64, 48)]),
        ((64, 48), 3, 4, [(16, 12), (32, 24), (64, 48)]),
        ((64, 48), 3, 20, [(32, 24), (64, 48)]),
        ((63, 31), 2, 4, [(32, 16), (63, 31)]),
        ((10, 10), 2, 32, [(10, 10)]),
    ],
)
def test_sizes_double_up_to_the_whole_picture(shape, scales, least, expected):
    assert sizes.coarse_to_fine(shape, scales, least) == expected


def test_sizes_grow_by_any_factor_and_in_steps():
    roots = sizes.coarse_to_fine((256, 128), 3, 8, factor=2**0.5)
    assert roots == [(128, 64), (181, 91), (256, 128)]
    assert sizes.coarse_to_fine((96, 48), 2, 4, multiple=16) == [(48, 32), (96, 48)]


@pytest.mark.parametrize(
    ("coarse", "count", "expected"),
    [
        ((), 3, [7, 7, 7]),
        ((600, 200), 4, [600, 200, 200, 7]),
        ((600, 200), 2, [600, 7]),
        ((9,), 1, [7]),
    ],
)
def test_each_size_has_its_steps(coarse, count, expected):
    assert sizes.steps_by_size(7, coarse, count) == expected


def test_noise_is_fixed_by_its_seed_and_grey_on_average():
    noise = inputs.noise((40, 50), 3)
    assert noise.shape == (40, 50, 3) and noise.dtype == np.float32
    np.testing.assert_array_equal(noise, inputs.noise((40, 50), 3))
    assert np.abs(noise - inputs.noise((40, 50), 4)).mean() > 0.1
    np.testing.assert_allclose(noise.mean((0, 1)), 0.5, atol=0.02)
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)]).max() < 0.1


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("shape", [(32, 32), (47, 33), (35, 50)])
def test_sizes_of_features_are_those_of_real_features(monkeypatch, pooling, shape):
    small_vgg(monkeypatch)
    model = vn.build("vgg19", weights="random", pooling=pooling)
    names = [f"block{block}_conv1" for block in range(1, 6)]
    found = vn.features(model, names)(np.zeros((1, *shape, 3), np.float32))
    expected = {name: tuple(found[name].shape[1:]) for name in names}
    assert tiling.layer_shapes(model, names, shape) == {**expected, "image": (*shape, 3)}


# Content and inversion.


def test_content_is_the_weighted_mean_squared_difference(model):
    terms = picture_terms.content_terms(model, LAYERS, 5.0, shape=SHAPE)
    value, gradient, parts = evaluated(model, terms)
    ours, theirs = features_of(model, RESULT), features_of(model, FIRST)
    expected = 5 * sum(w * np.mean((ours[name] - theirs[name]) ** 2) for name, w in LAYERS)
    assert value == pytest.approx(expected, rel=1e-5) and parts == {"content": value}
    assert np.abs(gradient).max() > 0
    assert evaluated(model, terms, FIRST)[0] == pytest.approx(0, abs=1e-10)


def test_inversion_is_relative_to_the_features_norm(model):
    terms = picture_terms.inversion_terms(model, FIRST, "second", 2.0)
    ours, theirs = (features_of(model, pixels)["second"] for pixels in (RESULT, FIRST))
    expected = 2 * np.sum((ours - theirs) ** 2) / np.sum(theirs**2)
    assert evaluated(model, terms)[0] == pytest.approx(expected, rel=1e-5)
    assert evaluated(model, terms, FIRST)[0] == pytest.approx(0, abs=1e-10)


def test_terms_of_weight_zero_are_left_out(model):
    assert picture_terms.content_terms(model, LAYERS, 0.0, shape=SHAPE) == []
    some = picture_terms.content_terms(model, [("first", 0.0), LAYERS[1]], 1.0, shape=SHAPE)
    assert [term.layer for term in some] == ["second"]
    assert style_terms(model, Style(FIRST), weight=0.0) == []
    assert len(style_terms(model, Style(FIRST), Style(SECOND, 0.0))) == len(LAYERS)


# Style.


@pytest.mark.parametrize("loss", [name for name in STYLE_LOSSES if name != "mmd_gaussian"])
def test_a_style_costs_nothing_at_itself_and_something_elsewhere(model, loss):
    terms = style_terms(model, Style(FIRST), loss=loss)
    away, at = evaluated(model, terms)[0], evaluated(model, terms, FIRST)[0]
    assert away > 1e-4
    assert abs(at) <= 1e-6 * away


def test_the_gaussian_kernel_costs_much_less_at_the_style_itself(model):
    terms = style_terms(model, Style(FIRST), loss="mmd_gaussian")
    assert 0 <= evaluated(model, terms, FIRST)[0] < 0.3 * evaluated(model, terms)[0]


def test_gram_is_the_weighted_mean_over_entries(model):
    expected = 0.0
    for name, weight in LAYERS:
        grams = []
        for pixels in (RESULT, SECOND):
            f = features_of(model, pixels)[name]
            f = f.reshape(-1, f.shape[-1]).astype(float)
            grams.append(f.T @ f / len(f))
        expected += 3 * weight * np.mean((grams[0] - grams[1]) ** 2)
    value, _, parts = evaluated(model, style_terms(model, Style(SECOND)))
    assert value == pytest.approx(expected, rel=1e-4) and parts == {"style": value}


@pytest.mark.parametrize("loss", ["gram", "mmd_gaussian", "wasserstein"])
def test_a_blend_of_one_and_nothing_is_the_first_style(model, loss):
    blend = style_terms(model, Style(FIRST, 1.0), Style(SECOND, 0.0), loss=loss)
    alone = style_terms(model, Style(FIRST, 1.0), loss=loss)
    assert evaluated(model, blend)[0] == evaluated(model, alone)[0]


def test_a_blend_is_the_weighted_mean_of_its_styles(model):
    first, second = (evaluated(model, style_terms(model, Style(s)))[0] for s in (FIRST, SECOND))
    blend = evaluated(model, style_terms(model, Style(FIRST, 1.0), Style(SECOND, 3.0)))[0]
    assert blend == pytest.approx((first + 3 * second) / 4, rel=1e-5)


def test_sampled_positions_are_fixed_by_the_seed(model):
    values = [
        evaluated(model, style_terms(model, Style(SECOND), loss="mmd_gaussian", seed=seed))
        for seed in (1, 1, 2)
    ]
    assert values[0][0] == values[1][0]
    np.testing.assert_array_equal(values[0][1], values[1][1])
    assert values[0][0] != values[2][0]


def test_an_unknown_loss_is_refused_with_the_list(model):
    with pytest.raises(UsageError, match="gram.*'nothing'"):
        style_terms(model, Style(FIRST), loss="nothing")


# Masks.


def left(shape, columns: int) -> np.ndarray:
    mask = np.zeros(shape, np.float32)
    mask[:, :columns] = 1
    return mask


def test_a_mask_at_a_layer_is_the_mean_over_what_a_position_covers():
    mask = left((4, 6), 3)
    np.testing.assert_allclose(picture_terms.mask_for(mask, (2, 3)), [[1, 0.5, 0]] * 2)
    np.testing.assert_array_equal(picture_terms.mask_for(mask, (4, 6)), mask)


@pytest.mark.parametrize("loss", list(STYLE_LOSSES))
def test_a_style_with_its_place_pulls_only_there(model, loss):
    terms = style_terms(model, Style(SECOND, content_mask=left(SHAPE, 10)), loss=loss)
    _, gradient, _ = evaluated(model, terms)
    assert np.abs(gradient[:, :10]).max() > 0
    # "second" sees 4 pixels beyond: 1 position of 2 pixels, 1 pixel of "first", and rounding.
    np.testing.assert_array_equal(gradient[:, 14:], 0)


def test_a_place_that_is_everywhere_is_no_place(model):
    everywhere = Style(SECOND, mask=np.ones(SECOND.shape[:2]), content_mask=np.ones(SHAPE))
    masked, plain = (
        evaluated(model, style_terms(model, s))[0] for s in (everywhere, Style(SECOND))
    )
    assert masked == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("loss", list(STYLE_LOSSES))
def test_a_style_mask_hides_the_rest_of_the_style(model, loss):
    mask, changed = left(SECOND.shape[:2], 8), SECOND.copy()
    changed[:, 12:] = 1 - changed[:, 12:]
    found = [
        evaluated(model, style_terms(model, Style(s, mask=m), loss=loss))[0]
        for s, m in ((SECOND, mask), (changed, mask), (SECOND, None))
    ]
    assert found[0] == found[1] != found[2]


def test_each_style_has_its_own_half(model):
    halves = left(SHAPE, 16), 1 - left(SHAPE, 16)
    layers = [("first", 1.0)]
    both = style_terms(
        model,
        *(Style(s, content_mask=p) for s, p in zip((FIRST, SECOND), halves, strict=True)),
        layers=layers,
    )
    one = style_terms(model, Style(FIRST, content_mask=halves[0]), layers=layers)
    gradients = [evaluated(model, terms)[1] for terms in (both, one)]
    np.testing.assert_allclose(gradients[0][:, :14], gradients[1][:, :14] / 2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("loss", ["gram", "mmd_gaussian"])
def test_a_mask_that_leaves_nothing_is_refused(model, loss):
    with pytest.raises(ImagesError, match="empty"):
        style_terms(model, Style(FIRST, content_mask=np.zeros(SHAPE)), loss=loss)


def test_fewer_positions_than_samples_are_drawn_again(model):
    assert SHAPE[0] * SHAPE[1] // 4 < SAMPLES
    random = np.random.Generator(np.random.PCG64(0))
    mask = left(SHAPE, 4).astype(np.float64)
    layer = ComparedLayer("image", 1.0, (*SHAPE, 2), (*SHAPE, 2), mask, mask)
    sums, _ = picture_terms._sampled_sums(STYLE_LOSSES["mmd_gaussian"](), layer, random)
    # Features that say where they are.
    places = np.stack(np.indices(SHAPE), axis=-1)[None]
    samples = sums(whole(tf.constant(places, tf.float32))).numpy()
    assert samples.shape == (SAMPLES, 2)
    assert (samples[:, 1] < 4).all()
    assert len(np.unique(samples, axis=0)) <= 4 * SHAPE[0]


# Steps.


@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_texture_from_noise_loses_almost_all_of_its_loss(model, name):
    terms = style_terms(model, Style(FIRST))
    method = descent.make_optimizer(
        name, evaluator(model, terms), SHAPE, history=InMemoryHistory(5), learning_rate=0.03
    )
    start = picture_terms.as_batch(inputs.noise(SHAPE, 0))
    values = [float(state.value) for state in descent.minimize(method, start, 80)]
    assert values[-1] < 0.02 * values[0]


def test_steps_are_yielded_once_each_and_end_with_the_evaluations(model):
    terms = style_terms(model, Style(FIRST))
    method = descent.make_optimizer("adam", evaluator(model, terms), SHAPE)
    states = list(descent.minimize(method, picture_terms.as_batch(RESULT), 5))
    assert [int(state.steps) for state in states] == [0, 1, 2, 3, 4]
    assert [int(state.evaluations) for state in states] == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lbfgs", "adam"])
def test_going_on_from_a_state_gives_the_same_bits(model, name):
    evaluate = evaluator(model, style_terms(model, Style(FIRST)))
    method = descent.make_optimizer(name, evaluate, SHAPE, history=InMemoryHistory(3))
    start = picture_terms.as_batch(RESULT)
    whole = list(descent.minimize(method, start, 9))
    middle = whole[4]
    after = list(descent.minimize(method, start, 9, state=middle))
    assert int(after[0].steps) == int(middle.steps)
    np.testing.assert_array_equal(after[-1].x, whole[-1].x)


def test_nothing_to_gain_ends_at_once_where_it_began(model):
    terms = picture_terms.content_terms(model, LAYERS, 1.0, shape=SHAPE)
    method = descent.make_optimizer(
        "lbfgs", evaluator(model, terms), SHAPE, history=InMemoryHistory(2)
    )
    states = list(descent.minimize(method, picture_terms.as_batch(FIRST), 50))
    np.testing.assert_array_equal(states[-1].x[0], FIRST)
    assert bool(states[-1].finite) and int(states[-1].evaluations) == 1


def test_an_objective_that_becomes_infinite_ends_with_the_last_good_picture(model):
    def evaluate(x):
        value = tf.reduce_sum(tf.sqrt(x - 0.2))  # not a number below 0.2
        return value, 0.5 / tf.sqrt(x - 0.2), {"content": value}

    method = descent.make_optimizer("adam", evaluate, (4, 4), learning_rate=0.04)
    *_, last = descent.minimize(method, tf.fill((1, 4, 4, 3), 0.3), 50)
    assert not bool(last.finite) and int(last.steps) >= 1
    assert np.isfinite(last.x).all() and np.isfinite(last.value)


def test_an_unknown_optimizer_is_refused(model):
    with pytest.raises(UsageError, match="lbfgs or adam.*'sgd'"):
        descent.make_optimizer("sgd", lambda x: (x, x, {}), SHAPE)


def test_many_tracings_do_not_make_tensorflow_warn(model, caplog):
    terms = style_terms(model, *(Style(FIRST) for _ in range(8)))
    for _ in range(8):  # as the pictures of a sheet
        method = descent.make_optimizer("adam", evaluator(model, terms[:1]), SHAPE)
        list(descent.minimize(method, picture_terms.as_batch(RESULT), 1))
    assert "retracing" not in caplog.text


def test_weights_of_the_network_stay_as_they_were(model):
    untouched = tiny_chain()
    terms = style_terms(model, Style(FIRST))
    method = descent.make_optimizer(
        "lbfgs", evaluator(model, terms), SHAPE, history=InMemoryHistory(2)
    )
    list(descent.minimize(method, picture_terms.as_batch(RESULT), 3))
    for ours, theirs in zip(model.weights, untouched.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
