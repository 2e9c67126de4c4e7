"""The content and style pictures of a training, and the order in which they are used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from style.cli.settings import TrainSettings
from style.feedforward import crop_stream, data
from style.feedforward.crop_stream import CropStream
from style.images import resizing
from vgg_normalize.data import sources
from vgg_normalize.data.sources import Source
from vgg_normalize.errors import ImagesError
from vgg_normalize.runtime.progress import Heartbeat, say

# Where the streams of contents and of styles go on.
Places = tuple[int, int]
# Contents and styles that a preview, and the weight that a strength comes to, are made with.
FIRST = 8
# A content batch, a style batch, and the places behind them.
Batch = tuple[Any, Any, Places]


class TrainingPictures:
    """What a network is trained on.

    Args:
        settings: What `style.train` was asked for.

    Raises:
        ImagesError: There are no pictures.
    """

    def __init__(self, settings: TrainSettings) -> None:
        Heartbeat.doing("listing the pictures")
        self._settings = settings
        self.contents = _open("--content", settings.content, settings, 2 * settings.seed)
        self.styles = _open("--style", settings.style, settings, 2 * settings.seed + 1)
        self._fixed = 0
        self._squares: list[np.ndarray] = []

    def digests(self) -> dict[str, str]:
        """SHA-256 sums that tell other pictures apart."""
        return {"contents": self.contents.source.sha256, "styles": self.styles.source.sha256}

    def first_squares(self) -> list[np.ndarray]:
        """The middles of the first contents and of the first styles, [N, size, size, 3]; read once.

        N is `FIRST`, or less where there are fewer.
        """
        if not self._squares:
            self._squares = [
                np.stack(
                    [
                        data.center_square(encoded, self._settings.size)
                        for _, encoded in stream.usable(FIRST)
                    ]
                )
                for stream in (self.contents, self.styles)
            ]
        return self._squares

    def fixed_styles(self) -> tuple[list[str], list[np.ndarray]]:
        """Names and pixels [H, W, 3] of all styles; the short side is at least --size pixels.

        From now on batches hold their indices in place of pictures.
        """
        names, pixels = [], []
        for name, encoded in self.styles.usable():
            style = data.decode_pixels(encoded)
            short, long = sorted(style.shape[:2])
            names.append(name)
            pixels.append(resizing.fit(style, self._settings.size * max(2, long / short)))
        self._fixed = len(names)
        return names, pixels

    def batches(self, places: Places) -> Iterator[Batch]:
        """Batches from these places on, without end: contents and styles [B, size, size, 3].

        With fixed styles their indices [B] instead.
        """
        size = self._settings.batch_size
        if not self._fixed:
            yield from crop_stream.zip_batches(self.contents, self.styles, places, size)
            return
        place = places[1]
        for content, after in crop_stream.iterate(self.contents, places[0], size):
            seed = 2 * self._settings.seed + 1
            order = data.example_order(self._fixed, place, place + size, seed)
            place += size
            yield content, tf.constant(order, tf.int32), (after, place)


def _open(flag: str, path: str, settings: TrainSettings, seed: int) -> CropStream:
    return CropStream(
        _open_source(flag, path),
        size=settings.size,
        resize=settings.resize or settings.size,
        seed=seed,
        max_skipped=settings.max_skipped,
        report=lambda line: say(f"{path}: {line}"),
    )


def _open_source(flag: str, path: str) -> Source:
    named = path.startswith("tfds:") or path == "sample"
    if not named and not os.path.exists(os.path.expanduser(path)):
        raise ImagesError(
            f"Expected a folder, a .tar or tfds:NAME/SPLIT. Received: {path!r}, which does not "
            f"exist. Check {flag}."
        )
    return sources.open_source(path)
