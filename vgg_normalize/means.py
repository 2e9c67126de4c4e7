"""Channel means: sums that merge, and the ratio estimate with its standard error.

The mean of a filter's activation over all positions of all images is a ratio of two sums over
images, r = sum s / sum n (s the sum of an image's activations, n its positions), so its standard
error is that of a ratio: se^2 = k / (k - 1) sum (s - r n)^2 / (sum n)^2 over k images.

Reference: Cochran, "Sampling Techniques", 3rd edition, 1977, section 6.3 (equation 6.9 without
the finite population correction).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain, weights
from vgg_normalize.batches import as_images
from vgg_normalize.errors import ImagesError, NetworkError

# Below this share of its layer's average mean a filter counts as firing rarely.
RARE = 1e-3


@dataclass(frozen=True)
class Means:
    """Channel means of the rectified layers of a network.

    Attributes:
        mean: Layer name to means, float64 [C].
        standard_error: Layer name to their standard errors, float64 [C]; infinite for one image.
        positions: Layer name to the total number of positions.
        images: How many images.
        settings: How they were measured, as far as it is known: "architecture", "pooling",
            "preprocessing", "resize", "image_size", "biases" (see `weights.bias_digests`) ...
    """

    mean: Mapping[str, np.ndarray]
    standard_error: Mapping[str, np.ndarray]
    positions: Mapping[str, int]
    images: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def scales(self, layer: str) -> np.ndarray:
        """What the filters are divided by: their means, and 1 for a dead one."""
        mean = self.mean[layer]
        return np.where(mean == 0, 1.0, mean)

    def dead(self, layer: str) -> np.ndarray:
        """Indices of the filters that never fired."""
        return np.flatnonzero(self.mean[layer] == 0)

    def rarely_firing(self, layer: str) -> int:
        """How many living filters have a mean below 0.001 of their layer's average."""
        mean = self.mean[layer]
        return int(((mean > 0) & (mean < RARE * mean.mean())).sum())

    def relative_errors(self) -> np.ndarray:
        """Standard error over mean of every living filter, all layers in one array."""
        parts = [
            self.standard_error[layer][mean > 0] / mean[mean > 0]
            for layer, mean in self.mean.items()
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def of_layers(self, names: Iterable[str]) -> Means:
        """The means of some layers, those that there are, in this order."""
        found = [name for name in names if name in self.mean]
        return replace(
            self,
            mean={name: self.mean[name] for name in found},
            standard_error={name: self.standard_error[name] for name in found},
            positions={name: self.positions[name] for name in found},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `<layer>/mean`, `<layer>/standard_error`, `<layer>/positions`, `images`, and
        `settings` as JSON."""
        arrays: dict[str, Any] = {"images": np.int64(self.images)}
        if self.settings:
            arrays["settings"] = np.array(json.dumps(dict(self.settings)))
        for layer in self.mean:
            arrays[f"{layer}/mean"] = self.mean[layer]
            arrays[f"{layer}/standard_error"] = self.standard_error[layer]
            arrays[f"{layer}/positions"] = np.int64(self.positions[layer])
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)

    def _require_sound(self) -> None:
        """Raises ValueError where arrays or settings have not the form that they must have."""
        for name, mean in self.mean.items():
            if mean.ndim != 1 or self.standard_error[name].shape != mean.shape:
                raise ValueError(f"{name} with shapes {mean.shape} and not one error for each")
        if not self.mean or not isinstance(self.settings, dict):
            raise ValueError("no means of layers, or settings that are no mapping")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Means:
        """Read what `save` wrote.

        Raises:
            NetworkError: Not such a file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = [key[: -len("/mean")] for key in file.files if key.endswith("/mean")]
                found = cls(
                    {name: file[f"{name}/mean"].astype(np.float64) for name in names},
                    {name: file[f"{name}/standard_error"].astype(np.float64) for name in names},
                    {name: int(file[f"{name}/positions"]) for name in names},
                    int(file["images"]),
                    json.loads(str(file["settings"])) if "settings" in file.files else {},
                )
            found._require_sound()
            return found
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
            raise NetworkError(
                f"Expected a means.npz. Received: {path}, which cannot be read "
                f"({' '.join(str(error).split())[:200]}). Measure again, or check --means."
            ) from error


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

    def __add__(self, other: Sums) -> Sums:  # type: ignore[override]
        return Sums(*(mine + its for mine, its in zip(self, other, strict=True)))


def zero(channels: Mapping[str, int]) -> Sums:
    """The sums over no images of layers with so many channels."""
    total, layers = sum(channels.values()), len(channels)
    return Sums(
        np.zeros(()), np.zeros(total), np.zeros(total), np.zeros(total), *np.zeros((2, layers))
    )


def of_images(s: np.ndarray, n: np.ndarray, channels: Mapping[str, int]) -> Sums:
    """The sums over a batch of equally large images.

    Args:
        s: Sum of the activations of each image and channel, [B, T].
        n: Positions of an image in each layer, [L].
        channels: Layer name to channels.
    """
    s, n = np.asarray(s, np.float64), np.asarray(n, np.float64)
    count = len(s)
    total = s.sum(0)
    widths = list(channels.values())
    return Sums(
        np.asarray(float(count)),
        total,
        np.square(s).sum(0),
        total * np.repeat(n, widths),
        n * count,
        n * n * count,
    )


def finish(sums: Sums, channels: Mapping[str, int]) -> Means:
    """Means and standard errors from sums."""
    images = int(sums.images)
    mean, error, positions = {}, {}, {}
    ends = np.cumsum(list(channels.values()))
    for i, (name, end) in enumerate(zip(channels, ends, strict=True)):
        part = slice(end - channels[name], end)
        n = sums.n[i]
        ratio = sums.s[part] / max(n, 1)
        squares = sums.ss[part] - 2 * ratio * sums.sn[part] + ratio * ratio * sums.nn[i]
        if images > 1:
            spread = np.sqrt(np.maximum(squares, 0) * images / (images - 1)) / n
        else:
            spread = np.where(ratio > 0, np.inf, 0.0)
        mean[name], error[name], positions[name] = ratio, spread, int(n)
    return Means(mean, error, positions, images)


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
        dtype: Of the sums; tf.float32 where a device has no float64.

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
        found = network(image, training=False)
        sums, positions = image_sums([found[name] for name in channels], dtype)
        # A convolution fused with its ReLU makes 0 of a NaN, so the image is looked at itself.
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
    """Raises NetworkError naming the first layer and image with a NaN or infinite activation."""
    bad = ~np.isfinite(s)
    if bad.any():
        image = int(np.flatnonzero(bad.any(1))[0])
        channel = int(np.flatnonzero(bad[image])[0])
        ends = np.cumsum(list(channels.values()))
        layer = list(channels)[int(np.searchsorted(ends, channel, side="right"))]
        raise NetworkError(
            f"Expected finite activations. Received: NaN or infinity in {layer} at "
            f"{names[image]()}. Check the weights and --preprocessing."
        )


def channel_means(
    model: keras.Model, batches: Iterable[Any], *, layers: Sequence[str] | None = None
) -> Means:
    """Mean activation after ReLU of every filter, pooled over all images and positions.

    Args:
        model: A chain of layers (`build`, or any keras.Model of convolutions and ReLUs).
        batches: Images, [B, H, W, 3], RGB in [0, 1]; sizes may differ between batches.
        layers: Names; default: all that are followed by a ReLU.

    Returns:
        The means with standard errors.

    Raises:
        NetworkError: Not a chain, or a weight or an activation is not finite.
        ImagesError: What was given are no images in [0, 1] for this network, or there are none.
    """
    network = chain.features(model, layers)
    weights.require_finite_model(model)
    channels = channels_of(network)
    step = tf.function(summing_step(network), reduce_retracing=True)
    sums, done = zero(channels), 0
    for batch in batches:
        images = as_images(batch, model, f"the batch from image {done}")
        s, n = (tensor.numpy() for tensor in step(images))
        require_finite(s, channels, [partial("image {}".format, done + i) for i in range(len(s))])
        sums += of_images(s, n, channels)
        done += len(s)
    if not done:
        raise ImagesError(
            "Expected at least one image. Received: no batches. A generator that was read before is "
            "empty: give a list, or make it anew."
        )
    return finish(sums, channels)
