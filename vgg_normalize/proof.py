"""The proof: features are scaled originals, means are one, predictions are unchanged.

With f, m a layer's features and channel means on the checked images, f', m' the normalised
network's, and s the scales:

    worst_feature_error   max |s f' - f| / max |f| in the layer             at most 1e-4
    worst_mean_deviation  max |s m' - m| / max(m, 0.001 average of m)       at most 1e-3
    worst_output_error    max |z' - z| / max |z|, z before the softmax      at most 1e-4

and, when fewer images are checked than were measured, the means on them agree with those used
within 6 standard errors (of the difference) for 99 % of the filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain
from vgg_normalize import means as channel
from vgg_normalize.means import Means

FEATURE_TOLERANCE = 1e-4
MEAN_TOLERANCE = 1e-3
OUTPUT_TOLERANCE = 1e-4
STANDARD_ERRORS = 6.0
AGREEING_SHARE = 0.99
# Equal means of equal images differ by rounding; this much is no disagreement.
ROUNDING = 1e-5

Features = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


@dataclass(frozen=True)
class Check:
    """What a check found; `passed` is the verdict.

    Attributes:
        passed: All of the tolerances hold.
        images: How many images were checked.
        worst_mean_deviation: See the module.
        worst_feature_error: See the module.
        worst_output_error: See the module; None without a classifier.
        agreeing: Share of the filters whose checked mean agrees with the one used.
        mean_after: Layer name to s m' / m, [C]; NaN where a filter did not fire.
        feature_errors: Layer name to its feature error.
    """

    passed: bool
    images: int
    worst_mean_deviation: float
    worst_feature_error: float
    worst_output_error: float | None
    agreeing: float
    mean_after: Mapping[str, np.ndarray]
    feature_errors: Mapping[str, float]


def check(
    model: keras.Model,
    normal: keras.Model,
    means: Means,
    batches: Iterable[Any],
    *,
    artefact: Features | None = None,
) -> Check:
    """Compare a normalised network with its original on images.

    Args:
        model: The original network.
        normal: The normalised one.
        means: The means that it was normalised with.
        batches: Images [B, H, W, 3], RGB in [0, 1].
        artefact: Where the normalised features come from, such as the function of a loaded
            SavedModel: image to {layer: activation}; default: `normal`.

    Returns:
        The findings; look at `passed`.

    Raises:
        NetworkError: The networks do not have the layers that the means have.
    """
    names = list(means.mean)
    original = chain.features(model, names)
    measured = chain.features(normal, names) if artefact is None else artefact
    channels = channel.channels_of(original)
    scales = {name: means.scales(name) for name in names}
    outputs = _read_outs(model, normal)

    @tf.function(reduce_retracing=True)
    def compare(image: tf.Tensor) -> Any:
        before, after = original(image, training=False), measured(image)
        errors, largest = [], []
        for name in names:
            difference = scales[name].astype(np.float32) * after[name] - before[name]
            errors.append(tf.reduce_max(tf.abs(difference)))
            largest.append(tf.reduce_max(before[name]))
        s, n = channel.image_sums([before[name] for name in names])
        s_after, _ = channel.image_sums([after[name] for name in names])
        read_outs = [output(image, training=False) for output in outputs]
        return tf.stack(errors), tf.stack(largest), s, s_after, n, read_outs

    errors, largest = np.zeros(len(names)), np.zeros(len(names))
    sums, sums_after = channel.zero(channels), channel.zero(channels)
    output_error = output_largest = 0.0
    for batch in batches:
        found = compare(tf.convert_to_tensor(batch, tf.float32))
        error, large, s, s_after, n = (tensor.numpy() for tensor in found[:5])
        # NaN must not pass for small: maximum keeps it.
        errors, largest = np.maximum(errors, error), np.maximum(largest, large)
        sums += channel.of_images(s, n, channels)
        sums_after += channel.of_images(s_after, n, channels)
        if outputs:
            before, after = (np.asarray(z, np.float64) for z in found[5])
            output_error = np.maximum(output_error, np.abs(after - before).max())
            output_largest = max(output_largest, float(np.abs(before).max()))
    if not sums.images:
        raise ValueError("Expected at least one image to check on. Received: none.")
    before_means = channel.finish(sums, channels)
    after_means = channel.finish(sums_after, channels)
    deviation, mean_after = 0.0, {}
    for name in names:
        m, rescaled = before_means.mean[name], scales[name] * after_means.mean[name]
        floor = np.maximum(m, channel.RARE * m.mean())
        apart = np.abs(rescaled - m) / np.where(floor > 0, floor, 1.0)
        deviation = np.maximum(deviation, apart.max())
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_after[name] = np.where(m > 0, rescaled / m, np.nan)
    feature_errors = np.where(errors > 0, errors / np.where(largest > 0, largest, 1.0), errors)
    agreeing = _agreement(means, before_means)
    worst_output = float(output_error / (output_largest or 1.0)) if outputs else None
    worst_feature = float(feature_errors.max())
    passed = bool(
        worst_feature <= FEATURE_TOLERANCE
        and deviation <= MEAN_TOLERANCE
        and (worst_output is None or worst_output <= OUTPUT_TOLERANCE)
        and agreeing >= AGREEING_SHARE
    )
    return Check(
        passed=passed,
        images=before_means.images,
        worst_mean_deviation=float(deviation),
        worst_feature_error=worst_feature,
        worst_output_error=worst_output,
        agreeing=agreeing,
        mean_after=mean_after,
        feature_errors=dict(zip(names, feature_errors.tolist(), strict=True)),
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

    Both samples have their error; a filter that fired in no checked image has none of its own,
    which is why the errors of both count.
    """
    agree: list[np.ndarray] = []
    for name, mean in used.mean.items():
        error = np.hypot(used.standard_error[name], checked.standard_error[name])
        apart = np.abs(checked.mean[name] - mean)
        agree.append(apart <= STANDARD_ERRORS * error + ROUNDING * np.abs(mean))
    return float(np.concatenate(agree).mean())


def describe(found: Check) -> str:
    """The findings with their limits, on one line."""
    parts = [
        f"feature error {found.worst_feature_error:.1e} (at most {FEATURE_TOLERANCE:.0e})",
        f"mean deviation {found.worst_mean_deviation:.1e} (at most {MEAN_TOLERANCE:.0e})",
    ]
    if found.worst_output_error is not None:
        parts.append(
            f"output error {found.worst_output_error:.1e} (at most {OUTPUT_TOLERANCE:.0e})"
        )
    if found.agreeing < 1:
        parts.append(f"{found.agreeing:.2%} of the means agree (at least {AGREEING_SHARE:.0%})")
    return ", ".join(parts) + f" on {found.images} images"
