"""The proof: features are scaled originals, means are one, predictions are unchanged.

With f, m a layer's features and channel means on the checked images, f', m' the normalised
network's, and s the scales:

    worst_feature_error   max |s f' - f| / max |f| in the layer             at most 1e-4
    worst_mean_deviation  max |s m' - m| / max(m, 0.001 average of m)       at most 1e-3
    worst_output_error    max |z' - z| / max |z|, z before the softmax      at most 1e-4

and, when fewer images are checked than were measured, the means on them agree with those used
within 6 standard errors (of the difference) for 99 % of the filters.  Where the means were measured
on other images, only features and outputs can be checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import channel_sums
from vgg_normalize.channel_sums import Sums
from vgg_normalize.data.batches import as_images
from vgg_normalize.errors import ImagesError
from vgg_normalize.means import RARE, Means
from vgg_normalize.networks import chain

FEATURE_TOLERANCE = 1e-4
MEAN_TOLERANCE = 1e-3
OUTPUT_TOLERANCE = 1e-4
STANDARD_ERRORS = 6.0
AGREEING_SHARE = 0.99
# Equal means of equal images differ by rounding; a relative difference of this size is allowed.
ROUNDING = 1e-5

Features = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class Check:
    """The findings of a check; `passed` is the verdict.

    Attributes:
        passed: Whether all tolerances hold.
        images: Number of images checked.
        worst_mean_deviation: Largest over all filters, as the module defines it; None where the
            means were measured on other images.
        worst_feature_error: Largest over all layers, as the module defines it.
        worst_output_error: As the module defines it; None without a classifier.
        agreeing: Share of the filters whose mean on the checked images agrees with the one used,
            in [0, 1]; None where the means were measured on other images.
        mean_after: Layer name to s m' / m, [C]; NaN where a filter did not fire.
        feature_errors: Layer name to its feature error.
        silent: Layers in which no filter fired: nothing was compared there, so the check failed.
    """

    passed: bool
    images: int
    worst_mean_deviation: float | None
    worst_feature_error: float
    worst_output_error: float | None
    agreeing: float | None
    mean_after: Mapping[str, np.ndarray]
    feature_errors: Mapping[str, float]
    silent: tuple[str, ...] = ()


def check(
    model: keras.Model,
    normal: keras.Model,
    means: Means,
    batches: Iterable[Any],
    *,
    artefact: Features | None = None,
    other_images: bool = False,
) -> Check:
    """Compare a normalised network with its original on images.

    Args:
        model: The original network.
        normal: The normalised network.
        means: The means that it was normalised with.
        batches: Images [B, H, W, 3], RGB in [0, 1].
        artefact: Function from image to {layer: activation} that computes the normalised features,
            such as a loaded SavedModel; default: `normal`.
        other_images: Whether the means were measured on other images than these.  Then only
            features and outputs decide, because the means say nothing about these images.

    Returns:
        The findings; `passed` is the verdict.

    Raises:
        NetworkError: A network lacks a layer that the means name.
        ImagesError: A batch does not hold images in [0, 1] for this network, or there are none.
    """
    names = list(means.mean)
    original = chain.features(model, names)
    totals = _Totals(channel_sums.channels_of(original))
    compare = _comparing_step(
        original,
        chain.features(normal, names) if artefact is None else artefact,
        {name: means.scales(name) for name in names},
        _read_outs(model, normal),
    )
    for batch in batches:
        totals.add(compare(as_images(batch, model)))
    if not totals.before.images:
        raise ImagesError(
            "Expected at least one image to check on. Received: none. A generator that was read "
            "before is empty: give a list, or make it anew."
        )
    return _judge(means, totals, other_images)


class _Batch(NamedTuple):
    """What is compared on one batch of B images (T channels, L layers).

    Attributes:
        errors: max |s f' - f| of each layer, [L].
        largest: max f of each layer, [L].
        s: Sum of the original activations of each image and channel, [B, T].
        s_after: The same of the normalised activations, not rescaled, [B, T].
        n: Number of positions of an image in each layer, [L].
        outputs: Output of the last layer before its activation, original and normalised; empty if
            that activation is a ReLU.
    """

    errors: tf.Tensor
    largest: tf.Tensor
    s: tf.Tensor
    s_after: tf.Tensor
    n: tf.Tensor
    outputs: Sequence[tf.Tensor]


class _Totals:
    """Maxima and sums over all images so far."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        self.channels = channels
        self.errors, self.largest = np.zeros((2, len(channels)))
        self.before = self.after = Sums.zeros(channels)
        self.output_error = self.output_largest = 0.0
        self.has_outputs = False

    def add(self, batch: _Batch) -> None:
        """Add one batch."""
        s, s_after, n = (tensor.numpy() for tensor in (batch.s, batch.s_after, batch.n))
        # np.maximum keeps NaN, which must not pass for a small error.
        self.errors = np.maximum(self.errors, batch.errors.numpy())
        self.largest = np.maximum(self.largest, batch.largest.numpy())
        self.before += Sums.from_batch(s, n, self.channels)
        self.after += Sums.from_batch(s_after, n, self.channels)
        if batch.outputs:
            self.has_outputs = True
            before, after = (np.asarray(z, np.float64) for z in batch.outputs)
            self.output_error = np.maximum(self.output_error, np.abs(after - before).max())
            self.output_largest = max(self.output_largest, float(np.abs(before).max()))


def _comparing_step(
    original: keras.Model,
    normalized: Features,
    scales: Mapping[str, np.ndarray],
    read_outs: Sequence[keras.Model],
) -> Callable[[tf.Tensor], _Batch]:
    """A graph that compares the networks on images [B, H, W, 3]."""

    @tf.function(reduce_retracing=True, autograph=False)
    def compare(image: tf.Tensor) -> _Batch:
        # In float32 whatever the policy of the networks.
        features = [function(image) for function in (original, normalized)]
        before, after = ({name: tf.cast(f[name], tf.float32) for name in scales} for f in features)
        errors, largest = [], []
        for name, scale in scales.items():
            difference = scale.astype(np.float32) * after[name] - before[name]
            errors.append(tf.reduce_max(tf.abs(difference)))
            largest.append(tf.reduce_max(before[name]))
        s, n = channel_sums.image_sums(list(before.values()))
        s_after, _ = channel_sums.image_sums(list(after.values()))
        outputs = [network(image, training=False) for network in read_outs]
        return _Batch(tf.stack(errors), tf.stack(largest), s, s_after, n, outputs)

    return compare


def _judge(means: Means, totals: _Totals, other_images: bool) -> Check:
    """Errors and verdict from the totals over all images."""
    before = totals.before.to_means(totals.channels)
    after = totals.after.to_means(totals.channels)
    deviation, mean_after = 0.0, {}
    for name, m in before.mean.items():
        rescaled = means.scales(name) * after.mean[name]
        floor = np.maximum(m, RARE * m.mean())
        deviations = np.abs(rescaled - m) / np.where(floor > 0, floor, 1.0)
        deviation = np.maximum(deviation, deviations.max())
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_after[name] = np.where(m > 0, rescaled / m, np.nan)
    largest = np.where(totals.largest > 0, totals.largest, 1.0)
    feature_errors = np.where(totals.errors > 0, totals.errors / largest, totals.errors)
    silent = tuple(n for n, top in zip(before.mean, totals.largest, strict=True) if not top > 0)
    agreeing = None if other_images else _agreement(means, before)
    output_error = None
    if totals.has_outputs:
        output_error = float(totals.output_error / (totals.output_largest or 1.0))
    passed = bool(
        feature_errors.max() <= FEATURE_TOLERANCE
        and (other_images or deviation <= MEAN_TOLERANCE)
        and (output_error is None or output_error <= OUTPUT_TOLERANCE)
        and (agreeing is None or agreeing >= AGREEING_SHARE)
        and not silent
    )
    return Check(
        passed=passed,
        images=before.images,
        worst_mean_deviation=None if other_images else float(deviation),
        worst_feature_error=float(feature_errors.max()),
        worst_output_error=output_error,
        agreeing=agreeing,
        mean_after=mean_after,
        feature_errors=dict(zip(before.mean, feature_errors.tolist(), strict=True)),
        silent=silent,
    )


def _read_outs(model: keras.Model, normal: keras.Model) -> list[keras.Model]:
    """Both networks' last layers before their last activation, if that is not a ReLU."""
    if chain.stages(model)[-1].rectified:
        return []
    return [_before_last_activation(network) for network in (model, normal)]


def _before_last_activation(network: keras.Model) -> keras.Model:
    """The read-out on shared weights, with its activation left out."""
    last = chain.stages(network)[-1]
    tensors = chain.tensors(network)
    if last.activation is not last.layer:
        return keras.Model(network.inputs[0], tensors[last.layer.name])
    before = list(tensors)[: list(tensors).index(last.layer.name)]
    linear = chain.copy_layer(last.layer, activation="linear")
    output = linear(tensors[before[-1]] if before else network.inputs[0])
    linear.set_weights(last.layer.get_weights())
    return keras.Model(network.inputs[0], output)


def _agreement(used: Means, checked: Means) -> float:
    """Share of filters whose mean on the checked images is within 6 standard errors of that used.

    A difference of two means has the standard error sqrt(e^2 + e'^2).  Both count, because a filter
    that fired in no checked image has an error of zero there.
    """
    agree: list[np.ndarray] = []
    for name, mean in used.mean.items():
        error = np.hypot(used.standard_error[name], checked.standard_error[name])
        difference = np.abs(checked.mean[name] - mean)
        agree.append(difference <= STANDARD_ERRORS * error + ROUNDING * np.abs(mean))
    return float(np.concatenate(agree).mean())


def describe(check: Check) -> str:
    """The findings with their limits, on one line."""
    parts = [f"feature error {check.worst_feature_error:.1e} (at most {FEATURE_TOLERANCE:.0e})"]
    if check.worst_mean_deviation is not None:
        parts.append(
            f"mean deviation {check.worst_mean_deviation:.1e} (at most {MEAN_TOLERANCE:.0e})"
        )
    if check.worst_output_error is not None:
        parts.append(
            f"output error {check.worst_output_error:.1e} (at most {OUTPUT_TOLERANCE:.0e})"
        )
    if check.agreeing is not None and check.agreeing < 1:
        parts.append(f"{check.agreeing:.2%} of the means agree (at least {AGREEING_SHARE:.0%})")
    if check.silent:
        parts.append(f"no filter fired in {', '.join(check.silent)}, so nothing was compared there")
    text = ", ".join(parts) + f" on {check.images} images"
    if check.agreeing is None:
        text += ", on which the means were not measured"
    return text
