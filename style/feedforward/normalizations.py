"""The normalisations that a residual network may have in place of instance normalisation.

    instance        mean and deviation of each image and channel (the papers')
    batch           of each channel over the batch; moving averages at application
    synchronized    the same over the batches of all devices
    layer           of each image, over all channels
    group           of each image, over groups of up to an eighth of the channels
    pixel           each position divided by the root mean square of its channels
    none            nothing

All but `instance`, which is `layers.InstanceNormalization`, are Keras' own layers.  None of them
learns a scale and an offset: those come from the style, so the networks differ in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras

from style.feedforward.layers import EPSILON, InstanceNormalization

GROUPS = 8


def _batch(channels: int, **options: Any) -> keras.layers.Layer:
    return keras.layers.BatchNormalization(center=False, scale=False, epsilon=EPSILON, **options)


def _group(channels: int) -> keras.layers.Layer:
    groups = math.gcd(GROUPS, channels)
    return keras.layers.GroupNormalization(groups, epsilon=EPSILON, center=False, scale=False)


# Name -> the layer for this number of channels.
NORMALIZATIONS: dict[str, Callable[[int], keras.layers.Layer]] = {
    "instance": lambda channels: InstanceNormalization(center=False, scale=False),
    "batch": _batch,
    "synchronized": lambda channels: _batch(channels, synchronized=True),
    "layer": lambda channels: keras.layers.LayerNormalization(
        axis=[1, 2, 3], epsilon=EPSILON, center=False, scale=False
    ),
    "group": _group,
    # Karras et al. 2018, section 4.2; its learnt scale stands beside the style's and begins at 1.
    "pixel": lambda channels: keras.layers.RMSNormalization(epsilon=1e-8),
    "none": lambda channels: keras.layers.Identity(),
}
