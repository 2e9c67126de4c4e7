"""What terms compare with, by tiles: kept where that is little memory, else extracted each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from style.objective import evaluation, windows
from style.objective import tiling as tiles
from style.objective.evaluation import References
from style.objective.features import Features
from style.objective.layer_geometry import IMAGE
from style.objective.tiling import Tiling

# How many numbers are kept, of 4 bytes: block4_conv2 of VGG19 at 4096 x 4096 pixels.
MAX_KEPT = 2**27


def numbers_kept(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many numbers layers of these shapes are, or 0 if they are extracted each time."""
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    return numbers if numbers <= MAX_KEPT else 0


class TileReferences:
    """The features of a picture at the positions that a tile owns.

    Args:
        features: Window of the picture -> its features.
        shapes: Layer name -> height, width and channels of each layer that terms compare with.
        tiling: The tiles.
        picture: The picture, [1, H, W, 3].
    """

    def __init__(
        self,
        features: Features,
        shapes: Mapping[str, Sequence[int]],
        tiling: Tiling,
        picture: tf.Tensor,
    ) -> None:
        self._features, self._shapes, self._tiling = features, shapes, tiling
        self._keeps = numbers_kept(shapes) > 0
        self._layers_of = evaluation.traced_once(self._put_together)
        # The layers, or the picture alone.
        self._variables: dict[str, tf.Variable] = {}
        self.compare_with(picture)

    def compare_with(self, picture: tf.Tensor) -> None:
        """Replace the picture by another of its shape."""
        values = self._layers_of(picture) if self._keeps else {IMAGE: picture}
        evaluation.store(self._variables, values)

    def of_tile(self, i: tf.Tensor) -> References:
        """Layer name -> the features that tile i owns, [1, h, w, C]."""
        if not self._keeps:
            return self._extract(self._variables[IMAGE], i)
        references = {}
        for name, variable in self._variables.items():
            top, left, height, width = tf.unstack(tf.gather(self._tiling.positions[name], i))
            size = [1, height, width, variable.shape[-1]]
            references[name] = tf.slice(variable, [0, top, left, 0], size)
        return references

    def _extract(self, picture: tf.Tensor, i: tf.Tensor) -> References:
        window = windows.crop_window(picture, self._tiling, i)
        owned = tiles.tile_features(self._features(window), {}, self._tiling, i)
        return {name: owned[name].features for name in self._shapes}

    def _put_together(self, picture: tf.Tensor) -> dict[str, tf.Tensor]:
        """The layers of the whole picture, from one tile after the other."""
        extract = tf.function(self._extract, autograph=False)
        extract = extract.get_concrete_function(picture, tf.constant(0))

        def add(i: tf.Tensor, layers: References) -> tuple[tf.Tensor, References]:
            pieces = extract(picture, i)
            corners = {name: tf.gather(self._tiling.positions[name], i)[:2] for name in layers}
            return i + 1, {
                name: windows.put(layer, pieces[name], corners[name])
                for name, layer in layers.items()
            }

        blank = {n: windows.zeros([1, *s], picture.dtype) for n, s in self._shapes.items()}
        return tf.while_loop(
            lambda i, _: i < self._tiling.tiles, add, (tf.constant(0), blank), parallel_iterations=1
        )[1]
