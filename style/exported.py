"""A trained network as a SavedModel, and what `style.apply` needs to know of it.

Signatures, all for any H and W, float32 in [0, 1]:

* `serving_default(content, style)`, of CIN `serving_default(content, weights)` -> `image`;
* `code(style)` -> `code`; not of CIN, whose code are the weights;
* `transform(content, code)` -> `image`;
* of AdaIN `encode(image)` -> `features`, and `render(content, scale, offset)` -> `image`, in which
  the features get a scale and an offset by channel: with both, large pictures go tile by tile.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import tiles
from style.layers import EPSILON
from style.networks import Network
from vgg_normalize import chain
from vgg_normalize.errors import NetworkError, OutputError

ASSET = "network.json"
# Bytes for each pixel that is worked on at once, at the peak: VmHWM of networks of full width over
# what the process had before, at 1024 x 1024 and 1600 x 1200 pixels on two cores (565, 549, 549; of
# codes 549, 804).  Whole runs of `style.apply` took 566 at 2000 x 2000 and 560 at 3000 x 3000.
_TRANSFORM = {"adain": 580, "encoder": 565, "cin": 565}
_CODE = {"adain": 565, "encoder": 820}
# For each pixel of the whole picture: as it was read, at its size, padded, made, and for saving.
_PICTURE = 64
# Through masks: sums of float64, and two for each mask.
_MASKS, _MASK = 80, 12
# Graphs and what the allocator keeps.
_FIXED = 0.2 * 2**30
_Block = tuple[tuple[slice, slice], tuple[slice, slice]]
_IMAGE = tf.TensorSpec([None, None, None, 3], tf.float32)


def save(
    network: Network,
    model: keras.Model,
    directory: Path,
    *,
    styles: list[str],
    settings: Mapping[str, Any],
) -> None:
    """Write the SavedModel.

    Args:
        network: The trained one.
        model: The VGG that it was made with.
        directory: Must not exist.
        styles: Names of the styles, in the order of their weights; of CIN.
        settings: How it was trained.

    Raises:
        OutputError: It cannot be written.
    """
    names = [stage.layer.name for stage in chain.stages(model)]
    # A style must reach every layer that it is looked at.
    deepest = network.goal_layer or ([n for n in names if n.endswith("conv1")] or names)[-1]
    description = {
        "method": network.method,
        "stride": network.stride,
        "styles": styles,
        "least_style": chain.least_side(chain.features(model, [deepest])),
        "halo": _halo(model, network),
        "settings": dict(settings),
    }
    saved = tf.train.Checkpoint()
    saved.transform, saved.code = network.transform, network.code or tf.Module()
    signatures = _signatures(network, model, saved)
    try:
        with tempfile.TemporaryDirectory() as folder:
            asset = Path(folder) / ASSET
            asset.write_text(json.dumps(description))
            saved.description = tf.saved_model.Asset(str(asset))
            tf.saved_model.save(saved, str(directory), signatures=signatures)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise OutputError(
            f"Expected to write {directory}. Received: {' '.join(str(error).split())[:200]}. Make "
            "room or choose another --output."
        ) from error


def _halo(model: keras.Model, network: Network) -> int:
    """Pixels beyond its own that AdaIN's encoder and decoder look at, in whole strides."""
    if network.goal_layer is None:
        return 0
    _, halo = tiles.field(model, [network.goal_layer])
    # The decoder mirrors the encoder; up-sampling may begin anywhere in a cell.
    return (-(-2 * halo // network.stride) + 1) * network.stride


def _signatures(
    network: Network, model: keras.Model, saved: Any
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    width = int(network.transform.input["code"].shape[-1])
    codes = tf.TensorSpec([None, width], tf.float32)

    def fitted(content: tf.Tensor, make: Callable[[tf.Tensor], tf.Tensor]) -> dict[str, tf.Tensor]:
        """At a size that the strides divide, mirrored beyond the border, then cut back."""
        shape = tf.shape(content)
        beyond = -shape[1:3] % network.stride
        padding = [[0, 0], [0, beyond[0]], [0, beyond[1]], [0, 0]]
        image = make(tf.pad(content, padding, "SYMMETRIC"))
        return {"image": tf.clip_by_value(image[:, : shape[1], : shape[2]], 0.0, 1.0)}

    def transformed(content: tf.Tensor, code: tf.Tensor) -> dict[str, tf.Tensor]:
        return fitted(content, lambda x: network.transform({"content": x, "code": code})["image"])

    def function(body: Callable[..., Any], **inputs: tf.TensorSpec) -> Any:
        specs = [tf.TensorSpec(i.shape, i.dtype, name=name) for name, i in inputs.items()]
        return tf.function(body, input_signature=specs, autograph=False)

    found = {"transform": function(transformed, content=_IMAGE, code=codes)}
    if network.code is None:
        found["serving_default"] = function(
            lambda content, weights: transformed(content, weights), content=_IMAGE, weights=codes
        )
        return found
    code = network.code
    found["serving_default"] = function(
        lambda content, style: transformed(content, code(style)), content=_IMAGE, style=_IMAGE
    )
    found["code"] = function(lambda style: {"code": code(style)}, style=_IMAGE)
    if network.goal_layer is not None:
        layer = network.goal_layer
        encoder, decoder = chain.features(model, [layer]), network.trained[0]
        row = tf.TensorSpec([None, width // 2], tf.float32)
        found["encode"] = function(lambda image: {"features": encoder(image)[layer]}, image=_IMAGE)

        def render(content: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> dict[str, tf.Tensor]:
            def make(x: tf.Tensor) -> tf.Tensor:
                features = encoder(x)[layer]
                return decoder(features * scale[:, None, None] + offset[:, None, None])

            return fitted(content, make)

        found["render"] = function(render, content=_IMAGE, scale=row, offset=row)
        saved.encoder = encoder
    return found


class Loaded:
    """A trained network as it was saved.

    Args:
        directory: What `save` wrote.

    Raises:
        NetworkError: There is no such network, or it is damaged.
    """

    def __init__(self, directory: str) -> None:
        asset = Path(directory) / "assets" / ASSET
        if not asset.is_file():
            raise NetworkError(
                f"Expected a directory that style.train saved. Received: {directory!r}, which has "
                f"no assets/{ASSET}. Check --network."
            )
        try:
            self.description = json.loads(asset.read_text())
            self._module = tf.saved_model.load(directory)
            self.method = str(self.description["method"])
            self.styles = list(self.description["styles"])
            self.stride = int(self.description["stride"])
            self.halo = int(self.description["halo"])
            self.least_style = int(self.description["least_style"])
            _require_sensible(self.method, self.stride, self.halo, self.least_style)
        except Exception as error:  # TensorFlow and JSON raise many kinds for damaged files
            raise NetworkError(
                f"Expected a whole network. Received: {directory!r}, which is damaged "
                f"({' '.join(str(error).split())[:200]}). Train or fetch it again."
            ) from error

    def _call(self, name: str, output: str, **inputs: Any) -> tf.Tensor:
        tensors = {key: tf.convert_to_tensor(value, tf.float32) for key, value in inputs.items()}
        return self._module.signatures[name](**tensors)[output]

    def code_memory(self, shape: tuple[int, int]) -> int:
        """Bytes that `code` takes beyond what the process has, about, for such a picture."""
        return int(_CODE.get(self.method, 0) * shape[0] * shape[1] + _FIXED)

    def memory(
        self, shape: tuple[int, int], *, tile: int = 0, own_code: bool = False, masks: int = 0
    ) -> int:
        """Bytes that a picture takes beyond what the process has, about.

        Args:
            shape: Its height and width.
            tile: As of `transform`.
            own_code: Whether the content's own code is computed as well.
            masks: How many styles have masks.
        """
        pixels = window = shape[0] * shape[1]
        if tile and tile < max(shape):
            _, windows = tiles.blocks_of(shape, tile, self.stride, self.halo)
            window = int(np.prod(windows[:, 2:] - windows[:, :2], axis=1, dtype=np.int64).max())
        factor = max(_TRANSFORM[self.method], _CODE.get(self.method, 0) if own_code else 0)
        sides = _PICTURE + (_MASKS + masks * _MASK if masks else 0)
        return int(factor * window + sides * pixels + _FIXED)

    def code(self, picture: np.ndarray, *, tile: int = 0) -> tf.Tensor:
        """[1, D] of a picture [H, W, 3]; by tiles of so many pixels, of AdaIN only."""
        if not tile or tile >= max(picture.shape[:2]):
            return self._call("code", "code", style=picture[None])
        mean, deviation = self._moments(picture, self._blocks(picture.shape[:2], tile))
        return tf.constant(np.concatenate([mean, deviation])[None], tf.float32)

    def transform(self, content: np.ndarray, code: tf.Tensor, *, tile: int = 0) -> np.ndarray:
        """The picture [H, W, 3] of a content [H, W, 3] and a code [1, D].

        Args:
            content: In [0, 1].
            code: Of a style, or a blend.
            tile: Pixels a side of the tiles that bound the memory; of AdaIN only, where the
                statistics of one layer are all that the whole picture decides; 0: none.
        """
        if not tile or tile >= max(content.shape[:2]):
            return self._call("transform", "image", content=content[None], code=code).numpy()[0]
        return self._by_tiles(content, code, tile)

    def _by_tiles(self, content: np.ndarray, code: tf.Tensor, tile: int) -> np.ndarray:
        shape = content.shape[:2]
        beyond = [(0, -side % self.stride) for side in shape]
        padded = np.pad(content, (*beyond, (0, 0)), "symmetric")
        blocks = self._blocks(padded.shape[:2], tile)
        mean, deviation = self._moments(padded, blocks)
        goal_mean, goal_deviation = np.split(np.asarray(code, np.float64)[0], 2)
        scale = goal_deviation / deviation
        made = np.empty_like(padded)
        for block, window in blocks:
            image = self._call(
                "render",
                "image",
                content=padded[window][None],
                scale=scale[None],
                offset=(goal_mean - mean * scale)[None],
            )
            made[block] = image[0].numpy()[_within(block, window)]
        return made[: shape[0], : shape[1]]

    def _blocks(self, shape: tuple[int, int], tile: int) -> list[_Block]:
        """Blocks that cover whole cells once, and the windows that they need.

        A rest of pixels that fills no cell is in no block, but within reach of the last ones.
        """
        whole = (shape[0] // self.stride * self.stride, shape[1] // self.stride * self.stride)
        blocks, windows = tiles.blocks_of(whole, tile, self.stride, self.halo)
        windows[:, 2:] = np.where(windows[:, 2:] == whole, shape, windows[:, 2:])
        parts = [
            [(slice(y0, y1), slice(x0, x1)) for y0, x0, y1, x1 in corners]
            for corners in (blocks, windows)
        ]
        return list(zip(*parts, strict=True))

    def _moments(self, picture: np.ndarray, blocks: list[_Block]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of AdaIN's features, by blocks."""
        total: Any = 0.0
        for block, window in blocks:
            features = self._call("encode", "features", image=picture[window][None])[0].numpy()
            own = _within(block, window, self.stride)
            f = features[own].reshape(-1, features.shape[-1]).astype(np.float64)
            total = total + np.stack([np.full(f.shape[1], len(f)), f.sum(0), np.square(f).sum(0)])
        mean = total[1] / total[0]
        return mean, np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0) + EPSILON)


def _require_sensible(method: str, stride: int, halo: int, least_style: int) -> None:
    """Raises ValueError for numbers that `save` never writes, and tiles could not be cut by."""
    if method not in _TRANSFORM:
        raise ValueError(f"the unknown method {method!r}")
    if stride < 1 or halo < 0 or halo % stride or least_style < 1:
        raise ValueError(
            f"a stride of {stride}, a halo of {halo}, styles from {least_style} pixels"
        )


def _within(
    block: tuple[slice, slice], window: tuple[slice, slice], stride: int = 1
) -> tuple[slice, ...]:
    """Where a block lies in its window, in cells of so many pixels."""
    return tuple(
        slice((own.start - around.start) // stride, (own.stop - around.start) // stride)
        for own, around in zip(block, window, strict=True)
    )
