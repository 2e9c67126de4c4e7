"""The losses that `style` optimises pictures with, of batches, for the training of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.feedforward.networks import Network
from style.objective import losses
from style.objective.features import feature_extractor
from style.objective.losses import SAMPLES, StyleLoss
from style.objective.terms import exact_sums
from style.objective.tiling import IMAGE

Layers = Sequence[tuple[str, float]]


class LossConfig(NamedTuple):
    """The objective of training: that of a single picture, averaged over a batch.

    Attributes:
        content_layers: (name, weight) of each layer at which the picture should have the content's
            features; ignored for AdaIN, whose only one is its `target_layer`.
        style_layers: (name, weight) of each layer at which it should have the style's statistics.
        content_weight: Factor of the content term.
        style_weight: Factor of the style term.
        tv_weight: Factor of the total variation.
        style_loss: A key of `losses.STYLE_LOSSES`.
        balance: Whether each picture's style term is divided by what it is at its content.
    """

    content_layers: Layers
    style_layers: Layers
    content_weight: float = 1.0
    style_weight: float = 10.0
    tv_weight: float = 0.0
    style_loss: str = "moments"
    balance: bool = False

    def make_style_loss(self) -> StyleLoss:
        """The loss that `style_loss` names."""
        return losses.STYLE_LOSSES[self.style_loss]()


def style_targets(
    model: keras.Model, config: LossConfig, styles: Sequence[np.ndarray]
) -> list[Any]:
    """The statistics of fixed styles: for each style layer, stacked over the styles, [S, ...].

    Args:
        model: The normalised VGG of the losses.
        config: The objective.
        styles: Pictures [H, W, 3] in [0, 1], each of any size.
    """
    extract = feature_extractor(model, [name for name, _ in config.style_layers])
    loss = config.make_style_loss()
    function = tf.function(
        lambda x: batch_targets(loss, extract(x), config.style_layers),
        input_signature=[tf.TensorSpec([1, None, None, 3])],
        autograph=False,
    )
    targets = [function(tf.constant(style[None], tf.float32)) for style in styles]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *targets)


def batch_targets(loss: StyleLoss, features: Any, layers: Layers) -> list[Any]:
    """The targets [B, ...] of a batch of styles, one for each layer."""
    return [
        tf.nest.map_structure(
            lambda *parts: tf.stack(parts),
            *(loss.target(_sums(loss, image)) for image in tf.unstack(features[name])),
        )
        for name, _ in layers
    ]


def _sums(loss: StyleLoss, features: tf.Tensor) -> Any:
    """The sums of one image's features [h, w, C], in float64 where many are added."""
    flat = tf.reshape(features, [-1, features.shape[-1]])
    if loss.sampled:
        last = tf.cast(tf.shape(flat)[0] - 1, tf.float32)
        positions = tf.cast(tf.round(tf.linspace(0.0, 1.0, SAMPLES) * last), tf.int32)
        return loss.sums(tf.gather(flat, positions))
    return exact_sums(loss, flat)


def objective(
    network: Network, model: keras.Model, config: LossConfig
) -> Callable[..., dict[str, tf.Tensor]]:
    """(content [B, H, W, 3], code [B, D], style targets) -> the value of each term.

    With the picture y of content c, the features F_l of layer l, AdaIN's target t, the statistics
    S_l of each style and the loss's distance d, all averaged over the batch:

        content   content_weight sum_l w_l mean((F_l(y) - F_l(c))^2);  AdaIN: mean((F(y) - t)^2)
        style     style_weight sum_l w_l d(S_l(y), S_l(style))
                  with balance divided by sum_l w_l d(S_l(c), S_l(style)), which is ours: the terms
                  of some styles would drown those of others
        tv        tv_weight TV(y) / (B H W 3)

    Reference: Huang and Belongie 2017, equations 11 to 13.
    """
    content_layers = layers_of_content(network, config)
    content_names = [name for name, _ in content_layers]
    style_names = [name for name, _ in config.style_layers]
    # Not with Winograd's kernels, which round more: Adam made 4e-5 of that in 20 steps, between the
    # weights of one device and of two.
    extract = feature_extractor(model, [*content_names, *style_names])
    compared = [] if network.target_layer else content_names
    extract_content = feature_extractor(model, compared + (style_names if config.balance else []))
    loss = config.make_style_loss()

    def terms(content: tf.Tensor, code: tf.Tensor, targets: list[Any]) -> dict[str, tf.Tensor]:
        outputs = network.transform({"content": content, "code": code}, training=True)
        outputs = {name: tf.cast(output, tf.float32) for name, output in outputs.items()}
        features = extract(outputs["image"])
        of_content = expected = extract_content(content)
        if network.target_layer:
            expected = {network.target_layer: outputs["target"]}
        distances = style_distances(loss, features, targets, config.style_layers)
        if config.balance:
            at_content = style_distances(loss, of_content, targets, config.style_layers)
            distances = tf.math.divide_no_nan(distances, at_content)
        # Checked here: ReLU makes zeros of NaN, and the terms of a broken picture may be finite.
        finite = tf.reduce_all(tf.math.is_finite(outputs["image"]))
        content_term = config.content_weight * content_distance(features, expected, content_layers)
        values = {
            "content": tf.where(finite, content_term, float("nan")),
            "style": config.style_weight * tf.reduce_mean(distances),
        }
        if config.tv_weight:
            variation = losses.total_variation(features[IMAGE])
            values["tv"] = config.tv_weight * variation / tf.cast(tf.size(content), tf.float32)
        return values

    return terms


def layers_of_content(network: Network, config: LossConfig) -> list[tuple[str, float]]:
    """The content layers and their weights: AdaIN's own, or those of the objective."""
    return [(network.target_layer, 1.0)] if network.target_layer else list(config.content_layers)


def content_distance(features: Any, expected: Any, layers: Layers) -> tf.Tensor:
    """sum_l w_l mean((F_l - E_l)^2), of features [B, h, w, C] by layer; E_l is held fixed."""
    return tf.add_n(
        [
            weight * tf.reduce_mean(tf.square(features[name] - tf.stop_gradient(expected[name])))
            for name, weight in layers
        ]
    )


def style_distances(
    loss: StyleLoss, features: Any, targets: list[Any], layers: Layers
) -> tf.Tensor:
    """sum_l w_l d(S_l(y), target_l) of each picture, [B], of features [B, h, w, C] by layer."""
    of_layers = []
    for (name, weight), stacked in zip(layers, targets, strict=True):
        distances = []
        for b, image in enumerate(tf.unstack(features[name])):
            target = tf.nest.map_structure(lambda part, b=b: part[b], stacked)
            distances.append(tf.cast(loss.distance(_sums(loss, image), target), tf.float32))
        of_layers.append(weight * tf.stack(distances))
    return tf.add_n(of_layers)
