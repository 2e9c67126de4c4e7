"""What content and style are worth in a training, to weigh one against the other."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from style.feedforward.batch_losses import (
    LossConfig,
    batch_targets,
    content_distance,
    layers_of_content,
    style_distances,
)
from style.feedforward.networks import Network
from style.objective.features import feature_extractor


def worths(
    network: Network,
    model: keras.Model,
    config: LossConfig,
    contents: np.ndarray,
    styles: np.ndarray,
) -> tuple[float, float]:
    """C(style) and S(content), the worst that each term's opposite optimum can be.

    Both are means over pairs of pictures, without the weights of the terms (`synthesis.strength`
    makes a style weight of them).

    Args:
        network: The network to train.
        model: The normalised VGG of the losses.
        config: The objective.
        contents, styles: Squares [N, H, H, 3] and [M, H, H, 3]; the smaller set is repeated.
    """
    count = max(len(contents), len(styles))
    contents, styles = (x[np.arange(count) % len(x)] for x in (contents, styles))
    content_layers = layers_of_content(network, config)
    loss = config.make_style_loss()
    extract = feature_extractor(
        model, [name for name, _ in [*content_layers, *config.style_layers]]
    )
    of_contents, of_styles = (extract(tf.constant(x, tf.float32)) for x in (contents, styles))
    content_worth = content_distance(of_styles, of_contents, content_layers)
    if config.balance:  # each style term is divided by its worth already
        return float(content_worth), 1.0
    targets = batch_targets(loss, of_styles, config.style_layers)
    style_worths = style_distances(loss, of_contents, targets, config.style_layers)
    return float(content_worth), float(tf.reduce_mean(style_worths))
