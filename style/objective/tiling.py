"""A picture cut into tiles, each with the window of pixels that its features need.

A tile owns a block [a, b) of pixels on each axis, and in a layer l of stride r_l the positions
[a / r_l, b / r_l), rounded down.  A position sees beyond its own r_l pixels by

    h_l = sum over convolutions up to l of dilation (kernel - 1) / 2 x stride before it,

70 pixels for VGG19 to block5_conv1.  The window is the block and max_l h_l pixels around it, rounded
up to a multiple of the deepest stride, as far as the picture goes.  Convolutions pad a window with
zeros as they pad a picture, so positions near an inner edge of it are wrong; but those the tile
does not own.  Every position is owned once, so a sum over positions is a sum over tiles i,

    S(x) = sum_i S_i(x_i),    x_i the window of tile i,

and what the S_i give to the gradients of overlapping windows adds up to the picture's gradient.

Convolutions that pad otherwise do so at the picture's border, where a window ends too, and at inner
edges, where it does not matter.  Only where the picture goes on at its opposite side ("wrap") a window
must too: it then has its halo on all sides, which wraps around.

Here owned means the features; where each tile owned its pixels' gradient instead, the halo would be
twice as wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from style.objective.layer_geometry import IMAGE, layer_shapes, receptive_field
from vgg_normalize.networks import borders


class TileFeatures(NamedTuple):
    """The positions of one layer that a tile owns, or all of them.

    Attributes:
        features: F at these positions, [1, h, w, C].
        reference: The features of a picture to compare with at the same positions; or None.
        origin: Row and column of the first position within the layer, int32 [2].
        size: h and w, int32 [2].
        with_border: For the picture itself, `features` with the next row and column, where it goes
            on, for differences between neighbours; None for layers.
    """

    features: tf.Tensor
    reference: tf.Tensor | None
    origin: tf.Tensor
    size: tf.Tensor
    with_border: tf.Tensor | None = None


class Tiling(NamedTuple):
    """How a picture is cut into T tiles; rows are top, left, height, width.

    Attributes:
        shape: Height and width of the picture.
        windows: The window of each tile in pixels, int32 [T, 4].
        positions: Layer name to the positions that each tile owns, int32 [T, 4].
        inside: Layer name to where in its window these begin, int32 [T, 2].
        wraps: Whether the picture goes on at its opposite side.
        halo: By how many pixels on each side the picture is continued so; windows count from there.
    """

    shape: tuple[int, int]
    windows: np.ndarray
    positions: Mapping[str, np.ndarray]
    inside: Mapping[str, np.ndarray]
    wraps: bool = False
    halo: int = 0

    @property
    def tiles(self) -> int:
        """How many tiles."""
        return len(self.windows)


def make_tiling(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int = 0
) -> Tiling:
    """Cut a picture into tiles of at most so many pixels a side, as equal as they can be.

    Args:
        model: A chain of layers.
        names: Layers whose positions are shared out; `IMAGE` always is.
        shape: Height and width of the picture in pixels.
        tile: Pixels a side, rounded down to a multiple of the deepest layer's stride; 0: the whole
            picture.

    Raises:
        NetworkError: A layer before the deepest is neither a convolution padded to the same size
            nor a pooling of blocks, or the network takes pictures of one size only.
    """
    names = list(dict.fromkeys((IMAGE, *names)))
    sizes = layer_shapes(model, names, shape)
    wraps = names != [IMAGE] and borders.padding_of(model) == "wrap"
    if not tile or tile >= max(shape):
        whole = np.array([[0, 0, *shape]], np.int32)
        positions = {name: np.array([[0, 0, *sizes[name][:2]]], np.int32) for name in names}
        inside = {name: np.zeros((1, 2), np.int32) for name in names}
        return Tiling(shape, whole, positions, inside, wraps)
    strides, align, halo = _alignment(model, names)
    blocks, windows = make_blocks(shape, tile, align, halo)
    if wraps:
        windows = np.hstack([blocks[:, :2], blocks[:, 2:] + 2 * halo])
    first = windows[:, :2]
    positions, inside = {}, {}
    for name in names:
        begin = blocks[:, :2] // strides[name]
        end = blocks[:, 2:] // strides[name]
        positions[name] = np.hstack([begin, end - begin]).astype(np.int32)
        before = halo // strides[name] if wraps else 0
        inside[name] = (begin + before - first // strides[name]).astype(np.int32)
    sides = np.hstack([first, windows[:, 2:] - first]).astype(np.int32)
    return Tiling(shape, sides, positions, inside, wraps, halo if wraps else 0)


def make_blocks(
    shape: tuple[int, int], tile: int, align: int, halo: int
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks that cover a picture once, and the windows with the halo around them.

    Args:
        shape: Height and width of the picture in pixels.
        tile: The largest side of a block in pixels; rounded down to a multiple of `align`.
        align: Blocks begin at multiples of so many pixels.
        halo: Pixels around a block, as far as the picture goes; a multiple of `align`.

    Returns:
        Top, left, bottom, right of both, int32 [T, 4] each.
    """
    axes = [_axis(side, max(tile // align, 1) * align, align) for side in shape]
    blocks = np.array([(y0, x0, y1, x1) for y0, y1 in axes[0] for x0, x1 in axes[1]], np.int32)
    first = np.maximum(blocks[:, :2] - halo, 0)
    last = np.minimum(blocks[:, 2:] + halo, shape)
    return blocks, np.hstack([first, last]).astype(np.int32)


def largest_window(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int = 0
) -> tuple[int, int]:
    """Height and width of the largest window of `make_tiling`, with no tiles made.

    The arguments are those of `make_tiling`, and so are the errors.
    """
    if not tile or tile >= max(shape):
        return shape
    _, align, halo = _alignment(model, names)
    if borders.padding_of(model) == "wrap":
        height, width = (_step(side, max(tile // align, 1) * align, align) for side in shape)
        return height + 2 * halo, width + 2 * halo
    return largest_block_window(shape, tile, align, halo)


def _alignment(model: keras.Model, names: Sequence[str]) -> tuple[dict[str, int], int, int]:
    """The stride of each layer, the largest of them, and the halo as a multiple of it."""
    strides, halo = receptive_field(model, names)
    align = max(strides.values())
    return strides, align, -(-max(halo, 1) // align) * align


def largest_block_window(
    shape: tuple[int, int], tile: int, align: int, halo: int
) -> tuple[int, int]:
    """Height and width of the largest window of `make_blocks`, with no blocks made."""
    height, width = (_largest_interval(side, tile, align, halo) for side in shape)
    return height, width


def _largest_interval(side: int, tile: int, align: int, halo: int) -> int:
    """The longest window along an axis.

    Window i reaches from max(0, i step - halo) to min(side, (i + 1) step + halo): its length does
    not fall up to i = halo / step, and does not grow from there on.
    """
    step = _step(side, max(tile // align, 1) * align, align)
    last = -(-side // step) - 1
    candidates = {min(i, last) for i in (halo // step, -(-halo // step))}
    return max(min(side, (i + 1) * step + halo) - max(0, i * step - halo) for i in candidates)


def _axis(side: int, tile: int, align: int) -> list[tuple[int, int]]:
    """Intervals of at most `tile` pixels, multiples of `align` but for the last."""
    step = _step(side, tile, align)
    starts = range(0, side, step)
    return [(start, min(start + step, side)) for start in starts]


def _step(side: int, tile: int, align: int) -> int:
    """The length of the intervals, as equal as they can be."""
    count = -(-side // tile)
    return -(-side // (count * align)) * align


def tile_features(
    features: Mapping[str, tf.Tensor],
    references: Mapping[str, tf.Tensor],
    tiling: Tiling,
    i: Any,
) -> dict[str, TileFeatures]:
    """What tile i owns of each layer.

    Args:
        features: Layer name -> features [1, h, w, C] of its window, `IMAGE` among them.
        references: Layer name -> what the tile owns of another picture's features.
        tiling: The tiles.
        i: The number of the tile, from 0.
    """
    owned = {}
    for name, positions in tiling.positions.items():
        if name not in features:
            continue
        top, left, height, width = tf.unstack(tf.gather(positions, i))
        origin, size = tf.stack([top, left]), tf.stack([height, width])
        layer, reference, with_border = features[name], references.get(name), None
        if tiling.tiles > 1:
            begin = tf.concat([[0], tf.gather(tiling.inside[name], i), [0]], 0)
            if name == IMAGE:
                goes_on = (origin + size < tiling.shape) | tiling.wraps
                border = tf.cast(goes_on, tf.int32)
                with_border = _crop(layer, begin, size + border)
            layer = _crop(layer, begin, size)
        elif name == IMAGE:
            with_border = borders.pad(layer, 1, "wrap")[:, 1:, 1:] if tiling.wraps else layer
        owned[name] = TileFeatures(layer, reference, origin, size, with_border)
    return owned


def margins(tile: TileFeatures, shape: Sequence[int]) -> tf.Tensor:
    """Rows and columns of a layer before and after a tile's positions, int32 [2, 2], to pad by.

    Args:
        tile: The tile.
        shape: Height and width of the whole layer.
    """
    after = tf.constant(shape[:2], tf.int32) - tile.origin - tile.size
    return tf.stack([tile.origin, after], axis=1)


def _crop(features: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    piece = tf.slice(features, begin, tf.concat([[1], size, [-1]], 0))
    return tf.ensure_shape(piece, [1, None, None, features.shape[-1]])


def sum_over_tiles(of_tile: Callable[..., Any], tiling: Tiling, *pictures: Any) -> Any:
    """The sum over all tiles i of a function (pictures, i) -> tensors, one tile at a time."""
    if tiling.tiles == 1:
        return of_tile(*pictures, tf.constant(0))
    traced = tf.function(of_tile, autograph=False).get_concrete_function(*pictures, tf.constant(0))
    zeros = tf.nest.map_structure(
        lambda spec: tf.zeros(spec.shape, spec.dtype), traced.structured_outputs
    )

    def add(i: tf.Tensor, total: Any) -> tuple[tf.Tensor, Any]:
        return i + 1, tf.nest.map_structure(tf.add, total, traced(*pictures, i))

    return tf.while_loop(
        lambda i, total: i < tiling.tiles, add, (tf.constant(0), zeros), parallel_iterations=1
    )[1]
