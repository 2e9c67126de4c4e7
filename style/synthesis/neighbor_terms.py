"""Content terms towards the style's nearest features, which are chosen anew from time to time.

The picture is covered by a grid.  Each of its places has a vector: the features of all wanted layers,
those of finer layers averaged over the place and those of coarser ones repeated.  The style's place
with the nearest vector by cosine distance, after the mean of each picture is taken away, gives its
features to all layers, and the picture is moved towards these.

Reference: Kolkin, Kucera, Paris, Sykora, Shechtman and Shakhnarovich, "Neural Neighbor Style
Transfer", 2022, section 4.  Departures: they bring layers to the grid by bilinear interpolation, and
minimise the cosine distance of vectors there; here it is the mean squared difference of each layer's
features where they are, which tiles add up and which leaves no detail free.  Their content weight
blends pictures before the vectors are taken; strength blends vectors, and below 1/2 the content's own
features into what is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.objective import layer_geometry, tiling, value_and_gradient
from style.objective.terms import Term
from style.objective.tiling import TileFeatures
from style.synthesis.picture_terms import Style, as_batch, mask_for

# Pixels a side of the grid's places, the stride of the third block; less where all layers are finer.
STRIDE = 4
# Entries of the matrix of cosines that are in memory at a time, of 4 bytes: 64 MiB.
BLOCK = 2**24


class Grid(NamedTuple):
    """How the positions of layers lie in the places of the grid.

    Attributes:
        stride: Pixels a side of a place.
        cell: Pixels a side of the coarsest layer's positions, a multiple of `stride`; the grid is a
            multiple of it.
        strides: Layer name -> its own stride.
    """

    stride: int
    cell: int
    strides: dict[str, int]

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the smallest grid that covers a picture of so many pixels."""
        count = self.cell // self.stride
        return -(-height // self.cell) * count, -(-width // self.cell) * count

    def cut(self, layer: str, features: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """A layer's features [h, w, C] in each place, [rows x columns, f, f, C].

        Coarse ones repeat, and beyond the layer its last row and column do.
        """
        rows, columns = shape
        f, k = self._finer(layer), self._coarser(layer)
        features = features.repeat(k, axis=0).repeat(k, axis=1)
        missing = [max(0, n * f - side) for n, side in zip(shape, features.shape, strict=False)]
        features = np.pad(features, [(0, missing[0]), (0, missing[1]), (0, 0)], "edge")
        features = features[: rows * f, : columns * f]
        parts = features.reshape(rows, f, columns, f, -1).transpose(0, 2, 1, 3, 4)
        return parts.reshape(rows * columns, f, f, -1)

    def join(self, layer: str, parts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """What `cut` cuts, together again, [h, w, C]; coarse ones are averaged."""
        rows, columns = shape
        f, k = self._finer(layer), self._coarser(layer)
        features = parts.reshape(rows, columns, f, f, -1).transpose(0, 2, 1, 3, 4)
        features = features.reshape(rows * f // k, k, columns * f // k, k, -1)
        return features.mean(axis=(1, 3), dtype=np.float32)

    def _finer(self, layer: str) -> int:
        return max(self.stride // self.strides[layer], 1)

    def _coarser(self, layer: str) -> int:
        return max(self.strides[layer] // self.stride, 1)


def make_grid(model: keras.Model, names: Sequence[str]) -> Grid:
    """The grid for these layers."""
    strides, _ = layer_geometry.receptive_field(model, names)
    of_layers = {name: strides[name] for name in names}
    cell = max(of_layers.values())
    return Grid(min(STRIDE, cell), cell, of_layers)


def neighbor_terms(
    model: keras.Model,
    content: tf.Tensor,
    styles: Sequence[Style],
    layers: Sequence[tuple[str, float]],
    *,
    strength: float,
    tile: int = 0,
) -> list[Term]:
    """For each layer the mean over positions and channels of (F - T)^2.

    With the strength s, the style's places are those nearest to s F + (1 - s) P, P the content's
    features, and T is t N + (1 - t) P, N the style's features there and t = min(1, 2 s): up to 1/2
    strength leads from the content to the style, from there on away from the content's shapes.  Of
    several styles all places may be chosen, each where its `content_mask` is the largest.

    Args:
        model: The network.
        content: The content picture, [1, H, W, 3].
        styles: Pictures whose features are chosen; a weight of 0 leaves one out.
        layers: (name, weight) of each layer; the weight also counts in the distance.
        strength: In [0, 1].
        tile: Pixels a side of the tiles in which pictures are read; 0: the whole picture.
    """
    weights = {name: float(weight) for name, weight in layers if weight}
    neighbors = _Neighbors(model, content, styles, weights, tile)
    targets = {name: tf.Variable(layer, trainable=False) for name, layer in neighbors.own.items()}

    def renew(draw: int, picture: tf.Tensor) -> None:
        del draw  # the picture decides alone
        for name, theirs in neighbors.find(picture, strength).items():
            own = neighbors.own[name]
            targets[name].assign(own + np.float32(min(1.0, 2 * strength)) * (theirs - own))

    renew(0, content)
    return [
        _term(name, weight, targets[name])._replace(renew=renew) for name, weight in weights.items()
    ]


class _Neighbors:
    """The features of the styles' places, to find those that are nearest to a picture's.

    The arguments are those of `neighbor_terms`, with the weight of each layer by name.
    """

    def __init__(
        self,
        model: keras.Model,
        content: tf.Tensor,
        styles: Sequence[Style],
        weights: Mapping[str, float],
        tile: int,
    ) -> None:
        names = list(weights)
        self._scales = {name: np.float32(np.sqrt(weight)) for name, weight in weights.items()}
        self._grid = make_grid(model, names)
        shape = (int(content.shape[1]), int(content.shape[2]))
        self._places = self._grid.shape(*shape)
        used = [style for style in styles if style.weight]
        self._candidates = [_candidates(model, self._grid, style, names, tile) for style in used]
        self._regions = _regions([style.content_mask for style in used], self._places)
        self._read = _reader(model, names, shape, tile)
        # The content's own features.
        self.own = self._features(content)

    def _features(self, picture: tf.Tensor) -> dict[str, np.ndarray]:
        layers = zip(self._scales, self._read(picture), strict=True)
        return {name: np.array(layer) for name, layer in layers}

    def find(self, picture: tf.Tensor, share: float) -> dict[str, np.ndarray]:
        """The style's features that are nearest to the picture's, of each layer [h, w, C].

        Args:
            picture: [1, H, W, 3].
            share: Of its features; the rest is the content's.
        """
        parts = {}
        for name, layer in self._features(picture).items():
            blend = self.own[name] + np.float32(share) * (layer - self.own[name])
            parts[name] = self._grid.cut(name, blend, self._places)
        for positions, members in self._regions:
            pool = {
                name: np.concatenate([self._candidates[k][name] for k in members]) for name in parts
            }
            wanted = {name: layer[positions] for name, layer in parts.items()}
            nearest = nearest_by_cosine(self._vectors(wanted), self._vectors(pool))
            for name, layer in parts.items():
                layer[positions] = pool[name][nearest]
        joined = {name: self._grid.join(name, layer, self._places) for name, layer in parts.items()}
        return {
            name: layer[: self.own[name].shape[0], : self.own[name].shape[1]]
            for name, layer in joined.items()
        }

    def _vectors(self, layers: Mapping[str, np.ndarray]) -> np.ndarray:
        """The mean features of each place, of all layers side by side, [M, C]."""
        means = [layer.mean(axis=(1, 2)) * self._scales[name] for name, layer in layers.items()]
        return np.concatenate(means, axis=1)


def _candidates(
    model: keras.Model, grid: Grid, style: Style, names: Sequence[str], tile: int
) -> dict[str, np.ndarray]:
    """Of each layer the features in the places of a style that may be chosen, [N, f, f, C]."""
    height, width = style.pixels.shape[:2]
    shape = grid.shape(height, width)
    features = _reader(model, names, (height, width), tile)(as_batch(style.pixels))
    chosen = _positions(style.mask, shape)
    return {
        name: grid.cut(name, np.asarray(layer), shape)[chosen]
        for name, layer in zip(names, features, strict=True)
    }


def _reader(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int
) -> Callable[[tf.Tensor], list[tf.Tensor]]:
    """Picture [1, H, W, 3] -> features of each layer, [h, w, C]."""
    shapes = layer_geometry.layer_shapes(model, names, shape)
    wanted = [(name, _placed(shapes[name])) for name in names]
    return value_and_gradient.make_total_sums(model, shape, wanted, tile=tile)


def nearest_by_cosine(vectors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """For each row of [M, C] the number of the row of [N, C] at the least cosine distance, [M].

    The means of both over their rows are taken away first.
    """

    def directions(rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(axis=0, dtype=np.float64).astype(rows.dtype)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    wanted, given = directions(vectors), directions(candidates)
    step = max(1, BLOCK // len(given))
    blocks = [
        np.argmax(wanted[i : i + step] @ given.T, axis=1) for i in range(0, len(wanted), step)
    ]
    return np.concatenate(blocks)


def _placed(shape: Sequence[int]) -> Callable[[TileFeatures], tf.Tensor]:
    """A tile's features where they lie in the layer, and 0 elsewhere, [h, w, C]."""

    def sums(tile: TileFeatures) -> tf.Tensor:
        paddings = tf.concat([tiling.margins(tile, shape), [[0, 0]]], 0)
        return tf.ensure_shape(tf.pad(tile.features[0], paddings), shape)

    return sums


def _term(name: str, weight: float, target: tf.Variable) -> Term:
    def squares(tile: TileFeatures) -> tf.Tensor:
        begin, size = (
            tf.concat([part, [end]], 0) for part, end in ((tile.origin, 0), (tile.size, -1))
        )
        wanted = tf.slice(target, begin, size)
        return tf.cast(tf.reduce_sum(tf.square(tile.features[0] - wanted)), tf.float64)

    count = float(np.prod(target.shape))
    return Term("content", name, weight, squares, lambda total: total / count, linear=True)


def _positions(mask: np.ndarray | None, shape: Sequence[int]) -> np.ndarray:
    """The positions of a grid at which at least half of a mask is set; where none is, the most."""
    if mask is None:
        return np.arange(int(np.prod(shape)))
    covered = mask_for(mask, shape).ravel()
    return np.flatnonzero(covered >= min(0.5, covered.max()))


def _regions(
    masks: Sequence[np.ndarray | None], shape: tuple[int, int]
) -> list[tuple[np.ndarray, list[int]]]:
    """Positions of the result, and the styles whose vectors may go there."""
    everything = np.arange(shape[0] * shape[1])
    if all(mask is None for mask in masks):
        return [(everything, list(range(len(masks))))]
    covered = [np.ones(shape) if mask is None else mask_for(mask, shape) for mask in masks]
    best = np.argmax(np.stack(covered), axis=0).ravel()
    return [(np.flatnonzero(best == k), [k]) for k in range(len(masks)) if (best == k).any()]
