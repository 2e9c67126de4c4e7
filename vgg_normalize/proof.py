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
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain
from vgg_normalize import means as channel
from vgg_normalize.batches import as_images
from vgg_normalize.errors import ImagesError
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
        worst_mean_deviation: See the module; None where the means were measured on other images.
        worst_feature_error: See the module.
        worst_output_error: See the module; None without a classifier.
        agreeing: Share of the filters whose checked mean agrees with the one used; None likewise.
        mean_after: Layer name to s m' / m, [C]; NaN where a filter did not fire.
        feature_errors: Layer name to its feature error.
        silent: Layers of which no filter fired: nothing was compared there, so the check failed.
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
        normal: The normalised one.
        means: The means that it was normalised with.
        batches: Images [B, H, W, 3], RGB in [0, 1].
        artefact: Where the normalised features come from, such as the function of a loaded
            SavedModel: image to {layer: activation}; default: `normal`.
        other_images: Whether the means were measured on other images than these; then they say
            nothing of them, and features and outputs alone decide.

    Returns:
        The findings; look at `passed`.

    Raises:
        NetworkError: The networks do not have the layers that the means have.
        ImagesError: What was given are no images in [0, 1] for this network, or there are none.
    """
    names = list(means.mean)
    original = chain.features(model, names)
    totals = _Totals(channel.channels_of(original))
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


class _Totals:
    """What was found on all images so far."""

    def __init__(self, channels: Mapping[str, int]) -> None:
        self.channels = channels
        self.errors, self.largest = np.zeros((2, len(channels)))
        self.before = self.after = channel.zero(channels)
        self.output_error = self.output_largest = 0.0
        self.has_outputs = False

    def add(self, found: Any) -> None:
        """Add what the step found on a batch."""
        error, large, s, s_after, n = (tensor.numpy() for tensor in found[:5])
        # NaN must not pass for small: maximum keeps it.
        self.errors = np.maximum(self.errors, error)
        self.largest = np.maximum(self.largest, large)
        self.before += channel.of_images(s, n, self.channels)
        self.after += channel.of_images(s_after, n, self.channels)
        if found[5]:
            self.has_outputs = True
            before, after = (np.asarray(z, np.float64) for z in found[5])
            self.output_error = np.maximum(self.output_error, np.abs(after - before).max())
            self.output_largest = max(self.output_largest, float(np.abs(before).max()))


def _comparing_step(
    original: keras.Model,
    measured: Features,
    scales: Mapping[str, np.ndarray],
    outputs: Sequence[keras.Model],
) -> Callable[[tf.Tensor], Any]:
    """A graph: images -> errors and largest features [L], sums before and after [B, T], positions
    [L], and the last layer's outputs of both networks, if there are any."""

    @tf.function(reduce_retracing=True)
    def compare(image: tf.Tensor) -> Any:
        # In float32 whatever the policy of the networks.
        found = [function(image) for function in (original, measured)]
        before, after = ({name: tf.cast(f[name], tf.float32) for name in scales} for f in found)
        errors, largest = [], []
        for name, scale in scales.items():
            difference = scale.astype(np.float32) * after[name] - before[name]
            errors.append(tf.reduce_max(tf.abs(difference)))
            largest.append(tf.reduce_max(before[name]))
        s, n = channel.image_sums(list(before.values()))
        s_after, _ = channel.image_sums(list(after.values()))
        read_outs = [output(image, training=False) for output in outputs]
        return tf.stack(errors), tf.stack(largest), s, s_after, n, read_outs

    return compare


def _judge(means: Means, totals: _Totals, other_images: bool) -> Check:
    """The findings and the verdict."""
    before = channel.finish(totals.before, totals.channels)
    after = channel.finish(totals.after, totals.channels)
    deviation, mean_after = 0.0, {}
    for name, m in before.mean.items():
        rescaled = means.scales(name) * after.mean[name]
        floor = np.maximum(m, channel.RARE * m.mean())
        apart = np.abs(rescaled - m) / np.where(floor > 0, floor, 1.0)
        deviation = np.maximum(deviation, apart.max())
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
    parts = [f"feature error {found.worst_feature_error:.1e} (at most {FEATURE_TOLERANCE:.0e})"]
    if found.worst_mean_deviation is not None:
        parts.append(
            f"mean deviation {found.worst_mean_deviation:.1e} (at most {MEAN_TOLERANCE:.0e})"
        )
    if found.worst_output_error is not None:
        parts.append(
            f"output error {found.worst_output_error:.1e} (at most {OUTPUT_TOLERANCE:.0e})"
        )
    if found.agreeing is not None and found.agreeing < 1:
        parts.append(f"{found.agreeing:.2%} of the means agree (at least {AGREEING_SHARE:.0%})")
    if found.silent:
        parts.append(f"no filter fired in {', '.join(found.silent)}, so nothing was compared there")
    text = ", ".join(parts) + f" on {found.images} images"
    if found.agreeing is None:
        text += ", on which the means were not measured"
    return text
