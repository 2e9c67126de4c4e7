"""Training a `networks.Network` on the losses that `style` optimises pictures with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style import losses
from style.evaluation import extractor
from style.losses import SAMPLES, StyleLoss
from style.networks import Network
from style.objective import exact_sums
from style.tiles import IMAGE
from vgg_normalize import decode
from vgg_normalize.errors import ImagesError
from vgg_normalize.images import Source

Layers = Sequence[tuple[str, float]]


class Weights(NamedTuple):
    """The objective of a training: as that of a picture, averaged over a batch.

    Attributes:
        content_layers: (name, weight) where the picture should have the content's features; for
            AdaIN these are the goal's, at the layer where it normalises.
        style_layers: (name, weight) where it should have the style's statistics.
        content: Factor of the content.
        style: Factor of the style.
        variation: Factor of total variation.
        loss: A key of `losses.STYLE_LOSSES`.
    """

    content_layers: Layers
    style_layers: Layers
    content: float = 1.0
    style: float = 10.0
    variation: float = 0.0
    loss: str = "moments"


def usable(source: Source, side: int, max_skipped: int = 0) -> tuple[np.ndarray, list[str]]:
    """Indices of the pictures that can be cropped, and why each of the others cannot.

    Args:
        source: The pictures.
        side: Of the crops; smaller pictures are left out.
        max_skipped: How many unreadable ones are left out too.

    Raises:
        ImagesError: More than `max_skipped` are unreadable, or none is left.
    """
    good, complaints, unreadable = [], [], 0
    for index in range(source.total):
        try:
            name, encoded = source.read(index)
            damage = decode.fault(encoded) or _undecodable(encoded)
            why = damage or decode.fault(encoded, side).replace("this network", "the crop")
        except OSError as error:
            name, why = str(error.filename), f"cannot be read ({error.strerror or error})"
            damage = why
        unreadable += bool(damage)
        if why:
            complaints.append(f"{name!r}: {why}")
        else:
            good.append(index)
        if unreadable > max_skipped:
            raise ImagesError(
                f"Expected at most {max_skipped} unreadable pictures under {source.name!r}. "
                f"Received: {complaints[-1]}. Mend or remove it, or allow more with --max_skipped."
            )
    if not good:
        raise ImagesError(
            f"Expected pictures of at least {side} x {side} under {source.name!r}. Received: none, "
            f"for example {complaints[-1]}. Lower --size, or give larger pictures."
        )
    return np.array(good), complaints


def _undecodable(encoded: bytes) -> str:
    """Why a picture with a good header cannot be decoded, or ""; of JPEGs `decode.fault` knows."""
    if encoded[:3] == b"\xff\xd8\xff":
        return ""
    try:
        decode.decode(tf.constant(encoded))
    except tf.errors.OpError as error:
        return f"cannot be decoded ({_words(error.message)})"
    return ""


def _words(message: str) -> str:
    """What TensorFlow says, without the names of its nodes."""
    found = re.sub(r"\{\{.*?\}\}|.*Iterator::\S+: |\[\[|\]\]|\[Op:.*", " ", message)
    return " ".join(found.split())[-200:]


def order(count: int, first: int, last: int, seed: int) -> np.ndarray:
    """Which of so many pictures are the examples number first to last: each once an epoch, in an
    order that depends on the seed and the epoch alone."""
    epochs = range(first // count, -(-last // count))
    drawn = [np.random.Generator(np.random.PCG64([seed, e])).permutation(count) for e in epochs]
    begin = first - count * (first // count)
    return np.concatenate(drawn)[begin : begin + last - first] if drawn else np.empty(0, int)


def crops(
    source: Source,
    indices: np.ndarray,
    *,
    size: int,
    resize: int,
    batch_size: int,
    first: int,
    seed: int,
) -> tf.data.Dataset:
    """Random crops [B, size, size, 3] of pictures, each decided by its number alone.

    Args:
        source: The pictures.
        indices: Which ones, in order.
        size: Of the crops.
        resize: The short side before cropping; at least `size`.
        batch_size: B; a rest is left out.
        first: The number of the first one.
        seed: Of the places.
    """

    def load(number: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(decode.decode(encoded), tf.float32) / 255
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        scaled = tf.cast(tf.round(shape * (resize / tf.reduce_min(shape))), tf.int32)
        pixels = tf.image.resize(pixels, tf.maximum(scaled, size), antialias=True)
        seeds = tf.stack([tf.constant(seed, tf.int64), number])
        return tf.image.stateless_random_crop(pixels, [size, size, 3], seeds)

    numbers = tf.data.Dataset.range(first, first + len(indices))
    encoded = source.encoded(indices).map(lambda _, encoded: encoded)
    options = tf.data.Options()
    options.autotune.enabled = False
    both = tf.data.Dataset.zip(numbers, encoded)
    loaded = both.map(load, num_parallel_calls=2, deterministic=True)
    return loaded.batch(batch_size, drop_remainder=True).prefetch(2).with_options(options)


def pixels(encoded: bytes) -> np.ndarray:
    """A picture [H, W, 3] in [0, 1]."""
    return decode.decode(tf.constant(encoded)).numpy().astype(np.float32) / 255


def square(encoded: bytes, size: int) -> np.ndarray:
    """The middle of a picture, [size, size, 3], as `vgg_normalize` crops."""
    return decode.resize(decode.decode(tf.constant(encoded)), "crop", size).numpy()


def schedule(learning_rate: float, decay: float) -> keras.optimizers.schedules.LearningRateSchedule:
    """rate / (1 + decay step), as Huang and Belongie's program has it; decay 0: constant."""
    return keras.optimizers.schedules.InverseTimeDecay(learning_rate, 1, decay)


def style_targets(
    model: keras.Model, weights: Weights, pictures: Sequence[np.ndarray]
) -> list[Any]:
    """What fixed styles' statistics are, for each style layer, stacked over styles [S, ...]."""
    look = extractor(model, [name for name, _ in weights.style_layers])
    loss = losses.STYLE_LOSSES[weights.loss]()
    function = tf.function(
        lambda x: _targets(loss, look(x), weights.style_layers),
        input_signature=[tf.TensorSpec([1, None, None, 3])],
        autograph=False,
    )
    each = [function(tf.constant(picture[None], tf.float32)) for picture in pictures]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *each)


def _targets(loss: StyleLoss, found: Any, layers: Layers) -> list[Any]:
    """Targets [B, ...] of a batch of styles, layer by layer."""
    return [
        tf.nest.map_structure(
            lambda *parts: tf.stack(parts),
            *(loss.target(_sums(loss, one)) for one in tf.unstack(found[name])),
        )
        for name, _ in layers
    ]


def _sums(loss: StyleLoss, features: tf.Tensor) -> Any:
    """Of one image's features [h, w, C], in float64 where many are added."""
    flat = tf.reshape(features, [-1, features.shape[-1]])
    if loss.sampled:
        count = tf.cast(tf.shape(flat)[0] - 1, tf.float32)
        at = tf.cast(tf.round(tf.linspace(0.0, 1.0, SAMPLES) * count), tf.int32)
        return loss.sums(tf.gather(flat, at))
    return exact_sums(loss, flat)


def objective(
    network: Network, model: keras.Model, weights: Weights
) -> Callable[..., dict[str, tf.Tensor]]:
    """(content [B, H, W, 3], code [B, D], style targets) -> what each kind of term adds.

    All are means over the batch; the gradient is with respect to the learnt variables.
    """
    content_layers = (
        [(network.goal_layer, 1.0)] if network.goal_layer else list(weights.content_layers)
    )
    contents = [str(name) for name, _ in content_layers]
    look = extractor(model, [*contents, *(name for name, _ in weights.style_layers)])
    compare = extractor(model, contents)
    loss = losses.STYLE_LOSSES[weights.loss]()

    def terms(content: tf.Tensor, code: tf.Tensor, targets: list[Any]) -> dict[str, tf.Tensor]:
        made = network.transform({"content": content, "code": code})
        found = look(made["image"])
        wanted = {network.goal_layer: made["goal"]} if network.goal_layer else compare(content)
        values = [
            w * tf.reduce_mean(tf.square(found[name] - tf.stop_gradient(wanted[name])))
            for name, w in content_layers
        ]
        # Looked at here: ReLU makes zeros of NaN, and the terms of a broken picture may be finite.
        whole = tf.reduce_all(tf.math.is_finite(made["image"]))
        parts = {"content": tf.where(whole, weights.content * tf.add_n(values), float("nan"))}
        distances = []
        for (name, w), target in zip(weights.style_layers, targets, strict=True):
            for b, features in enumerate(tf.unstack(found[name])):
                own = tf.nest.map_structure(lambda t, b=b: t[b], target)
                distance = loss.distance(_sums(loss, features), own)
                distances.append(w * tf.cast(distance, tf.float32) / found[name].shape[0])
        parts["style"] = weights.style * tf.add_n(distances)
        if weights.variation:
            total = losses.total_variation(found[IMAGE])
            parts["tv"] = weights.variation * total / tf.cast(tf.size(content), tf.float32)
        return parts

    return terms


def step_function(
    network: Network,
    model: keras.Model,
    weights: Weights,
    optimizer: keras.optimizers.Optimizer,
    *,
    targets: list[Any] | None = None,
) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """One step of training as a graph: (content, style) -> terms before it, float32.

    A step whose objective or gradient is not finite changes nothing, and its loss is NaN.

    Args:
        network: What learns.
        model: The normalised VGG of the losses.
        weights: The objective.
        optimizer: Of Keras.
        targets: Of fixed styles (`style_targets`); then `style` is their indices [B].
    """
    terms = objective(network, model, weights)
    loss = losses.STYLE_LOSSES[weights.loss]()
    names = [*network.code_layers, *(name for name, _ in weights.style_layers)]
    look = extractor(model, names)
    variables = network.variables
    optimizer.build(variables)

    @tf.function(autograph=False)
    def step(content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
        if targets is not None:
            goals = tf.nest.map_structure(lambda stacked: tf.gather(stacked, style), targets)
        else:
            found = look(style)
            goals = _targets(loss, found, weights.style_layers)
        with tf.GradientTape() as tape:
            if network.describe is None:
                code = tf.one_hot(style, network.transform.input["code"].shape[-1])
            else:
                code = network.describe(found)
            parts = terms(content, code, goals)
            total = tf.add_n(list(parts.values()))
        gradients = tape.gradient(total, [v.value for v in variables])
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])

        def move() -> tf.Tensor:
            optimizer.apply(gradients, variables)
            return tf.constant(True)

        moved = tf.cond(finite & tf.math.is_finite(total), move, lambda: tf.constant(False))
        return {"loss": tf.where(moved, total, float("nan")), **parts}

    return step


def pairs(contents: tf.data.Dataset, styles: tf.data.Dataset) -> Iterator[tuple[Any, Any]]:
    """Batches of both.

    Raises:
        ImagesError: A picture was changed or removed since it was looked at.
    """
    try:
        yield from tf.data.Dataset.zip(contents, styles)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        raise ImagesError(
            "Expected pictures that stay as they are while they are used. Received: "
            f"{_words(error.message)}. Restore them, and go on with --resume."
        ) from error
