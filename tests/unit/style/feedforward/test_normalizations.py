"""The normalisations of residual networks: oracles, what training and application see, and devices."""

from __future__ import annotations

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from forks import program
from helpers import images, tiny_chain

from style.cli import settings
from style.cli.training_checkpoint import TrainingCheckpoint
from style.feedforward import batch_losses, blocks, networks, training
from style.feedforward.batch_losses import LossConfig
from style.feedforward.layers import InstanceNormalization
from style.feedforward.normalizations import NORMALIZATIONS

pytestmark = pytest.mark.slow
LAYERS = (("first", 1.0), ("second", 1.0))


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCKS", 1)


def expected(name: str, x: np.ndarray) -> np.ndarray:
    """Each normalisation of x [B, H, W, C] in NumPy, by the axes that it averages over."""
    if name == "none":
        return x
    if name == "pixel":
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-8)
    axes: tuple[int, ...] = {
        "instance": (1, 2),
        "batch": (0, 1, 2),
        "synchronized": (0, 1, 2),
        "layer": (1, 2, 3),
        "group": (1, 2, 4),
    }[name]
    shape = x.shape
    if name == "group":
        x = x.reshape(*shape[:3], np.gcd(8, shape[3]), -1)
    centred = x - x.mean(axes, keepdims=True)
    return (centred / np.sqrt(x.var(axes, keepdims=True) + 1e-5)).reshape(shape)


def test_the_command_knows_the_names():
    assert tuple(NORMALIZATIONS) == settings.NORMALIZATIONS


@pytest.mark.parametrize("channels", [3, 12, 16])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_each_is_what_it_is_called(name, channels):
    x = np.random.default_rng(0).normal(2, 3, (3, 6, 5, channels)).astype(np.float32)
    over_batch = {"training": True} if name in ("batch", "synchronized") else {}
    found = NORMALIZATIONS[name](channels)(x, **over_batch)
    np.testing.assert_allclose(found, expected(name, x.astype(float)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in NORMALIZATIONS if n not in ("instance", "pixel")])
def test_but_one_each_is_keras_own_and_learns_nothing(name):
    layer = NORMALIZATIONS[name](8)
    layer.build((None, None, None, 8))
    assert type(layer).__module__.startswith("keras.") and not layer.trainable_weights
    assert isinstance(NORMALIZATIONS["instance"](8), InstanceNormalization)


def outputs(network, content, code, **options):
    made = network.transform({"content": content, "code": code}, **options)
    return np.asarray(made["image"])


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_styles_of_every_network_are_rows_and_mix(name):
    network = networks.cin(2, normalization=name)
    tables = [v for v in network.variables if len(v.shape) == 2]
    random = np.random.default_rng(1)
    for table in tables:
        table.assign(random.normal(1, 0.3, table.shape))
    content, (first, second) = images(1, 16, 16), np.eye(2, dtype=np.float32)[:, None]
    pictures = [outputs(network, content, row) for row in (first, second, (first + second) / 2)]
    for table in tables:
        table.assign(table.numpy() * [[1.0], [0.0]] + np.mean(table, 0) * [[0.0], [1.0]])
    mixed = outputs(network, content, second)
    np.testing.assert_allclose(mixed, pictures[2], atol=1e-4)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations(pictures, 2))


def test_instance_by_rows_is_conditional_instance_normalization(monkeypatch):
    """The form of the others, with the layer that the papers' network does not use."""
    papers = networks.cin(2)
    monkeypatch.setitem(NORMALIZATIONS, "same", NORMALIZATIONS["instance"])
    same = networks.cin(2, normalization="same")
    content, code = images(1, 16, 16), np.array([[0.3, 0.7]], np.float32)
    np.testing.assert_allclose(
        outputs(same, content, code), outputs(papers, content, code), atol=1e-5
    )


def trained_step(network, optimizer=None, strategy=None):
    model = tiny_chain()
    style = images(1, 20, 28, seed=4)
    config = LossConfig(LAYERS, LAYERS, style_loss="gram")
    targets = batch_losses.style_targets(model, config, list(style))
    optimizer = optimizer or keras.optimizers.Adam(1e-3)
    return training.step_function(
        network, model, config, optimizer, targets=targets, strategy=strategy
    )


def test_batches_set_moving_averages_that_alone_are_used_at_application():
    network = networks.cin(1, normalization="batch")
    step = trained_step(network)
    content, code = images(2, 16, 16), np.ones((2, 1), np.float32)
    normalizers = [
        layer
        for layer in network.transform.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(network.state) == 2 * len(normalizers)
    first = keras.Model(network.transform.input, normalizers[0].input)
    x = np.asarray(first({"content": content, "code": code}), float)
    step(tf.constant(content), tf.zeros([2], tf.int32))
    np.testing.assert_allclose(
        normalizers[0].moving_mean, 0.01 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-6
    )
    variance = 0.99 + 0.01 * x.var((0, 1, 2))
    np.testing.assert_allclose(normalizers[0].moving_variance, variance, rtol=1e-4)
    # In training a picture depends on the others of its batch; at application on none.
    for options, alike in (({"training": True}, False), ({}, True)):
        with keras.StatelessScope():
            pair = outputs(network, content, code, **options)[:1]
            alone = outputs(network, content[:1], code[:1], **options)
        assert np.allclose(pair, alone, atol=1e-5) == alike


def test_a_batch_that_is_not_finite_leaves_moving_averages_alone():
    network = networks.cin(1, normalization="batch")
    step = trained_step(network)
    content, index = images(2, 16, 16), tf.zeros([2], tf.int32)
    step(tf.constant(content), index)
    variables = [*network.variables, *network.state]
    before = [v.numpy() for v in variables]
    assert np.isnan(float(step(tf.constant(content * np.nan), index)["loss"]))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_spectral_normalization_keeps_the_largest_singular_value_at_one():
    network, same = (networks.cin(1, spectral=True) for _ in range(2))
    for a, b in zip(network.state, same.state, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    step = trained_step(network)
    content, index = tf.constant(images(2, 16, 16)), tf.zeros([2], tf.int32)

    def largest():
        kernels = [v.numpy() for v in network.variables if len(v.shape) == 4]
        return np.array([np.linalg.norm(k.reshape(-1, k.shape[-1]), ord=2) for k in kernels])

    assert len(network.state) == len(largest()) and largest().max() > 1.5
    losses = [float(step(content, index)["loss"]) for _ in range(20)]
    # A step of Adam comes after the division, and each division has one step of power iteration.
    np.testing.assert_allclose(largest(), 1, atol=0.25)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("options", [{"normalization": "batch"}, {"spectral": True}], ids=str)
def test_what_is_remembered_comes_back_from_a_checkpoint(tmp_path, options):
    content, index = tf.constant(images(2, 16, 16)), tf.zeros([2], tf.int32)

    def run():
        network, optimizer = networks.cin(1, **options), keras.optimizers.Adam(1e-3)
        step = trained_step(network, optimizer)
        weights = [*network.variables, *network.state]
        state = list(optimizer.variables)
        return step, [*weights, *state], TrainingCheckpoint(str(tmp_path), weights, state, "same")

    step, expected, checkpoint = run()
    step(content, index)
    checkpoint.save(1, 0.0, (0, 0))
    step(content, index)
    step, found, checkpoint = run()
    checkpoint.restore(2)
    step(content, index)
    for variable, same in zip(found, expected, strict=True):
        np.testing.assert_array_equal(variable.numpy(), same.numpy())


TWO_DEVICES = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
sys.path.insert(0, sys.argv[1])
import keras
import numpy as np
from helpers import images
from unit.style.feedforward.test_normalizations import blocks, networks, trained_step

blocks.BLOCKS = 1
content, index = tf.constant(images(2, 16, 16)), tf.zeros([2], tf.int32)
variables = []
for strategy in (None, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])):
    with strategy.scope() if strategy else tf.device("CPU:0"):
        network = networks.cin(1, normalization="synchronized")
        # Adam would move an entry whose gradient is rounding by its whole rate.
        step = trained_step(network, keras.optimizers.SGD(1e-3), strategy)
    for _ in range(3):
        step(content, index)
    variables.append([*network.variables, *network.state])
for alone, shared in zip(*variables):
    scale = max(1.0, np.abs(alone.numpy()).max())
    np.testing.assert_allclose(shared.numpy(), alone.numpy(), atol=1e-4 * scale, err_msg=alone.path)
print(len(network.state))
"""


def test_devices_remember_what_one_with_the_whole_batch_does():
    assert int(program(TWO_DEVICES, Path(__file__).parents[3])) > 0


@pytest.mark.parametrize("name", ["layer", "synchronized"])
def test_the_style_encoder_has_them_too(name):
    model = tiny_chain()
    network = networks.style_encoder(model, normalization=name)
    style = images(2, 20, 20, seed=3)
    made = network.transform(
        {"content": images(2, 16, 24), "code": np.asarray(network.code(style))}
    )
    assert made["image"].shape == (2, 16, 24, 3) and np.isfinite(made["image"]).all()
