"""A picture cut into tiles, each with the window of pixels that its features need.

A tile owns a block of pixels, and in every layer the cells that lie in that block.  Its window is
the block and the halo that the receptive field of those cells reaches into: 70 pixels for VGG19 to
block5_conv1.  Convolutions pad a window with zeros as they pad a picture, so cells near an inner
edge of it are wrong; but those the tile does not own.  Every cell is owned once, so sums over the
cells of all tiles are the sums over the picture's, and what they give to the gradients of
overlapping windows adds up to the picture's gradient.

Here owned means the features; where each tile owned its pixels' gradient instead, the halo would be
twice as wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain
from vgg_normalize.errors import NetworkError

# The picture itself, as a layer.
IMAGE = "image"

_POINTWISE = (
    keras.layers.ReLU,
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.Identity,
)


class Part(NamedTuple):
    """The cells of one layer that a tile owns, or all of them.

    Attributes:
        features: [1, h, w, C].
        reference: What the cells of a picture to compare with are, alike; or None.
        origin: Row and column of the first cell within the layer, int32 [2].
        size: h and w, int32 [2].
        beyond: Of the picture itself: `features` with the next row and column, where it goes on,
            for differences between neighbours.
    """

    features: tf.Tensor
    reference: tf.Tensor | None
    origin: tf.Tensor
    size: tf.Tensor
    beyond: tf.Tensor | None = None


class Tiling(NamedTuple):
    """How a picture is cut into T tiles; rows are top, left, height, width.

    Attributes:
        shape: Height and width of the picture.
        windows: In pixels, int32 [T, 4].
        cells: Layer name to the cells that each tile owns, int32 [T, 4].
        inside: Layer name to where in its window these begin, int32 [T, 2].
    """

    shape: tuple[int, int]
    windows: np.ndarray
    cells: Mapping[str, np.ndarray]
    inside: Mapping[str, np.ndarray]

    @property
    def tiles(self) -> int:
        """How many tiles."""
        return len(self.windows)


def layer_shapes(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Height, width and channels of layers' features of a picture of this shape."""
    shapes: dict[str, tuple[int, ...]] = {IMAGE: (*shape, 3)}
    layers = [name for name in names if name != IMAGE]
    if layers:
        network = chain.features(model, layers)
        for name, spec in network.compute_output_spec(keras.KerasTensor((1, *shape, 3))).items():
            shapes[name] = tuple(int(side) for side in spec.shape[1:])
    return shapes


def cut(model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int = 0) -> Tiling:
    """Cut a picture into tiles of at most so many pixels a side, as equal as they can be.

    Args:
        model: A chain of layers.
        names: Layers whose cells are wanted; `IMAGE` always is.
        shape: Height and width of the picture.
        tile: Rounded down to a multiple of the deepest layer's stride; 0: the whole picture.

    Raises:
        NetworkError: A layer before the deepest is neither a convolution padded to the same size
            nor a pooling of blocks, or the network takes pictures of one size only.
    """
    names = list(dict.fromkeys((IMAGE, *names)))
    sizes = layer_shapes(model, names, shape)
    if not tile or tile >= max(shape):
        whole = np.array([[0, 0, *shape]], np.int32)
        cells = {name: np.array([[0, 0, *sizes[name][:2]]], np.int32) for name in names}
        return Tiling(shape, whole, cells, {name: np.zeros((1, 2), np.int32) for name in names})
    strides, halo = field(model, names)
    align = max(strides.values())
    halo = -(-max(halo, 1) // align) * align
    blocks, windows = blocks_of(shape, tile, align, halo)
    first = windows[:, :2]
    cells, inside = {}, {}
    for name in names:
        begin = blocks[:, :2] // strides[name]
        end = blocks[:, 2:] // strides[name]
        cells[name] = np.hstack([begin, end - begin]).astype(np.int32)
        inside[name] = (begin - first // strides[name]).astype(np.int32)
    sides = windows[:, 2:] - first
    return Tiling(shape, np.hstack([first, sides]).astype(np.int32), cells, inside)


def blocks_of(
    shape: tuple[int, int], tile: int, align: int, halo: int
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks that cover a picture once, and the windows with the halo around them.

    Args:
        shape: Height and width of the picture.
        tile: The largest side of a block; rounded down to a multiple of `align`.
        align: What blocks begin at multiples of.
        halo: Pixels around a block, as far as the picture goes; a multiple of `align`.

    Returns:
        Top, left, bottom, right of both, int32 [T, 4] each.
    """
    axes = [_axis(side, max(tile // align, 1) * align, align) for side in shape]
    blocks = np.array([(y0, x0, y1, x1) for y0, y1 in axes[0] for x0, x1 in axes[1]], np.int32)
    first = np.maximum(blocks[:, :2] - halo, 0)
    last = np.minimum(blocks[:, 2:] + halo, shape)
    return blocks, np.hstack([first, last]).astype(np.int32)


def _axis(side: int, tile: int, align: int) -> list[tuple[int, int]]:
    """Intervals of at most `tile`, multiples of `align` but for the last."""
    count = -(-side // tile)
    step = -(-side // (count * align)) * align
    starts = range(0, side, step)
    return [(start, min(start + step, side)) for start in starts]


def field(model: keras.Model, names: Sequence[str]) -> tuple[dict[str, int], int]:
    """The stride of each named layer, and how far beyond their own pixels its cells look."""
    strides, halos, halo, stride = {IMAGE: 1}, {IMAGE: 0}, 0, 1
    wanted = set(names) - {IMAGE}
    if not wanted:
        return strides, halo
    if chain.image_shape(model)[:2] != (None, None):
        raise NetworkError(
            "Expected a network for pictures of any size. Received: one for "
            f"{chain.image_shape(model)}. Compute the whole picture, without tiles."
        )
    layers = chain.layers(model)
    behind = {stage.layer.name: stage.activation.name for stage in chain.stages(layers)}
    for layer in layers:
        if wanted <= set(strides):
            break
        if isinstance(layer, keras.layers.Conv2D) and _keeps_size(layer):
            halo += layer.dilation_rate[0] * (layer.kernel_size[0] // 2) * stride
        elif isinstance(layer, (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)) and (
            layer.padding == "valid"
            and tuple(layer.pool_size) == tuple(layer.strides)
            and layer.strides[0] == layer.strides[1]
        ):
            stride *= layer.strides[0]
        elif not (isinstance(layer, _POINTWISE) or chain.is_input_conversion(layer)):
            raise NetworkError(
                "Expected convolutions padded to the same size and pooling of blocks. Received: "
                f"layer {layer.name!r} ({type(layer).__name__}). Compute the whole picture, "
                "without tiles."
            )
        for name in wanted:
            if behind.get(name, name) == layer.name:
                strides[name], halos[name] = stride, halo
    return strides, max(halos.values())


def _keeps_size(layer: keras.layers.Conv2D) -> bool:
    """Whether the output has the input's size, and looks equally far to all sides."""
    kernel, dilation = layer.kernel_size, layer.dilation_rate
    return (
        layer.padding == "same"
        and tuple(layer.strides) == (1, 1)
        and kernel[0] == kernel[1]
        and kernel[0] % 2 == 1
        and dilation[0] == dilation[1]
    )


def window(picture: tf.Tensor, tiling: Tiling, i: Any) -> tf.Tensor:
    """The pixels that tile i needs, [1, h, w, 3]."""
    if tiling.tiles == 1:
        return picture
    top, left, height, width = tf.unstack(tf.gather(tiling.windows, i))
    return tf.slice(picture, [0, top, left, 0], [1, height, width, picture.shape[-1]])


def parts(
    features: Mapping[str, tf.Tensor],
    references: Mapping[str, tf.Tensor],
    tiling: Tiling,
    i: Any,
) -> dict[str, Part]:
    """What tile i owns of each layer.

    Args:
        features: Of its window, `IMAGE` among them.
        references: Of the same window of another picture.
        tiling: The tiles.
        i: Which one.
    """
    found = {}
    for name, cells in tiling.cells.items():
        if name not in features:
            continue
        top, left, height, width = tf.unstack(tf.gather(cells, i))
        origin, size = tf.stack([top, left]), tf.stack([height, width])
        here, there, beyond = features[name], references.get(name), None
        if tiling.tiles > 1:
            begin = tf.concat([[0], tf.gather(tiling.inside[name], i), [0]], 0)
            if name == IMAGE:
                more = tf.cast(origin + size < tiling.shape, tf.int32)
                beyond = _cut(here, begin, size + more)
            here = _cut(here, begin, size)
            there = None if there is None else _cut(there, begin, size)
        elif name == IMAGE:
            beyond = here
        found[name] = Part(here, there, origin, size, beyond)
    return found


def _cut(features: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    piece = tf.slice(features, begin, tf.concat([[1], size, [-1]], 0))
    return tf.ensure_shape(piece, [1, None, None, features.shape[-1]])


def add_at(picture: tf.Tensor, piece: tf.Tensor, tiling: Tiling, i: Any) -> tf.Tensor:
    """The picture [1, H, W, C] with a piece added at the window of tile i, in place in a loop."""
    top, left, height, width = tf.unstack(tf.gather(tiling.windows, i))
    begin, channels = [0, top, left, 0], picture.shape[-1]
    old = tf.slice(picture, begin, [1, height, width, channels])
    added = tf.raw_ops.TensorStridedSliceUpdate(
        input=picture,
        begin=begin,
        end=[1, top + height, left + width, channels],
        strides=[1, 1, 1, 1],
        value=old + piece,
    )
    return tf.ensure_shape(added, picture.shape)
