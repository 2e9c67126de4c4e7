"""A trained network as a SavedModel with the `signatures`, and what `style.apply` does with it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style.feedforward.layers import EPSILON
from style.feedforward.networks import Network
from style.feedforward.signatures import decoder_halo, make_signatures
from style.objective import tiling
from vgg_normalize.errors import NetworkError, OutputError
from vgg_normalize.networks import chain

ASSET = "network.json"
# Peak bytes for each pixel that is computed at once: VmHWM of networks of full width over
# what the process had before, at 1024 x 1024 and 1600 x 1200 pixels on two cores (565, 549, 549; of
# codes 549, 804).  Whole runs of `style.apply` took 566 at 2000 x 2000 and 560 at 3000 x 3000.
_TRANSFORM_BYTES = {"adain": 580, "encoder": 565, "cin": 565}
_CODE_BYTES = {"adain": 565, "encoder": 820}
# For each pixel of the whole picture: as read, resized, padded, stylised, and as written.
_PICTURE_BYTES = 64
# For each pixel with masks: sums of float64; and two numbers for each mask.
_MASKED_BYTES, _MASK_BYTES = 80, 12
# For graphs and what the allocator keeps.
_FIXED_BYTES = 0.2 * 2**30
_Block = tuple[tuple[slice, slice], tuple[slice, slice]]


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
        network: The trained network.
        model: The VGG that it was built with.
        directory: Where to write; it must not exist.
        styles: Names of a CIN network's styles, in the order of their weights; else empty.
        settings: How the network was trained, as JSON values.

    Raises:
        OutputError: It cannot be written.
    """
    names = [stage.layer.name for stage in chain.stages(model)]
    # A style must be large enough for every layer at which it is encoded.
    deepest = network.target_layer or ([n for n in names if n.endswith("conv1")] or names)[-1]
    description = {
        "method": network.method,
        "stride": network.stride,
        "styles": styles,
        "least_style": chain.min_image_size(chain.features(model, [deepest])),
        "halo": decoder_halo(network, model),
        "settings": dict(settings),
    }
    # The weights alone: of a Keras model TensorFlow would trace and store a call of its own, too.
    models = [part for part in (network.transform, network.code) if part is not None]
    saved = tf.train.Checkpoint(weights=[w.value for part in models for w in part.weights])
    signatures = make_signatures(network, model)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            asset = Path(temporary) / ASSET
            asset.write_text(json.dumps(description))
            saved.description = tf.saved_model.Asset(str(asset))
            tf.saved_model.save(saved, str(directory), signatures=signatures)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise OutputError(
            f"Expected to write {directory}. Received: {' '.join(str(error).split())[:200]}. Make "
            "room or choose another `output`."
        ) from error


def holds_weights(directory: Path, weights: Iterable[np.ndarray]) -> bool:
    """Whether a directory that `save` wrote holds arrays with exactly these bits."""
    try:
        reader = tf.train.load_checkpoint(str(directory / "variables" / "variables"))
        names = [n for n, kind in reader.get_variable_to_dtype_map().items() if kind.is_floating]
        saved = {_digest(reader.get_tensor(name)) for name in names}
    except (OSError, ValueError, tf.errors.OpError):  # no such directory, or a damaged one
        return False
    return all(_digest(array) in saved for array in weights)


def _digest(array: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return array.shape, hashlib.sha256(array.tobytes()).digest()


class SavedNetwork:
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
                f"no assets/{ASSET}. Check `network`."
            )
        try:
            self.description = json.loads(asset.read_text())
            self._module = tf.saved_model.load(directory)
            self.method = str(self.description["method"])
            self.styles = list(self.description["styles"])
            self.stride = int(self.description["stride"])
            self.halo = int(self.description["halo"])
            self.min_style_size = int(self.description["least_style"])
            _require_valid(self.method, self.stride, self.halo, self.min_style_size)
        except Exception as error:  # TensorFlow and JSON raise many kinds for damaged files
            raise NetworkError(
                f"Expected a whole network. Received: {directory!r}, which is damaged "
                f"({' '.join(str(error).split())[:200]}). Train or fetch it again."
            ) from error

    def _call(self, name: str, output: str, **inputs: Any) -> tf.Tensor:
        tensors = {key: tf.convert_to_tensor(value, tf.float32) for key, value in inputs.items()}
        return self._module.signatures[name](**tensors)[output]

    def code_memory(self, shape: tuple[int, int]) -> int:
        """About how many bytes more `code` takes for a picture of this height and width."""
        return int(_CODE_BYTES.get(self.method, 0) * shape[0] * shape[1] + _FIXED_BYTES)

    def memory(
        self, shape: tuple[int, int], *, tile: int = 0, own_code: bool = False, masks: int = 0
    ) -> int:
        """About how many bytes more the process takes to stylise a picture.

        Args:
            shape: Height and width of the content in pixels.
            tile: As in `transform`.
            own_code: Whether the content's own code is computed as well.
            masks: Number of styles that have masks.
        """
        pixels = window = shape[0] * shape[1]
        if tile and tile < max(shape):
            height, width = tiling.largest_block_window(shape, tile, self.stride, self.halo)
            window = height * width
        factor = max(
            _TRANSFORM_BYTES[self.method], _CODE_BYTES.get(self.method, 0) if own_code else 0
        )
        whole = _PICTURE_BYTES + (_MASKED_BYTES + masks * _MASK_BYTES if masks else 0)
        return int(factor * window + whole * pixels + _FIXED_BYTES)

    def code(self, picture: np.ndarray, *, tile: int = 0) -> tf.Tensor:
        """The code [1, D] of a picture.

        Args:
            picture: [H, W, 3] in [0, 1].
            tile: As in `transform`.
        """
        if not tile or tile >= max(picture.shape[:2]):
            return self._call("code", "code", style=picture[None])
        mean, deviation = self._moments(picture, self._blocks(picture.shape[:2], tile))
        return tf.constant(np.concatenate([mean, deviation])[None], tf.float32)

    def transform(self, content: np.ndarray, code: tf.Tensor, *, tile: int = 0) -> np.ndarray:
        """Stylise a content: the picture [H, W, 3] in [0, 1].

        Args:
            content: [H, W, 3] in [0, 1].
            code: [1, D], that of a style or a blend of codes.
            tile: Side in pixels of the tiles that bound the memory; 0: no tiles.  AdaIN only, where
                only the moments of one layer depend on the whole picture.
        """
        if not tile or tile >= max(content.shape[:2]):
            return self._call("transform", "image", content=content[None], code=code).numpy()[0]
        return self._transform_tiled(content, code, tile)

    def _transform_tiled(self, content: np.ndarray, code: tf.Tensor, tile: int) -> np.ndarray:
        shape = content.shape[:2]
        padding = [(0, -side % self.stride) for side in shape]
        padded = np.pad(content, (*padding, (0, 0)), "symmetric")
        blocks = self._blocks(padded.shape[:2], tile)
        mean, deviation = self._moments(padded, blocks)
        style_mean, style_deviation = np.split(np.asarray(code, np.float64)[0], 2)
        # AdaIN: sigma_s (x - mu) / sigma + mu_s = scale x + (mu_s - mu scale), scale = sigma_s / sigma.
        scale = style_deviation / deviation
        stylized = np.empty_like(padded)
        for block, window in blocks:
            image = self._call(
                "render",
                "image",
                content=padded[window][None],
                scale=scale[None],
                offset=(style_mean - mean * scale)[None],
            )
            stylized[block] = image[0].numpy()[_within(block, window)]
        return stylized[: shape[0], : shape[1]]

    def _blocks(self, shape: tuple[int, int], tile: int) -> list[_Block]:
        """Blocks that cover every whole cell once, and the windows of pixels that they depend on.

        Pixels at the end that fill no cell are in no block, but in the windows of the last ones.
        """
        whole = (shape[0] // self.stride * self.stride, shape[1] // self.stride * self.stride)
        blocks, windows = tiling.make_blocks(whole, tile, self.stride, self.halo)
        windows[:, 2:] = np.where(windows[:, 2:] == whole, shape, windows[:, 2:])
        parts = [
            [(slice(y0, y1), slice(x0, x1)) for y0, x0, y1, x1 in corners]
            for corners in (blocks, windows)
        ]
        return list(zip(*parts, strict=True))

    def _moments(self, picture: np.ndarray, blocks: list[_Block]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [C] of AdaIN's features, summed block by block.

        mu = sum x / N and sigma = sqrt(sum x^2 / N - mu^2 + epsilon), in float64.
        """
        total: Any = 0.0
        for block, window in blocks:
            features = self._call("encode", "features", image=picture[window][None])[0].numpy()
            cells = features[_within(block, window, self.stride)]
            x = cells.reshape(-1, features.shape[-1]).astype(np.float64)
            total = total + np.stack([np.full(x.shape[1], len(x)), x.sum(0), np.square(x).sum(0)])
        mean = total[1] / total[0]
        return mean, np.sqrt(np.maximum(total[2] / total[0] - mean**2, 0) + EPSILON)


def _require_valid(method: str, stride: int, halo: int, least_style: int) -> None:
    """Raise ValueError for numbers that `save` never writes and tiles could not be cut by."""
    if method not in _TRANSFORM_BYTES:
        raise ValueError(f"the unknown method {method!r}")
    if stride < 1 or halo < 0 or halo % stride or least_style < 1:
        raise ValueError(
            f"a stride of {stride}, a halo of {halo}, styles from {least_style} pixels"
        )


def _within(
    block: tuple[slice, slice], window: tuple[slice, slice], stride: int = 1
) -> tuple[slice, ...]:
    """Where a block lies in its window, in cells of `stride` pixels."""
    return tuple(
        slice((inner.start - outer.start) // stride, (inner.stop - outer.start) // stride)
        for inner, outer in zip(block, window, strict=True)
    )
