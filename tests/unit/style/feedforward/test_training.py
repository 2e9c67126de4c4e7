"""Training: which pictures, which crops, the objective against NumPy, and what a step does."""

from __future__ import annotations

import itertools
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import encode, images, picture, pictures, tiny_chain

import vgg_normalize as vn
from style.cli.settings import TRAINING_LOSSES
from style.feedforward import batch_losses, blocks, crop_stream, data, networks, training
from style.feedforward.batch_losses import LossConfig
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


def stream(folder, said=None, **options) -> crop_stream.CropStream:
    options = {"size": 32, "resize": 40, "seed": 0, **options}
    report = (lambda line: None) if said is None else said.append
    return crop_stream.CropStream(open_source(str(folder)), report=report, **options)


def taken(crops: crop_stream.CropStream, batches: int, first: int = 0, batch_size: int = 2):
    """The crops [N, size, size, 3] of so many batches, and where the stream goes on."""
    made = crop_stream.iterate(crops, first, batch_size)
    pairs = [(batch.numpy(), place) for batch, place in itertools.islice(made, batches)]
    return np.concatenate([batch for batch, _ in pairs]), [place for _, place in pairs]


def test_small_pictures_are_left_out_by_name_once(folder):
    said: list[str] = []
    found, places = taken(stream(folder, said), 6)
    assert found.shape == (12, 32, 32, 3)
    assert 15 <= places[-1] <= 16 and len(said) == 1  # three of four in each of four epochs
    assert "left out '3.jpg'" in said[0] and "90 x 31" in said[0] and "32 x 32" in said[0]
    said.clear()
    assert taken(stream(folder, said, size=31), 2)[1] == [2, 4] and not said


def test_a_folder_of_small_pictures_is_refused(folder):
    with pytest.raises(ImagesError, match="at least 65 x 65.*Lower `size`"):
        taken(stream(folder, size=65, resize=65), 1)


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
    with pytest.raises(ImagesError, match=r"at most 0 unreadable.*broken\.png.*`max_skipped`"):
        taken(stream(tmp_path), 3)
    with pytest.raises(ImagesError, match=r"at most 0 unreadable.*broken\.png"):
        stream(tmp_path).usable()
    said: list[str] = []
    tolerant = stream(tmp_path, said, max_skipped=1)
    assert len(tolerant.usable()) == 2
    assert len(taken(tolerant, 4)[0]) == 8
    assert len(said) == 1 and "broken.png" in said[0]


def test_what_is_left_out_does_not_change_the_order_of_the_others(tmp_path):
    whole = taken(stream(pictures(tmp_path / "whole", 5)), 10, batch_size=1)[0]
    pictures(tmp_path / "less", 5)
    (tmp_path / "less" / "0002.png").write_text("no picture")
    less, places = taken(stream(tmp_path / "less", max_skipped=1), 8, batch_size=1)
    kept = [place - 1 for place in places]
    assert len(set(range(10)) - set(kept)) == 2
    np.testing.assert_array_equal(less, whole[kept])
    # A run that goes on leaves out the same.
    again, _ = taken(stream(tmp_path / "less", max_skipped=1), 5, first=places[2], batch_size=1)
    np.testing.assert_array_equal(again, less[3:])


@pytest.mark.parametrize("window", [4, 100])
def test_a_source_that_is_read_in_its_own_order_is_mixed_within_windows(
    tmp_path, monkeypatch, window
):
    monkeypatch.setattr(crop_stream, "WINDOW", window)
    source = open_source(str(pictures(tmp_path, 10)))
    ascending: list[int] = []

    def encoded(indices):
        ascending.append(int(indices[0]))
        assert (np.diff(indices) == 1).all()
        return source.encoded(indices)

    sequential = source._replace(sequential=True, encoded=encoded)
    crops = crop_stream.CropStream(sequential, size=32, resize=32, seed=3)
    found, _ = taken(crops, 20, batch_size=1)
    # From the beginning once an epoch, and perhaps ahead for the next; never again from within.
    assert ascending == [0] if window > 10 else ascending in ([0, 0], [0, 0, 0])
    everything = {
        p.tobytes() for p in taken(stream(tmp_path, resize=32, seed=3), 10, batch_size=1)[0]
    }
    assert {p.tobytes() for p in found[:10]} == {p.tobytes() for p in found[10:]} == everything
    later, _ = taken(crop_stream.CropStream(sequential, size=32, resize=32, seed=3), 5, 7, 1)
    np.testing.assert_array_equal(later, found[7:12])


# Crops.


def test_crops_are_decided_by_their_position(folder):
    whole, places = taken(stream(folder), 4)
    assert whole.shape == (8, 32, 32, 3) and whole.dtype == np.float32
    assert 0 <= whole.min() < 0.1 and 0.9 < whole.max() <= 1
    np.testing.assert_array_equal(taken(stream(folder), 4)[0], whole)
    np.testing.assert_array_equal(taken(stream(folder), 2, first=places[1])[0], whole[4:])
    assert (taken(stream(folder, seed=1), 4)[0] != whole).any()
    assert len(np.unique(whole.reshape(8, -1), axis=0)) == 8  # no picture twice at the same place


def test_a_crop_of_the_resized_size_is_the_resized_picture(tmp_path):
    """A square picture leaves no choice."""
    (tmp_path / "a.png").write_bytes(encode(picture(50, 50, seed=2), "PNG"))
    found, _ = taken(stream(tmp_path, resize=32), 1, batch_size=1)
    expected = tf.image.resize(picture(50, 50, seed=2) / 255, (32, 32), antialias=True)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


def test_a_picture_that_vanishes_is_named(tmp_path):
    crops = stream(pictures(tmp_path, 3))
    (tmp_path / "0001.png").unlink()
    with pytest.raises(ImagesError, match=r"0001\.png"):
        taken(crops, 3)


def test_two_streams_go_on_at_places_of_their_own(folder):
    contents, styles = stream(folder), stream(folder, seed=5)
    made = crop_stream.zip_batches(contents, styles, (0, 3), 2)
    content, style, places = next(made)
    np.testing.assert_array_equal(content, taken(stream(folder), 1)[0])
    np.testing.assert_array_equal(style, taken(stream(folder, seed=5), 1, first=3)[0])
    assert places == (
        taken(stream(folder), 1)[1][0],
        taken(stream(folder, seed=5), 1, first=3)[1][0],
    )


def test_fixed_pictures_are_upright_squares(folder):
    encoded = (folder / "1.png").read_bytes()
    np.testing.assert_array_equal(
        data.decode_pixels(encoded), picture(64, 33, seed=1).astype(np.float32) / 255
    )
    assert data.center_square(encoded, 24).shape == (24, 24, 3)


def test_the_learning_rate_falls_as_in_the_adain_program():
    rate = training.Schedule(1e-4, 5e-5)
    for step in (0, 1, 160000):
        assert float(rate(step)) == pytest.approx(1e-4 / (1 + 5e-5 * step), rel=1e-5)
    assert float(training.Schedule(1e-3, 0.0)(1000)) == pytest.approx(1e-3)


def test_the_learning_rate_rises_in_equal_steps():
    rate = training.Schedule(1e-3, warmup=4)
    rates = [float(rate(step)) for step in range(6)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


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
    targets = batch_losses.style_targets(model(), weights, list(style))
    made = own.transform({"content": content, "code": code})
    found = batch_losses.objective(own, model(), weights)(
        tf.constant(content), tf.constant(code), targets
    )
    goal = np.asarray(made["target"]) if method == "adain" else None
    expected = expected_terms(content, style, np.asarray(made["image"]), goal, weights)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("method", ["adain", "cin"])
def test_a_balanced_style_term_is_one_at_the_content_whatever_the_style(method):
    weights = LossConfig(LAYERS, LAYERS, 0.0, 7.0, style_loss="gram", balance=True)
    content = images(2, 24, 16)
    style = images(2, 24, 16, seed=4) * np.array([0.1, 1], np.float32)[:, None, None, None]
    targets = batch_losses.style_targets(model(), weights, list(style))
    for made, expected in (
        (content, 7.0),
        (np.stack([content[0], style[1]]), 3.5),
        (np.stack([style[0], content[1]]), 3.5),
    ):
        outputs = {"image": tf.constant(made), "target": tf.zeros([2, 12, 8, 7])}
        own = network(method)._replace(transform=lambda _, training, outputs=outputs: outputs)
        terms = batch_losses.objective(own, model(), weights)
        found = terms(tf.constant(content), tf.eye(2), targets)
        assert float(found["style"]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", TRAINING_LOSSES)
def test_fixed_targets_are_the_statistics_of_each_style(loss):
    styles = [images(1, 20, 28, seed=s)[0] for s in (1, 2)]
    styles.append(images(1, 16, 12, seed=3)[0])
    weights = LossConfig((), LAYERS, style_loss=loss)
    found = batch_losses.style_targets(model(), weights, styles)
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
    monkeypatch.setattr(blocks, "BLOCKS", 1)
    weights = LossConfig(LAYERS, LAYERS, style_loss="gram")
    styles = images(2, 20, 28, seed=4)
    own = networks.cin(2)
    targets = batch_losses.style_targets(model(), weights, list(styles))
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
