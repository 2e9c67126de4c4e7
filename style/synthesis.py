"""The four tasks as terms of an objective and a first picture, and the loop over steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style import fourier, image, objective, optimizers
from style.losses import SAMPLES, STYLE_LOSSES, StyleLoss
from style.objective import Term
from vgg_normalize import chain
from vgg_normalize.errors import ImagesError, UsageError

Layers = Sequence[tuple[str, float]]


class Style(NamedTuple):
    """A style picture and how it is used.

    Attributes:
        pixels: [H, W, 3] in [0, 1].
        weight: Its share of the blend.
        mask: Where in the style picture it is taken from, [H, W] in [0, 1], or None.
        place: Where in the result it goes, a mask in the result's aspect, or None.
    """

    pixels: np.ndarray
    weight: float = 1.0
    mask: np.ndarray | None = None
    place: np.ndarray | None = None


def as_batch(pixels: np.ndarray) -> tf.Tensor:
    """[H, W, C] -> float32 [1, H, W, C]."""
    return tf.constant(np.ascontiguousarray(pixels[None], np.float32))


def features_of(model: keras.Model, layers: Layers, pixels: np.ndarray) -> Mapping[str, tf.Tensor]:
    """Features of a picture [H, W, 3]."""
    network = chain.features(model, [name for name, _ in layers])
    return once(lambda x: network(x, training=False), as_batch(pixels))


def once(function: Callable[[tf.Tensor], Any], x: tf.Tensor) -> Any:
    """The function of x, computed as a graph without TensorFlow's warnings of many tracings."""
    return tf.function(function).get_concrete_function(x)(x)


def content_terms(
    model: keras.Model, content: np.ndarray, layers: Layers, weight: float
) -> list[Term]:
    """Terms that keep the content's features."""
    if not weight or not layers:
        return []
    found = features_of(model, layers, content)
    return [objective.content_term(name, weight * w, found[name]) for name, w in layers if w]


def inversion_terms(
    model: keras.Model, content: np.ndarray, layer: str, weight: float
) -> list[Term]:
    """The term that reproduces one layer's features."""
    found = features_of(model, [(layer, 1.0)], content)
    return [objective.inversion_term(layer, weight, found[layer])]


def style_terms(
    model: keras.Model,
    styles: Sequence[Style],
    layers: Layers,
    weight: float,
    *,
    shape: tuple[int, int],
    loss: str = "gram",
    seed: int = 0,
) -> list[Term]:
    """Terms that give the result the styles' statistics.

    Args:
        model: The network.
        styles: With weights, and masks where each has its place.
        layers: (name, weight) of each layer.
        weight: The factor of all of them.
        shape: Height and width of the result.
        loss: A key of `losses.STYLE_LOSSES`.
        seed: Of sampled positions.
    """
    if loss not in STYLE_LOSSES:
        raise UsageError(
            f"Expected style_loss {', '.join(STYLE_LOSSES)}. Received: {loss!r}. Choose one."
        )
    chosen = STYLE_LOSSES[loss]()
    total = sum(style.weight for style in styles)
    terms = []
    random = np.random.Generator(np.random.PCG64(seed))
    sizes = feature_sizes(chain.features(model, [name for name, _ in layers]), shape)
    for style in styles:
        if not style.weight or not weight:
            continue
        found = features_of(model, layers, style.pixels)
        for name, layer_weight in layers:
            if not layer_weight:
                continue
            here, there = found[name].shape[1:3], sizes[name]
            guide_style, samples_style = _positions(chosen, style.mask, here, random)
            guide, samples = _positions(chosen, style.place, there, random)
            target = objective.style_target(
                chosen, found[name], guide=guide_style, samples=samples_style
            )
            factor = weight * layer_weight * style.weight / total
            terms.append(
                objective.style_term(name, factor, chosen, target, guide=guide, samples=samples)
            )
    return terms


def _positions(
    loss: StyleLoss,
    mask: np.ndarray | None,
    size: Sequence[int],
    random: np.random.Generator,
) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """How much each position of a layer counts, or which ones a sampled loss looks at."""
    count = int(size[0] * size[1])
    guide = None if mask is None else mask_for(mask, size).ravel()
    if guide is not None and not guide.sum() > 0:
        raise ImagesError(
            f"Expected masks that leave something at every layer. Received: a mask that is empty "
            f"at {size[0]} x {size[1]} positions. Make it larger, or leave out deep layers."
        )
    if not loss.sampled:
        return (None if guide is None else tf.constant(guide, tf.float32)), None
    share = None if guide is None else guide / guide.sum()
    possible = count if share is None else int((share > 0).sum())
    drawn = random.choice(count, size=SAMPLES, replace=possible < SAMPLES, p=share)
    return None, tf.constant(np.sort(drawn), tf.int32)


def mask_for(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask [H, W] at a layer's resolution: the mean over what each position covers, float64."""
    resized = tf.image.resize(mask[..., None].astype(np.float32), size, method="area")
    return np.asarray(resized[..., 0], np.float64)


def feature_sizes(model: keras.Model, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Height and width of every layer's output for a picture of this shape."""
    tensor: Any = keras.KerasTensor((1, *shape, 3))
    sizes = {}
    for layer in chain.layers(model):
        tensor = layer.compute_output_spec(tensor)
        if len(tensor.shape) == 4:
            sizes[layer.name] = (int(tensor.shape[1]), int(tensor.shape[2]))
    return sizes


def noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Grey noise, [H, W, 3]."""
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    return (0.5 + 0.15 * random.standard_normal((*shape, 3))).astype(np.float32)


def optimizer(
    name: str,
    evaluate: objective.Evaluate,
    shape: tuple[int, int],
    *,
    memory: int = optimizers.MEMORY,
    smoothing: float = 0.25,
    learn: bool = True,
    learning_rate: float = 0.02,
) -> optimizers.Optimizer:
    """An optimiser of a picture.

    Args:
        name: "lbfgs" or "adam".
        evaluate: The objective.
        shape: Height and width of the picture.
        memory: Pairs that L-BFGS keeps.
        smoothing: Exponent of its preconditioner at first, see `fourier`.
        learn: Whether the preconditioner learns.
        learning_rate: Of Adam.
    """
    if name == "adam":
        return optimizers.adam(evaluate, learning_rate=learning_rate)
    if name != "lbfgs":
        raise UsageError(f"Expected optimizer lbfgs or adam. Received: {name!r}. Choose one.")
    precondition = fourier.preconditioner(*shape, exponent=smoothing, learn=learn)
    return optimizers.lbfgs(evaluate, memory=memory, precondition=precondition)


def minimize(
    method: optimizers.Optimizer, x: tf.Tensor, evaluations: int, *, state: Any = None
) -> Iterator[Any]:
    """Yields the first state and one after each accepted step.

    Ends after so many evaluations, or when no further step can be made.

    Args:
        method: An optimiser.
        x: Where to begin, [1, H, W, 3].
        evaluations: How many evaluations of the objective in all.
        state: Where to go on instead of at `x`.
    """
    step = tf.function(method.step)
    if state is None:
        state = method.init(x)  # once, eagerly: tracing it would take longer
    yield state
    while int(state.evaluations) < evaluations and not bool(state.stalled):
        before = int(state.steps)
        state = step(state)
        if int(state.steps) > before:
            yield state
    if bool(state.stalled):
        yield state


def coarse_to_fine(shape: tuple[int, int], scales: int, least: int) -> list[tuple[int, int]]:
    """Sizes of the pictures to optimise in turn: halves, the last one whole.

    Args:
        shape: Of the result.
        scales: How many; fewer where a side would fall below `least`.
        least: In pixels.
    """
    sizes = [
        image.shape_for(shape, max(shape) / 2**halvings) for halvings in reversed(range(scales))
    ]
    return [size for size in sizes if min(size) >= least] or [shape]
