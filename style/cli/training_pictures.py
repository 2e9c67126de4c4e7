"""The content and style pictures of a training: which of them are used, and in which order."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from style.cli.settings import TrainSettings
from style.feedforward import data
from style.images import resizing
from vgg_normalize.data import sources
from vgg_normalize.data.sources import Source
from vgg_normalize.errors import ImagesError
from vgg_normalize.runtime.progress import Heartbeat, say

# Steps whose pictures are listed at once: the list of millions of steps would fill the memory.
CHUNK_STEPS = 2000


class Pictures(NamedTuple):
    """The pictures of a folder that are large enough.

    Attributes:
        source: All pictures of the folder.
        indices: Which of them are used.
    """

    source: Source
    indices: np.ndarray

    def read(self, count: int | None = None) -> list[tuple[str, bytes]]:
        """The names and encoded bytes of the first so many pictures; None: of all."""
        return [self.source.read(int(index)) for index in self.indices[:count]]

    def dataset(self, settings: TrainSettings, examples: tuple[int, int], seed: int) -> Any:
        """Random crops [B, size, size, 3] of the examples from the first number to the last."""
        order = data.example_order(len(self.indices), *examples, seed)
        return data.random_crops(
            self.source,
            self.indices[order],
            first=examples[0],
            seed=seed,
            size=settings.size,
            resize=settings.resize or settings.size,
            batch_size=settings.batch_size,
        )


class TrainingPictures(NamedTuple):
    """What a network is trained on."""

    contents: Pictures
    styles: Pictures

    def digests(self) -> dict[str, str]:
        """SHA-256 sums that tell other pictures apart."""
        chosen = self.contents.indices.tobytes() + self.styles.indices.tobytes()
        return {
            "contents": self.contents.source.sha256,
            "styles": self.styles.source.sha256,
            "chosen": hashlib.sha256(chosen).hexdigest(),
        }

    def fixed_styles(self, size: int) -> tuple[list[str], list[np.ndarray]]:
        """Names and pixels [H, W, 3] of all styles; the short side is at least `size` pixels."""
        names, pixels = [], []
        for name, encoded in self.styles.read():
            style = data.decode_pixels(encoded)
            short, long = sorted(style.shape[:2])
            names.append(name)
            pixels.append(resizing.fit(style, size * max(2, long / short)))
        return names, pixels

    def batches(self, settings: TrainSettings, first: int, last: int) -> Iterator[tuple[Any, Any]]:
        """(contents, styles) of the steps from number `first` to before `last`.

        Both are [B, size, size, 3]; for the method cin the styles are indices [B].
        """
        for begin in range(first, last, CHUNK_STEPS):
            end = min(begin + CHUNK_STEPS, last)
            yield from self._chunk(
                settings, (begin * settings.batch_size, end * settings.batch_size)
            )

    def _chunk(
        self, settings: TrainSettings, examples: tuple[int, int]
    ) -> Iterator[tuple[Any, Any]]:
        content_seed, style_seed = 2 * settings.seed, 2 * settings.seed + 1
        contents = self.contents.dataset(settings, examples, content_seed)
        if settings.method == "cin":
            order = data.example_order(len(self.styles.indices), *examples, style_seed)
            indices = tf.data.Dataset.from_tensor_slices(order.astype(np.int32))
            styles = indices.batch(settings.batch_size)
        else:
            styles = self.styles.dataset(settings, examples, style_seed)
        return data.zip_batches(contents, styles)


def open_pictures(settings: TrainSettings) -> TrainingPictures:
    """List and check all pictures of --content and --style.

    Raises:
        ImagesError: There are none, or too many of them cannot be read.
    """
    Heartbeat.doing("reading the pictures")
    return TrainingPictures(
        _open("--content", settings.content, settings), _open("--style", settings.style, settings)
    )


def _open(flag: str, path: str, settings: TrainSettings) -> Pictures:
    source = _open_source(flag, path)
    indices, complaints = data.usable_images(source, settings.size, settings.max_skipped)
    if complaints:
        say(f"{path}: {len(complaints)} left out, for example {complaints[0]}")
    return Pictures(source, indices)


def _open_source(flag: str, path: str) -> Source:
    if path.startswith("tfds:"):
        raise ImagesError(
            f"Expected a folder or a .tar, whose pictures can be read in any order. Received: "
            f"{path!r}. Export it to a folder."
        )
    if path != "sample" and not os.path.exists(os.path.expanduser(path)):
        raise ImagesError(
            f"Expected a folder or a .tar. Received: {path!r}, which does not exist. Check {flag}."
        )
    try:
        return sources.open_source(path)
    except ImagesError as error:
        # `sources` names the flag by which `vgg_normalize` is given pictures.
        raise ImagesError(str(error).replace("--images", flag)) from error
