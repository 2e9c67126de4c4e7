"""Measuring channel means: sums over images that merge, and the means that follow from them.

The mean of a filter's activation over all positions of all images is a ratio of two sums over
images, r = sum s / sum n (s the sum of an image's activations, n its positions), so its standard
error is that of a ratio: se^2 = k / (k - 1) sum (s - r n)^2 / (sum n)^2 over k images.

Reference: Cochran, "Sampling Techniques", 3rd edition, 1977, section 6.3 (equation 6.9 without
the finite population correction).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize.data.batches import as_images
from vgg_normalize.errors import ImagesError, NetworkError
from vgg_normalize.means import Means
from vgg_normalize.networks import chain
from vgg_normalize.weights import loading


class Sums(NamedTuple):
    """Sums over images, all layers' channels one after the other (T channels, L layers), float64.

    Two Sums of different images add up to those of all of them.
    """

    images: np.ndarray  # []
    s: np.ndarray  # [T] sum of s
    ss: np.ndarray  # [T] sum of s^2
    sn: np.ndarray  # [T] sum of s n
    n: np.ndarray  # [L] sum of n
    nn: np.ndarray  # [L] sum of n^2

    @classmethod
    def zeros(cls, channels: Mapping[str, int]) -> Sums:
        """The sums over no images.

        Args:
            channels: Layer name to number of channels.
        """
        total, layers = sum(channels.values()), len(channels)
        return cls(
            np.zeros(()), np.zeros(total), np.zeros(total), np.zeros(total), *np.zeros((2, layers))
        )

    @classmethod
    def from_batch(cls, s: np.ndarray, n: np.ndarray, channels: Mapping[str, int]) -> Sums:
        """The sums over a batch of images of one size.

        Args:
            s: Sum of the activations of each image and channel, [B, T].
            n: Number of positions of an image in each layer, [L].
            channels: Layer name to number of channels.
        """
        s, n = np.asarray(s, np.float64), np.asarray(n, np.float64)
        images = len(s)
        total = s.sum(0)
        widths = list(channels.values())
        return cls(
            np.asarray(float(images)),
            total,
            np.square(s).sum(0),
            total * np.repeat(n, widths),
            n * images,
            n * n * images,
        )

    @classmethod
    def from_vector(
        cls, vector: np.ndarray, channels: Mapping[str, int]
    ) -> tuple[Sums, np.ndarray]:
        """The sums that a vector begins with, as `to_vector` puts them, and the rest of it."""
        shapes = [part.shape for part in cls.zeros(channels)]
        *parts, rest = np.split(vector, np.cumsum([math.prod(shape) for shape in shapes]))
        return cls(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))), rest

    def to_vector(self) -> np.ndarray:
        """All sums one after the other."""
        return np.concatenate([np.atleast_1d(part) for part in self])

    def __add__(self, other: Sums) -> Sums:  # type: ignore[override]
        return Sums(*(left + right for left, right in zip(self, other, strict=True)))

    def to_means(self, channels: Mapping[str, int]) -> Means:
        """Means and standard errors.

        With r = sum s / sum n, sum (s - r n)^2 = sum s^2 - 2 r sum s n + r^2 sum n^2.
        """
        images = int(self.images)
        mean, standard_error, positions = {}, {}, {}
        ends = np.cumsum(list(channels.values()))
        for i, (name, end) in enumerate(zip(channels, ends, strict=True)):
            part = slice(end - channels[name], end)
            n = self.n[i]
            r = self.s[part] / max(n, 1)
            with np.errstate(invalid="ignore"):  # what is infinite stays not finite
                squares = self.ss[part] - 2 * r * self.sn[part] + r * r * self.nn[i]
            if images > 1:
                # Rounding can make a sum of squares negative.
                error = np.sqrt(np.maximum(squares, 0) * images / (images - 1)) / n
            else:
                error = np.where(r > 0, np.inf, 0.0)
            mean[name], standard_error[name], positions[name] = r, error, int(n)
        return Means(mean, standard_error, positions, images)


def channels_of(network: keras.Model) -> dict[str, int]:
    """Layer name to number of channels of a features model."""
    return {name: tensor.shape[-1] for name, tensor in network.output.items()}


def image_sums(
    activations: Sequence[tf.Tensor], dtype: tf.DType = tf.float64
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over positions of each image and channel, and the positions of an image.

    A row of positions is added in float32, rows in `dtype`: at most 1.3e-8 relative from an
    all-float64 sum on random activations [8, 224, 224, 64], at a seventh of its time.  No image's
    sum depends on the others of its batch.

    Args:
        activations: [B, h, w, C] or [B, C] each.
        dtype: Type of the sums; tf.float32 where a device has no float64.

    Returns:
        Sums [B, T], all layers one after the other, and positions [L].
    """
    sums, positions = [], []
    for activation in activations:
        if activation.shape.rank == 2:
            sums.append(tf.cast(activation, dtype))
            positions.append(tf.constant(1, dtype))
        else:
            rows = tf.reduce_sum(activation, axis=2)
            sums.append(tf.reduce_sum(tf.cast(rows, dtype), axis=1))
            shape = tf.shape(activation)
            positions.append(tf.cast(shape[1], dtype) * tf.cast(shape[2], dtype))
    return tf.concat(sums, axis=1), tf.stack(positions)


def summing_step(
    network: keras.Model, dtype: tf.DType = tf.float64
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """The forward pass of a features model followed by `image_sums`, to be put in a tf.function."""
    channels = channels_of(network)

    def forward(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = network(image, training=False)
        sums, positions = image_sums([features[name] for name in channels], dtype)
        # A convolution fused with its ReLU turns NaN into 0, so the image itself is tested.
        finite = tf.reduce_all(tf.math.is_finite(image), axis=[1, 2, 3])
        return tf.where(finite[:, None], sums, tf.constant(np.nan, dtype)), positions

    def nothing() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.zeros([0, sum(channels.values())], dtype), tf.zeros([len(channels)], dtype)

    def step(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A device that has run out of images gets an empty batch, on which convolutions can fail.
        if image.shape[0] == 0:
            return nothing()
        return tf.cond(tf.shape(image)[0] > 0, lambda: forward(image), nothing)

    return step


def require_finite(
    s: np.ndarray, channels: Mapping[str, int], names: Sequence[Callable[[], str]]
) -> None:
    """Raises NetworkError naming the first layer and image with a NaN or infinite activation.

    Args:
        s: Sum of the activations of each image and channel, [B, T].
        channels: Layer name to number of channels.
        names: For each image, a function that returns its name; called for the faulty one only.
    """
    bad = ~np.isfinite(s)
    if bad.any():
        image = int(np.flatnonzero(bad.any(1))[0])
        channel = int(np.flatnonzero(bad[image])[0])
        ends = np.cumsum(list(channels.values()))
        layer = list(channels)[int(np.searchsorted(ends, channel, side="right"))]
        raise NetworkError(
            f"Expected finite activations. Received: NaN or infinity in {layer} at "
            f"{names[image]()}. Check the weights and `preprocessing`."
        )


def channel_means(
    model: keras.Model, batches: Iterable[Any], *, layers: Sequence[str] | None = None
) -> Means:
    """Mean activation after ReLU of every filter, over all positions of all images.

    Args:
        model: A chain of layers (`build`, or any keras.Model of convolutions and ReLUs).
        batches: Images, [B, H, W, 3], RGB in [0, 1]; sizes may differ between batches.
        layers: Names of layers; default: all that are followed by a ReLU.

    Returns:
        The means with standard errors.

    Raises:
        NetworkError: The model is not a chain, or a weight or an activation is not finite.
        ImagesError: A batch does not hold images in [0, 1] for this network, or there are none.
    """
    network = chain.features(model, layers)
    loading.require_finite_model(model)
    channels = channels_of(network)
    step = tf.function(summing_step(network), reduce_retracing=True, autograph=False)
    sums, done = Sums.zeros(channels), 0
    for batch in batches:
        images = as_images(batch, model, f"the batch from image {done}")
        s, n = (tensor.numpy() for tensor in step(images))
        require_finite(s, channels, [partial("image {}".format, done + i) for i in range(len(s))])
        sums += Sums.from_batch(s, n, channels)
        done += len(s)
    if not done:
        raise ImagesError(
            "Expected at least one image. Received: no batches. A generator that was read before is "
            "empty: give a list, or make it anew."
        )
    return sums.to_means(channels)
