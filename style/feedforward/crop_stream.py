"""Pictures for training: an endless stream of random crops, which depends on the seed alone."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from vgg_normalize.data import decode
from vgg_normalize.data.base import CORES
from vgg_normalize.data.sources import Source
from vgg_normalize.errors import Error, ImagesError

# Pictures of a source that is read from its beginning on that are in memory, encoded, to be mixed.
WINDOW = 1024


class CropStream:
    """Random crops of pictures, in an order that depends on the seed alone.

    Position p of the stream is a picture and a crop of it.  Each picture comes once in as many
    positions as there are pictures, an epoch; a source that can only be read in its own order is
    mixed within windows of `WINDOW`.  What cannot be used is met when its turn comes, and left out:
    the order of the others stays.

    Args:
        source: The pictures.
        size: Side of the crops in pixels; smaller pictures are left out.
        resize: Short side of the pictures before cropping, in pixels; at least `size`.
        seed: Random seed of the order and of the places of the crops.
        max_skipped: How many unreadable pictures may be left out.
        report: Told of each picture that is left out, once.
    """

    def __init__(
        self,
        source: Source,
        *,
        size: int,
        resize: int,
        seed: int,
        max_skipped: int = 0,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source = source
        self._size, self._resize, self._seed = size, resize, seed
        self._max_skipped, self._report = max_skipped, report
        self._orders = _Orders(source.total, seed, WINDOW if source.sequential else source.total)
        self._windows = _Windows(source) if source.sequential else None
        self._lock = threading.Lock()
        self._left_out: set[int] = set()
        self._unreadable = 0
        self._failures = 0  # one after the other
        self._example = ""  # of what is left out
        # What ended the stream.
        self.failure: Error | None = None

    def batches(self, first: int, batch_size: int) -> tf.data.Dataset:
        """(positions [B], crops [B, size, size, 3] in [0, 1]) from a position on, without end.

        A stream goes on behind the last position of a batch.
        """

        @tf.autograph.experimental.do_not_convert
        def load(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            usable, encoded = tf.numpy_function(
                self._load, [position], (tf.bool, tf.string), stateful=True
            )
            return position, tf.ensure_shape(usable, []), tf.ensure_shape(encoded, [])

        @tf.autograph.experimental.do_not_convert
        def is_usable(position: tf.Tensor, usable: tf.Tensor, encoded: tf.Tensor) -> tf.Tensor:
            return usable

        options = tf.data.Options()
        options.autotune.enabled = False
        positions = tf.data.Dataset.range(first, np.iinfo(np.int64).max)
        loaded = positions.map(load, num_parallel_calls=CORES, deterministic=True)
        usable = loaded.filter(is_usable)
        crops = usable.map(self._crop, num_parallel_calls=CORES, deterministic=True)
        return crops.batch(batch_size, drop_remainder=True).prefetch(2).with_options(options)

    @tf.autograph.experimental.do_not_convert
    def _crop(
        self, position: tf.Tensor, usable: tf.Tensor, encoded: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        size = self._size
        pixels = tf.cast(decode.decode(encoded), tf.float32) / 255
        shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
        scaled = tf.cast(tf.round(shape * (self._resize / tf.reduce_min(shape))), tf.int32)
        pixels = tf.image.resize(pixels, tf.maximum(scaled, size), antialias=True)
        seeds = tf.stack([tf.constant(self._seed, tf.int64), position])
        return position, tf.image.stateless_random_crop(pixels, [size, size, 3], seeds)

    def _load(self, position: np.int64) -> tuple[np.bool_, bytes]:
        """Whether the picture at a position can be used, and its encoded bytes."""
        encoded = self._usable_bytes(self._orders.index(int(position)))
        return np.bool_(bool(encoded)), encoded

    def _usable_bytes(self, index: int) -> bytes:
        """The encoded bytes of a picture, or b"" where it is left out."""
        encoded, reason, unreadable = self._read(index)
        with self._lock:
            self._failures = self._failures + 1 if reason else 0
            if reason:
                self._leave_out(index, reason, unreadable)
        return b"" if reason else encoded

    def _read(self, index: int) -> tuple[bytes, str, bool]:
        """The bytes of a picture, why it cannot be used or "", and whether it is unreadable."""
        try:
            read = self._windows.read if self._windows else self._read_at
            encoded = read(index)
        except OSError as error:
            return b"", f"cannot be read ({error.strerror or error})", True
        defect = decode.find_defect(encoded) or _find_decoding_error(encoded)
        if defect:
            return b"", defect, True
        small = decode.find_defect(encoded, self._size).replace("this network", "the crop")
        return encoded, small, False

    def _read_at(self, index: int) -> bytes:
        return self.source.read(index)[1]

    def _leave_out(self, index: int, reason: str, unreadable: bool) -> None:
        """Say so once, and raise ImagesError where it is one too many."""
        if index not in self._left_out:
            self._left_out.add(index)
            self._unreadable += unreadable
            complaint = self._example = f"{self._name(index)!r}: {reason}"
            if unreadable and self._unreadable > self._max_skipped:
                self.failure = self.failure or ImagesError(
                    f"Expected at most {self._max_skipped} unreadable pictures under "
                    f"{self.source.name!r}. Received: {complaint}. Mend or remove it, or allow more "
                    "with `max_skipped`."
                )
                raise self.failure
            self._report(f"left out {complaint}")
        # A good one comes once an epoch: at the start of one and at the end of the next at worst, and
        # those that are read at the same time come in any order.
        if self._failures >= 2 * self.source.total + CORES:
            self.failure = self.failure or self._none(f"{self._name(index)!r}: {reason}")
            raise self.failure

    def _none(self, example: str) -> ImagesError:
        return ImagesError(
            f"Expected pictures of at least {self._size} x {self._size} under {self.source.name!r}. "
            f"Received: none, for example {example}. Lower `size`, or give larger pictures."
        )

    def _name(self, index: int) -> str:
        """The name of a picture, as far as it can be told without a long search."""
        if self.source.sequential:
            return f"number {index}"
        try:
            return self.source.read(index)[0]
        except OSError as error:
            return str(error.filename)

    def usable(self, count: int | None = None) -> list[tuple[str, bytes]]:
        """The names and bytes of the first so many pictures that can be used; None: of all.

        Raises:
            ImagesError: There are none, or too many unreadable ones.
        """
        found: list[tuple[str, bytes]] = []
        for index in range(self.source.total):
            if len(found) == count:
                break
            if encoded := self._usable_bytes(index):
                found.append((self._name(index), encoded))
        if not found:
            raise self._none(self._example)
        return found


class _Orders:
    """Which picture stands at each position; all that need be kept is the order of an epoch."""

    def __init__(self, total: int, seed: int, window: int) -> None:
        self._total, self._seed, self._window = total, seed, window
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def index(self, position: int) -> int:
        """The index of the picture at a position."""
        epoch, place = divmod(position, self._total)
        window, place = divmod(place, self._window)
        first = window * self._window
        with self._lock:
            if (epoch, window) not in self._kept:
                count = min(self._window, self._total - first)
                random = np.random.Generator(np.random.PCG64([self._seed, epoch, window]))
                self._kept[epoch, window] = random.permutation(count)
                while len(self._kept) > 2:
                    self._kept.popitem(last=False)
            return first + int(self._kept[epoch, window][place])


class _Windows:
    """Reading by index a source that is read from its beginning on: two windows are in memory."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._next = 0
        self._iterator: Iterator[Any] = iter(())

    def read(self, index: int) -> bytes:
        """The bytes of a picture."""
        window, place = divmod(index, WINDOW)
        with self._lock:
            if window not in self._kept:
                self._kept[window] = self._load(window)
                while len(self._kept) > 2:
                    self._kept.popitem(last=False)
            return self._kept[window][place]

    def _load(self, window: int) -> list[bytes]:
        first = window * WINDOW
        last = min(first + WINDOW, self._source.total)
        if first != self._next or not first:  # not behind the last window: find the place
            indices = np.arange(first, self._source.total)
            self._iterator = self._source.encoded(indices).as_numpy_iterator()
        self._next = last
        return [bytes(next(self._iterator)[1]) for _ in range(first, last)]


def _find_decoding_error(encoded: bytes) -> str:
    """Why a picture with a good header cannot be decoded, or ""; JPEGs are left to `find_defect`."""
    if encoded[:3] == b"\xff\xd8\xff":
        return ""
    try:
        decode.decode(tf.constant(encoded))
    except tf.errors.OpError as error:
        return f"cannot be decoded ({_shorten(error.message)})"
    return ""


def _shorten(message: str) -> str:
    """An error message of TensorFlow without the names of its nodes."""
    text = re.sub(r"\{\{.*?\}\}|.*Iterator::\S+: |\[\[|\]\]|\[Op:.*", " ", message)
    return " ".join(text.split())[-200:]


def iterate(stream: CropStream, place: int, batch_size: int) -> Iterator[tuple[tf.Tensor, int]]:
    """(crops [B, size, size, 3], where the stream goes on), batch by batch without end.

    Args:
        stream: The pictures.
        place: The position from which the stream goes on.
        batch_size: B.

    Raises:
        ImagesError: Too many pictures cannot be used, or one was changed while it was read.
    """
    try:
        for positions, crops in stream.batches(place, batch_size):
            yield crops, int(positions[-1]) + 1
    except tf.errors.OpError as error:
        raise stream.failure or _changed(error) from error


def zip_batches(
    contents: CropStream, styles: CropStream, places: tuple[int, int], batch_size: int
) -> Iterator[tuple[tf.Tensor, tf.Tensor, tuple[int, int]]]:
    """(contents, styles, where both streams go on), batch by batch; else as `iterate`."""
    pairs = zip(
        iterate(contents, places[0], batch_size),
        iterate(styles, places[1], batch_size),
        strict=True,
    )
    for (content, content_place), (style, style_place) in pairs:
        yield content, style, (content_place, style_place)


def _changed(error: tf.errors.OpError) -> ImagesError:
    return ImagesError(
        "Expected pictures that stay as they are while they are used. Received: "
        f"{_shorten(error.message)}. Restore them, and go on with `resume`."
    )
