"""Channel means and their errors, against NumPy in float64, closed forms and simulation."""

from __future__ import annotations

from functools import reduce
from operator import add

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import identity_chain, images, tiny_chain
from numpy.lib.stride_tricks import sliding_window_view

from vgg_normalize import channel_sums, means
from vgg_normalize.channel_sums import Sums
from vgg_normalize.errors import NetworkError

CHANNELS = {"a": 3, "b": 2}


def convolved(image, layer):
    """ReLU of a convolution with zero padding, in float64."""
    kernel, bias = (weight.astype(np.float64) for weight in layer.get_weights())
    around = kernel.shape[0] // 2
    padded = np.pad(image, ((around, around), (around, around), (0, 0)))
    windows = sliding_window_view(padded, kernel.shape[:2], axis=(0, 1))
    return np.maximum(np.einsum("yxcij,ijcd->yxd", windows, kernel) + bias, 0)


def by_numpy(model, batches):
    """Activations of both layers of `tiny_chain`, image by image: {name: [positions, C] each}."""
    first, second = model.get_layer("first"), model.get_layer("second")
    found = {"first": [], "second": []}
    for image in (image for batch in batches for image in batch.astype(np.float64)):
        one = convolved(image, first)
        height, width = one.shape[0] // 2, one.shape[1] // 2
        blocks = one[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1)
        found["first"].append(one.reshape(-1, one.shape[-1]))
        found["second"].append(convolved(blocks.max((1, 3)), second).reshape(-1, 7))
    return found


def random_sums(images, seed=0, channels=CHANNELS):
    """The sums of each of so many images, whose sizes differ and go with their activations."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        n = random.integers(5, 20, len(channels)).astype(float)
        rate = random.gamma(4, 1, sum(channels.values())) * (1 + n[0] / 20)
        s = rate * np.repeat(n, list(channels.values()))
        found.append((s[None], n))
    return found


def total(parts, channels=CHANNELS):
    parts = (Sums.from_batch(s, n, channels) for s, n in parts)
    return reduce(add, parts, Sums.zeros(channels))


def table(parts):
    """s [images, T] and n [images, T], each channel with the positions of its layer."""
    widths = list(CHANNELS.values())
    return np.concatenate([s for s, _ in parts]), np.array([np.repeat(n, widths) for _, n in parts])


def close(one, other, tolerance):
    for mine, its in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, its, rtol=tolerance)


def test_the_means_are_those_of_plain_numpy_also_for_a_last_partial_batch():
    model = tiny_chain()
    whole = images(7, 9, 12)
    batches = [whole[:3], whole[3:6], whole[6:]]
    found = channel_sums.channel_means(model, batches)
    assert found.images == 7
    for layer, parts in by_numpy(model, batches).items():
        pooled = np.concatenate(parts)
        assert found.positions[layer] == len(pooled)
        np.testing.assert_allclose(found.mean[layer], pooled.mean(0), rtol=1e-5)


def test_images_of_different_sizes_count_by_their_positions():
    model = tiny_chain()
    batches = [images(2, 8, 8), images(1, 20, 31, seed=1), images(3, 9, 5, seed=2)]
    found = channel_sums.channel_means(model, batches)
    for layer, parts in by_numpy(model, batches).items():
        pooled = np.concatenate(parts).mean(0)
        assert found.positions[layer] == sum(map(len, parts))
        np.testing.assert_allclose(found.mean[layer], pooled, rtol=1e-5)
        assert np.abs(found.mean[layer] - np.mean([p.mean(0) for p in parts], 0)).max() > 1e-3


def test_case_30_the_batch_size_does_not_matter_end_to_end():
    model, whole = tiny_chain(), images(7, 16, 16)
    one = channel_sums.channel_means(model, [whole])
    for size in (1, 2, 3, 8):
        batches = [whole[i : i + size] for i in range(0, 7, size)]
        other = channel_sums.channel_means(model, batches)
        for layer in one.mean:
            np.testing.assert_allclose(other.mean[layer], one.mean[layer], rtol=1e-5)
            np.testing.assert_allclose(
                other.standard_error[layer], one.standard_error[layer], rtol=1e-4
            )


def test_the_sums_of_an_image_have_the_same_bits_whatever_else_is_in_its_batch():
    random = np.random.default_rng(0)
    whole = [
        tf.constant(random.random((7, *shape), np.float32)) for shape in [(33, 20, 5), (8, 8, 64)]
    ]
    step = tf.function(lambda *a: channel_sums.image_sums(a), reduce_retracing=True)
    s, n = step(*whole)
    assert s.dtype == tf.float64 and n.numpy().tolist() == [660, 64]
    for size in (1, 2, 3, 5):
        for start in range(0, 7, size):
            part, _ = step(*(a[start : start + size] for a in whole))
            assert np.array_equal(part, s[start : start + size])


def test_the_sum_of_an_image_is_that_of_float64():
    random = np.random.default_rng(0)
    activation = random.gamma(0.3, 5, (3, 112, 112, 4)).astype(np.float32)
    s, _ = channel_sums.image_sums([tf.constant(activation)])
    np.testing.assert_allclose(s, activation.sum((1, 2), dtype=np.float64), rtol=1e-6)


def test_a_dense_layer_has_one_position():
    activation = images(4, 1, 5)[:, 0, :, 0]
    s, n = channel_sums.image_sums([tf.constant(activation), tf.constant(images(4, 2, 3))])
    assert np.array_equal(s[:, :5], activation.astype(np.float64))
    assert n.numpy().tolist() == [1, 6]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 13])
def test_case_30_and_32_sums_merge_for_any_split_and_order(size):
    s = np.random.default_rng(0).gamma(1, 50, (13, 5))
    n = np.array([100.0, 25])
    whole = Sums.from_batch(s, n, CHANNELS)
    order = np.random.default_rng(size).permutation(13)
    parts = [(s[order[i : i + size]], n) for i in range(0, 13, size)]
    close(total(parts), whole, 1e-12)
    one, other = total(parts).to_means(CHANNELS), whole.to_means(CHANNELS)
    for layer in CHANNELS:
        np.testing.assert_allclose(one.mean[layer], other.mean[layer], rtol=1e-12)
        np.testing.assert_allclose(
            one.standard_error[layer], other.standard_error[layer], rtol=1e-9
        )


def test_the_sums_over_nothing_change_nothing():
    some = total(random_sums(3))
    close(some + Sums.zeros(CHANNELS), some, 0)
    close(Sums.from_batch(np.empty((0, 5)), [4, 4], CHANNELS), Sums.zeros(CHANNELS), 0)


def test_the_standard_error_is_that_of_a_ratio():
    parts = random_sums(40)
    s, n = table(parts)
    ratio = s.sum(0) / n.sum(0)
    expected = np.sqrt(40 / 39 * ((s - ratio * n) ** 2).sum(0)) / n.sum(0)
    found = total(parts).to_means(CHANNELS)
    np.testing.assert_allclose(np.concatenate(list(found.mean.values())), ratio, rtol=1e-12)
    np.testing.assert_allclose(
        np.concatenate(list(found.standard_error.values())), expected, rtol=1e-9
    )


def jackknife(s, n):
    without = (s.sum(0) - s) / (n.sum(0) - n)
    count = len(s)
    return np.sqrt((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0))


def test_the_standard_error_agrees_with_the_jackknife():
    parts = random_sums(400)
    found = total(parts).to_means(CHANNELS)
    error = np.concatenate(list(found.standard_error.values()))
    # Both estimate the same to first order; a sixth of that order is left at 400 images.
    np.testing.assert_allclose(error, jackknife(*table(parts)), rtol=0.02)
    equal = [(s, np.array([9.0, 9])) for s, _ in parts]
    found = total(equal).to_means(CHANNELS)
    error = np.concatenate(list(found.standard_error.values()))
    np.testing.assert_allclose(error, jackknife(*table(equal)), rtol=1e-9)


@pytest.mark.slow
def test_the_interval_of_two_standard_errors_covers_the_truth_as_often_as_it_should():
    truth = table(random_sums(20000, seed=1))
    truth = truth[0].sum(0) / truth[1].sum(0)
    covered = []
    for seed in range(400):
        found = total(random_sums(60, seed + 10)).to_means(CHANNELS)
        mean = np.concatenate(list(found.mean.values()))
        error = np.concatenate(list(found.standard_error.values()))
        covered.append(np.abs(mean - truth) < 1.96 * error)
    # 0.95 less the skew of 60 images, within 3 deviations of 400 runs.
    assert 0.90 < np.mean(covered) < 0.97


def test_case_31_one_image_has_a_mean_and_no_idea_of_its_error():
    image = images(1, 6, 7)
    found = channel_sums.channel_means(identity_chain(), [image])
    np.testing.assert_allclose(found.mean["same"], image.mean((0, 1, 2)), rtol=1e-6)
    assert np.isinf(found.standard_error["same"]).all() and found.images == 1


def test_the_means_of_the_identity_are_those_of_the_pixels():
    batches = [images(3, 6, 7), images(2, 4, 4, seed=1)]
    pixels = np.concatenate([batch.reshape(-1, 3) for batch in batches]).astype(np.float64)
    found = channel_sums.channel_means(identity_chain(), batches)
    np.testing.assert_allclose(found.mean["same"], pixels.mean(0), rtol=1e-7)


def test_layers_can_be_chosen():
    found = channel_sums.channel_means(tiny_chain(), [images(2)], layers=["second"])
    assert list(found.mean) == ["second"]


def test_an_empty_batch_changes_nothing():
    # What a device gets that has run out of images; TensorFlow's convolutions fail on it.
    model, whole = tiny_chain(), images(3)
    one = channel_sums.channel_means(model, [whole])
    for shape in ((0, 32, 32, 3), (0, 0, 0, 3)):
        other = channel_sums.channel_means(model, [np.zeros(shape), whole])
        assert all(np.array_equal(one.mean[layer], other.mean[layer]) for layer in one.mean)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="Received: no batches"):
        channel_sums.channel_means(tiny_chain(), [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_named(value):
    whole = images(6)
    whole[4, 3, 3] = value
    with pytest.raises(NetworkError, match=r"in first at image 4\."):
        channel_sums.channel_means(tiny_chain(), [whole[:3], whole[3:]])


def test_an_activation_that_overflows_names_its_layer_and_image():
    model, whole = tiny_chain(), images(6)
    kernel, bias = model.get_layer("second").get_weights()
    model.get_layer("second").set_weights([np.full_like(kernel, 3e38), bias])
    whole[:4] = 0
    model.get_layer("first").set_weights(
        [np.abs(model.get_layer("first").get_weights()[0]), np.zeros(5, np.float32)]
    )
    with pytest.raises(NetworkError, match=r"in second at image 4\."):
        channel_sums.channel_means(model, [whole[:3], whole[3:]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_case_35_weights_that_are_not_finite_name_their_layer(value):
    model = tiny_chain()
    kernel, bias = model.get_layer("second").get_weights()
    bias[-1] = value
    model.get_layer("second").set_weights([kernel, bias])
    with pytest.raises(NetworkError, match="bias of second"):
        channel_sums.channel_means(model, [images(2)])


def test_a_dead_filter_has_scale_one_and_is_listed():
    model = tiny_chain()
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 2], bias[2] = 0, -1
    model.get_layer("first").set_weights([kernel, bias])
    found = channel_sums.channel_means(model, [images(3)])
    assert found.dead("first").tolist() == [2]
    scales = found.scales("first")
    assert scales[2] == 1
    assert np.array_equal(np.delete(scales, 2), np.delete(found.mean["first"], 2))
    assert len(found.relative_errors()) == 4 + 7 - len(found.dead("second"))
    assert np.isfinite(found.relative_errors()).all()


def test_rarely_firing_filters_are_below_a_thousandth_of_the_average_and_alive():
    mean = np.array([1.0, 1, 0, 7e-4, 4.1e-4])
    found = means.Means({"a": mean}, {"a": mean}, {"a": 5}, 2)
    # The average is 0.4002.
    assert found.rarely_firing("a") == 0
    mean[4] = 3.9e-4
    assert found.rarely_firing("a") == 1


def test_saved_means_come_back_with_the_same_bits(tmp_path):
    found = channel_sums.channel_means(tiny_chain(), [images(3)])
    found.save(tmp_path / "means.npz")
    again = means.Means.load(tmp_path / "means.npz")
    assert (again.images, again.positions) == (3, found.positions)
    for layer in found.mean:
        assert again.mean[layer].dtype == np.float64
        assert again.mean[layer].tobytes() == found.mean[layer].tobytes()
        assert again.standard_error[layer].tobytes() == found.standard_error[layer].tobytes()
    with np.load(tmp_path / "means.npz", allow_pickle=False) as file:
        expected = {f"{a}/{b}" for a in found.mean for b in ("mean", "standard_error", "positions")}
        assert set(file.files) == expected | {"images"}


@pytest.mark.parametrize("damage", [lambda raw: raw[:200], lambda raw: b"", lambda raw: b"no"])
def test_a_damaged_file_of_means_is_named(tmp_path, damage):
    path = tmp_path / "means.npz"
    means.Means({"a": np.ones(2)}, {"a": np.ones(2)}, {"a": 5}, 2).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(NetworkError, match="means.npz"):
        means.Means.load(path)


def test_a_file_with_pickled_objects_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    path = tmp_path / "means.npz"
    np.savez(path, **{"a/mean": np.array([Bomb()], object)}, allow_pickle=True)
    with pytest.raises(NetworkError):
        means.Means.load(path)
    assert not (tmp_path / "run").exists()


def test_a_rectified_layer_counts_after_its_relu_also_where_that_is_a_layer_of_its_own():
    fused, whole = tiny_chain(), images(2)
    apart = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(5, 3, padding="same", name="first"),
            keras.layers.ReLU(),
        ]
    )
    apart.set_weights(fused.get_layer("first").get_weights())
    expected = channel_sums.channel_means(fused, [whole]).mean["first"]
    np.testing.assert_allclose(
        channel_sums.channel_means(apart, [whole]).mean["first"], expected, rtol=1e-6
    )
