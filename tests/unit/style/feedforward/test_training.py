"""Training: which pictures, which crops, the objective against NumPy, and what a step does."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import encode, images, picture, pictures, tiny_chain

import vgg_normalize as vn
from style.cli.settings import TRAINING_LOSSES
from style.feedforward import data, networks, training
from style.feedforward.training import LossConfig
from style.objective import losses, value_and_gradient
from vgg_normalize.data.sources import open_source
from vgg_normalize.errors import ImagesError

pytestmark = pytest.mark.slow

LAYERS = (("first", 0.5), ("second", 2.0))


# Which pictures, in which order.


@pytest.mark.parametrize("count", [1, 4, 7])
def test_each_picture_comes_once_an_epoch(count):
    drawn = data.example_order(count, 0, 5 * count, seed=3).reshape(5, count)
    assert (np.sort(drawn, axis=1) == np.arange(count)).all()
    if count == 7:
        assert len({tuple(row) for row in drawn.tolist()}) == 5


@pytest.mark.parametrize("parts", [(0, 30), (0, 7, 30), (0, 1, 2, 13, 14, 29, 30), (0, 0, 30, 30)])
def test_any_split_gives_the_same_order(parts):
    whole = data.example_order(7, 0, 30, seed=1)
    pairs = zip(parts, parts[1:], strict=False)
    np.testing.assert_array_equal(
        np.concatenate([data.example_order(7, a, b, seed=1) for a, b in pairs]), whole
    )
    assert (data.example_order(7, 0, 30, seed=2) != whole).any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three large pictures, one small, one damaged and one without its end."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, shape in enumerate([(40, 60), (64, 33), (50, 50)]):
        (folder / f"{i}.png").write_bytes(encode(picture(*shape, seed=i), "PNG"))
    (folder / "3.jpg").write_bytes(encode(picture(31, 90)))
    return folder


def test_small_pictures_are_left_out_by_name(folder):
    good, complaints = data.usable_images(open_source(str(folder)), 32)
    assert good.tolist() == [0, 1, 2]
    (complaint,) = complaints
    assert "3.jpg" in complaint and "90 x 31" in complaint and "32 x 32" in complaint
    good, complaints = data.usable_images(open_source(str(folder)), 31)
    assert good.tolist() == [0, 1, 2, 3] and not complaints


def test_a_folder_of_small_pictures_is_refused(folder):
    with pytest.raises(ImagesError, match="at least 65 x 65.*Lower --size"):
        data.usable_images(open_source(str(folder)), 65)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "text", "link"])
def test_unreadable_pictures_are_refused_or_tolerated(tmp_path, kind):
    pictures(tmp_path, 2)
    broken = tmp_path / "broken.png"
    if kind == "link":
        broken.symlink_to(tmp_path / "nowhere.png")
    elif kind == "text":
        broken.write_text("no picture")
    else:
        encoded = encode(picture(60, 60), kind)
        broken.write_bytes(encoded[: len(encoded) // 2])
    source = open_source(str(tmp_path))
    with pytest.raises(ImagesError, match=r"at most 0 unreadable.*broken\.png.*--max_skipped"):
        data.usable_images(source, 32)
    good, complaints = data.usable_images(source, 32, max_skipped=1)
    assert good.tolist() == [0, 1] and len(complaints) == 1 and "broken.png" in complaints[0]


# Crops.


def crops(folder, first=0, last=8, seed=0, **options):
    options = {"size": 32, "resize": 40, "batch_size": 2, **options}
    order = data.example_order(3, first, last, seed)
    made = data.random_crops(open_source(str(folder)), order, first=first, seed=seed, **options)
    return np.array([batch.numpy() for batch in made])


def test_crops_are_decided_by_their_number(folder):
    whole = crops(folder)
    assert whole.shape == (4, 2, 32, 32, 3) and whole.dtype == np.float32
    assert 0 <= whole.min() < 0.1 and 0.9 < whole.max() <= 1
    np.testing.assert_array_equal(crops(folder), whole)
    np.testing.assert_array_equal(crops(folder, first=4), whole[2:])
    assert (crops(folder, seed=1) != whole).any()
    flat = whole.reshape(8, -1)
    assert len(np.unique(flat, axis=0)) == 8  # no picture twice at the same place


def test_a_rest_of_a_batch_is_left_out_and_nothing_gives_nothing(folder):
    assert crops(folder, last=7).shape[0] == 3
    assert crops(folder, first=6, last=6).shape == (0,)


def test_a_crop_of_the_resized_size_is_the_resized_picture(folder):
    """A square picture leaves no choice."""
    source = open_source(str(folder))
    made = data.random_crops(
        source, np.array([2]), size=32, resize=32, batch_size=1, first=9, seed=5
    )
    expected = tf.image.resize(picture(50, 50, seed=2) / 255, (32, 32), antialias=True)
    np.testing.assert_allclose(next(iter(made))[0], expected, atol=1e-5)


def test_a_picture_that_vanishes_is_named(tmp_path):
    source = open_source(str(pictures(tmp_path, 3)))
    (tmp_path / "0001.png").unlink()
    made = data.random_crops(
        source, np.arange(3), size=32, resize=32, batch_size=1, first=0, seed=0
    )
    with pytest.raises(ImagesError, match=r"0001\.png"):
        list(data.zip_batches(made, made))


def test_fixed_pictures_are_upright_squares(folder):
    encoded = (folder / "1.png").read_bytes()
    np.testing.assert_array_equal(
        data.decode_pixels(encoded), picture(64, 33, seed=1).astype(np.float32) / 255
    )
    assert data.center_square(encoded, 24).shape == (24, 24, 3)


def test_the_learning_rate_falls_as_in_the_adain_program():
    rate = training.schedule(1e-4, 5e-5)
    for step in (0, 1, 160000):
        assert float(rate(step)) == pytest.approx(1e-4 / (1 + 5e-5 * step), rel=1e-5)
    assert float(training.schedule(1e-3, 0.0)(1000)) == pytest.approx(1e-3)


# The objective, against NumPy.


@cache
def model() -> keras.Model:
    return tiny_chain(seed=1)


@cache
def network(method: str) -> networks.Network:
    return {
        "adain": lambda: networks.adain(model()),
        "encoder": lambda: networks.style_encoder(model()),
        "cin": lambda: networks.cin(2),
    }[method]()


def features(batch) -> dict[str, np.ndarray]:
    names = [name for name, _ in LAYERS]
    return {k: np.asarray(v, float) for k, v in vn.features(model(), names)(batch).items()}


def statistics(image: np.ndarray, loss: str) -> list[np.ndarray]:
    """Of one image's features [h, w, C]."""
    flat = image.reshape(-1, image.shape[-1])
    if loss == "gram":
        return [flat.T @ flat / len(flat)]
    return [flat.mean(0), np.sqrt(flat.var(0) + 1e-8)]


def expected_terms(content, style, image, goal, weights) -> dict[str, float]:
    """The sums written out, one image after the other."""
    found, wanted, styles = features(image), features(content), features(style)
    layers = [("second", 1.0)] if goal is not None else weights.content_layers
    terms = {"content": 0.0, "style": 0.0}
    for name, w in layers:
        target = goal if goal is not None else wanted[name]
        terms["content"] += weights.content_weight * w * np.mean((found[name] - target) ** 2)
    for name, w in weights.style_layers:
        for b in range(len(image)):
            own, other = (statistics(f[name][b], weights.style_loss) for f in (found, styles))
            distance = sum(np.mean((x - y) ** 2) for x, y in zip(own, other, strict=True))
            terms["style"] += weights.style_weight * w * distance / len(image)
    if weights.tv_weight:
        squares = sum(np.sum(np.diff(image.astype(float), axis=a) ** 2) for a in (1, 2))
        terms["tv"] = weights.tv_weight * squares / image.size
    return terms


@pytest.mark.parametrize("loss", ["moments", "gram"])
@pytest.mark.parametrize("method", ["adain", "cin"])
def test_the_objective_is_what_it_is_defined_as(method, loss):
    weights = LossConfig(LAYERS, LAYERS[::-1], 3.0, 7.0, 5.0, loss)
    content, style = images(2, 24, 16), images(2, 20, 28, seed=4)
    own = network(method)
    code = np.eye(2, dtype=np.float32) if method == "cin" else np.asarray(own.code(style))
    targets = training.style_targets(model(), weights, list(style))
    made = own.transform({"content": content, "code": code})
    found = training.objective(own, model(), weights)(
        tf.constant(content), tf.constant(code), targets
    )
    goal = np.asarray(made["target"]) if method == "adain" else None
    expected = expected_terms(content, style, np.asarray(made["image"]), goal, weights)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("loss", TRAINING_LOSSES)
def test_fixed_targets_are_the_statistics_of_each_style(loss):
    styles = [images(1, 20, 28, seed=s)[0] for s in (1, 2)]
    styles.append(images(1, 16, 12, seed=3)[0])
    weights = LossConfig((), LAYERS, style_loss=loss)
    found = training.style_targets(model(), weights, styles)
    made = losses.STYLE_LOSSES[loss]()
    for (name, _), stacked in zip(LAYERS, found, strict=True):
        for i, style in enumerate(styles):
            wanted = [
                (
                    name,
                    lambda part: made.sums(
                        tf.reshape(part.features, [-1, part.features.shape[-1]])
                    ),
                )
            ]
            if made.sampled:
                flat = features(style[None])[name][0].reshape(-1, stacked[0].shape[-1])
                at = np.round(np.linspace(0, len(flat) - 1, losses.SAMPLES)).astype(int)
                sums = tf.constant(flat[at], tf.float32)
            else:
                (sums,) = value_and_gradient.total_sums(model(), tf.constant(style[None]), wanted)
            own = [t[i] for t in tf.nest.flatten(stacked)]
            for a, b in zip(own, tf.nest.flatten(made.target(sums)), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


# A step.


def step_of(own, weights, rate=1e-3, targets=None):
    return training.step_function(
        own, model(), weights, keras.optimizers.Adam(rate), targets=targets
    )


def batch():
    return tf.constant(images(2, 24, 16)), tf.constant(images(2, 24, 16, seed=4))


def test_steps_lower_the_loss_and_leave_the_vgg_alone():
    own = networks.adain(model(), seed=2)
    vgg = [v.numpy() for v in model().variables]
    step = step_of(own, LossConfig((), LAYERS))
    found = [{k: float(v) for k, v in step(*batch()).items()} for _ in range(8)]
    assert found[-1]["loss"] < 0.9 * found[0]["loss"]
    for terms in found:
        assert terms.keys() == {"loss", "content", "style"}
        assert terms["loss"] == pytest.approx(terms["content"] + terms["style"], rel=1e-6)
    for variable, before in zip(model().variables, vgg, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)


def test_one_small_step_of_fixed_styles_lowers_the_loss(monkeypatch):
    monkeypatch.setattr(networks, "BLOCKS", 1)
    weights = LossConfig(LAYERS, LAYERS, style_loss="gram")
    styles = images(2, 20, 28, seed=4)
    own = networks.cin(2)
    targets = training.style_targets(model(), weights, list(styles))
    step = step_of(own, weights, 1e-4, targets)
    content, indices = tf.constant(images(2, 24, 16)), tf.constant([1, 0])
    first, second = (float(step(content, indices)["loss"]) for _ in range(2))
    assert second < first
    code = tf.eye(2)[::-1]
    untrained = networks.cin(2).transform({"content": content, "code": code})["image"]
    expected = expected_terms(content, styles[[1, 0]], np.asarray(untrained), None, weights)
    assert first == pytest.approx(sum(expected.values()), rel=1e-3)


def test_a_batch_that_is_not_finite_changes_nothing():
    own = networks.adain(model())
    optimizer = keras.optimizers.Adam(1e-2)
    step = training.step_function(own, model(), LossConfig((), (("second", 1.0),)), optimizer)
    good = batch()
    assert np.isfinite(float(step(*good)["loss"]))
    variables = [*own.variables, *optimizer.variables]
    before = [v.numpy() for v in variables]
    # A style whose squares are infinite; ReLU would pass over NaN.
    assert np.isnan(float(step(good[0], good[1] * 1e30)["loss"]))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert np.isfinite(float(step(*good)["loss"]))


def test_the_last_good_weights_are_those_of_the_last_finite_loss():
    own = networks.adain(model())
    step = step_of(own, LossConfig((), LAYERS), 1e-2)
    for variable in own.variables:  # as a checkpoint does
        variable.assign(variable * 0.9)
    (content, style), weights = batch(), [[v.numpy() for v in own.variables]]

    def assert_restores(expected):
        assert np.isnan(float(step(content, style * 1e30)["loss"]))
        step.restore_last_good()
        for variable, value in zip(own.variables, expected, strict=True):
            np.testing.assert_array_equal(variable.numpy(), value)

    assert_restores(weights[0])  # a first step that fails changes nothing
    for _ in range(3):
        loss = float(step(content, style)["loss"])
        weights.append([v.numpy() for v in own.variables])
    assert (weights[-1][0] != weights[-2][0]).any()
    assert_restores(weights[-2])
    assert float(step(content, style)["loss"]) == loss


def test_a_gradient_that_is_not_finite_makes_the_loss_nan(monkeypatch):
    """As where a root has no derivative: the loss itself may be finite."""

    @tf.custom_gradient
    def rootless(features):
        return features, lambda upstream: upstream * np.nan

    plain = losses.STYLE_LOSSES["moments"]
    own = networks.adain(model())

    def broken():
        made = plain()
        return made._replace(sums=lambda f, t=None: made.sums(rootless(f), t))

    monkeypatch.setitem(losses.STYLE_LOSSES, "moments", broken)
    before = [v.numpy() for v in own.variables]
    found = step_of(own, LossConfig((), (("second", 1.0),)))(*batch())
    assert np.isnan(float(found["loss"])) and np.isfinite(float(found["style"]))
    for variable, value in zip(own.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_sampled_loss_trains_too():
    own = networks.adain(model(), seed=2)
    step = step_of(own, LossConfig((), LAYERS, style_loss="mmd_gaussian"))
    found = [float(step(*batch())["style"]) for _ in range(6)]
    assert np.isfinite(found).all() and 0 < found[-1] < found[0]
