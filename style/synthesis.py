"""The four tasks as terms of an objective and a first picture, and the loop over steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style import evaluation, fourier, image, objective, optimizers, tiles
from style.losses import SAMPLES, STYLE_LOSSES, StyleLoss
from style.objective import Term
from style.pairs import Pairs
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


def content_terms(
    model: keras.Model, layers: Layers, weight: float, *, shape: tuple[int, int]
) -> list[Term]:
    """Terms that keep the content's features, for pictures of this height and width."""
    wanted = [(name, w) for name, w in layers if w and weight]
    shapes = tiles.layer_shapes(model, [name for name, _ in wanted], shape)
    return [objective.content_term(name, weight * w, shapes[name]) for name, w in wanted]


def inversion_terms(
    model: keras.Model, content: np.ndarray, layer: str, weight: float, *, tile: int = 0
) -> list[Term]:
    """The term that reproduces one layer's features."""

    def squares(part: tiles.Part) -> tf.Tensor:
        return tf.reduce_sum(tf.square(tf.cast(part.features, tf.float64)))

    (norm,) = evaluation.total_sums(model, as_batch(content), [(layer, squares)], tile=tile)
    return [objective.inversion_term(layer, weight, float(norm))]


def style_terms(
    model: keras.Model,
    styles: Sequence[Style],
    layers: Layers,
    weight: float,
    *,
    shape: tuple[int, int],
    loss: str = "gram",
    seed: int = 0,
    tile: int = 0,
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
        tile: Pixels a side of the tiles in which the style is read; 0: none.
    """
    if loss not in STYLE_LOSSES:
        raise UsageError(
            f"Expected style_loss {', '.join(STYLE_LOSSES)}. Received: {loss!r}. Choose one."
        )
    chosen = STYLE_LOSSES[loss]()
    total = sum(style.weight for style in styles)
    terms = []
    random = np.random.Generator(np.random.PCG64(seed))
    wanted = [(name, w) for name, w in layers if w and weight]
    names = [name for name, _ in wanted]
    there = tiles.layer_shapes(model, names, shape)
    for style in styles:
        if not style.weight:
            continue
        here = tiles.layer_shapes(model, names, style.pixels.shape[:2])
        theirs, ours = [], []
        for name in names:
            theirs.append((name, _sums(chosen, style.mask, here[name], random)))
            ours.append(_sums(chosen, style.place, there[name], random))
        found = evaluation.total_sums(model, as_batch(style.pixels), theirs, tile=tile)
        for (name, w), sums, reference in zip(wanted, ours, found, strict=True):
            factor = weight * w * style.weight / total
            target = chosen.target(reference)
            terms.append(objective.style_term(name, factor, chosen, sums, target))
    return terms


def _sums(
    loss: StyleLoss,
    mask: np.ndarray | None,
    size: Sequence[int],
    random: np.random.Generator,
) -> objective.StyleSums:
    """What to add up over a layer: how much each position counts, or which ones are looked at."""
    height, width = int(size[0]), int(size[1])
    guide = None if mask is None else mask_for(mask, (height, width))
    if guide is not None and not guide.sum() > 0:
        raise ImagesError(
            f"Expected masks that leave something at every layer. Received: a mask that is empty "
            f"at {height} x {width} positions. Make it larger, or leave out deep layers."
        )
    if not loss.sampled:
        return objective.style_sums(loss, None if guide is None else tf.constant(guide, tf.float32))
    count = height * width
    share = None if guide is None else guide.ravel() / guide.sum()
    possible = count if share is None else int((share > 0).sum())
    drawn = random.choice(count, size=SAMPLES, replace=possible < SAMPLES, p=share)
    positions = np.stack(np.unravel_index(np.sort(drawn), (height, width)), axis=1)
    return objective.style_sums(loss, samples=tf.constant(positions, tf.int32))


def mask_for(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask [H, W] at a layer's resolution: the mean over what each position covers, float64."""
    resized = tf.image.resize(mask[..., None].astype(np.float32), size, method="area")
    return np.asarray(resized[..., 0], np.float64)


def noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Grey noise, [H, W, 3]."""
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    return (0.5 + 0.15 * random.standard_normal((*shape, 3))).astype(np.float32)


def optimizer(
    name: str,
    evaluate: evaluation.Evaluate,
    shape: tuple[int, int],
    *,
    memory: int = optimizers.MEMORY,
    pairs: Pairs | None = None,
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
        pairs: What keeps them; default: memory.
        smoothing: Exponent of its preconditioner at first, see `fourier`.
        learn: Whether the preconditioner learns.
        learning_rate: Of Adam.
    """
    # Traced once, for the beginning and for the steps; nothing here needs AutoGraph, whose
    # conversion would take longer than the tracing.
    evaluate = tf.function(evaluate, autograph=False)
    if name == "adam":
        return optimizers.adam(evaluate, learning_rate=learning_rate)
    if name != "lbfgs":
        raise UsageError(f"Expected optimizer lbfgs or adam. Received: {name!r}. Choose one.")
    precondition = fourier.preconditioner(*shape, exponent=smoothing, learn=learn)
    return optimizers.lbfgs(evaluate, memory=memory, pairs=pairs, precondition=precondition)


def minimize(
    method: optimizers.Optimizer, x: tf.Tensor, evaluations: int, *, state: Any = None
) -> Iterator[Any]:
    """Yields the first state and one after each accepted step.

    Ends after so many evaluations, and never more, or when no further step can be made.  The last
    state may be `cut`: one goes on with more evaluations from the state before it.

    Args:
        method: An optimiser.
        x: Where to begin, [1, H, W, 3].
        evaluations: How many evaluations of the objective in all.
        state: Where to go on instead of at `x`.
    """
    if state is None:
        state = method.init(x)
    yield state
    left = tf.constant(evaluations - int(state.evaluations))
    step = tf.function(method.step, autograph=False).get_concrete_function(state, left)
    while int(state.evaluations) < evaluations and not bool(state.stalled):
        before = int(state.steps)
        state = step(state, tf.constant(evaluations - int(state.evaluations)))
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
