"""Steps of training under XLA, and what their graphs hold."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from graphs import assert_stays_on_device
from helpers import images, tiny_chain

from style.feedforward import batch_losses, blocks, networks, training
from style.feedforward.batch_losses import LossConfig

pytestmark = pytest.mark.slow

LAYERS = (("first", 0.5), ("second", 2.0))
STYLES = 2
# Of each style the sums of seven channels.
LARGEST_SUM = STYLES * 7 * 7

model = functools.cache(tiny_chain)


@pytest.fixture(autouse=True)
def one_block(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCKS", 1)


def make_step(method: str, loss: str, optimizer: keras.optimizers.Optimizer):
    """A step, what it is called with, and the weights that it changes."""
    network = {
        "adain": lambda: networks.adain(model()),
        "encoder": lambda: networks.style_encoder(model()),
        "cin": lambda: networks.cin(STYLES),
    }[method]()
    config = LossConfig(LAYERS, LAYERS, tv_weight=1.0, style_loss=loss)
    style, targets = tf.constant(images(STYLES, 24, 16, seed=4)), None
    if method == "cin":
        targets = batch_losses.style_targets(model(), config, list(style.numpy()))
        style = tf.constant([1, 0])
    step = training.step_function(network, model(), config, optimizer, targets=targets)
    content = tf.constant(images(STYLES, 24, 16))
    return step, (content, style), [*network.variables, *network.state]


def make_adam() -> keras.optimizers.Optimizer:
    """Whose epsilon hides that Adam makes whole steps of the rounding errors of vanishing gradients."""
    return keras.optimizers.Adam(1e-3, epsilon=1.0)


def two_steps(method: str, loss: str, make_optimizer, *, compiled: bool):
    """The losses of two steps, and the weights after them."""
    step, batch, weights = make_step(method, loss, make_optimizer())
    if compiled:
        step._graph = tf.function(step._step, autograph=False, jit_compile=True)
    losses = [{name: float(value) for name, value in step(*batch).items()} for _ in range(2)]
    return losses, [weight.numpy() for weight in weights]


@pytest.mark.parametrize(
    ("method", "loss", "make_optimizer"),
    [
        ("adain", "wasserstein", make_adam),
        ("cin", "gram", make_adam),
        ("encoder", "mmd_poly", lambda: keras.optimizers.LossScaleOptimizer(make_adam())),
    ],
)
def test_a_step_compiles_to_the_same(method, loss, make_optimizer):
    (losses, weights), (found, changed) = (
        two_steps(method, loss, make_optimizer, compiled=compiled) for compiled in (False, True)
    )
    for terms, expected in zip(found, losses, strict=True):
        assert terms == pytest.approx(expected, rel=1e-4)
    for after, expected in zip(changed, weights, strict=True):
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "loss"),
    [("adain", "moments"), ("adain", "wasserstein"), ("cin", "gram"), ("encoder", "mmd_gaussian")],
)
def test_a_step_stays_on_the_device(method, loss):
    step, batch, _ = make_step(method, loss, make_adam())
    step(*batch)  # which makes the copies of the weights
    assert_stays_on_device(step._step, *batch, doubles=LARGEST_SUM)
