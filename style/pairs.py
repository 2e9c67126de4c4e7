"""The pairs (s, y) that L-BFGS remembers: in memory, or in files where pictures are large.

The two-loop recursion (Nocedal and Wright, "Numerical Optimization", 2nd edition, 2006, algorithm
7.4) is all that reads them, so it stands here; its middle, the initial inverse Hessian, does not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vgg_normalize import output
from vgg_normalize.errors import OutputError


class Pairs(NamedTuple):
    """A memory of the last m pairs, as functions; what they keep is a value.

    Attributes:
        init: x -> kept: no pair yet.
        add: (kept, s, y) -> kept, the oldest pair forgotten.
        first_loop: (kept, rho [m], q) -> q and alpha [m], the newest pair first.
        second_loop: (kept, rho [m], alpha [m], q) -> q, the oldest pair first.

    Pairs with rho 0 change nothing.
    """

    init: Callable[[tf.Tensor], Any]
    add: Callable[[Any, tf.Tensor, tf.Tensor], Any]
    first_loop: Callable[[Any, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    second_loop: Callable[[Any, tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


class Kept(NamedTuple):
    """Pairs in memory: the last differences of x and of the gradient, oldest first."""

    s: tuple[tf.Tensor, ...]
    y: tuple[tf.Tensor, ...]


def in_memory(count: int) -> Pairs:
    """The last so many pairs as tensors."""

    def init(x: tf.Tensor) -> Kept:
        none = tuple(tf.zeros_like(x) for _ in range(count))
        return Kept(none, none)

    def add(kept: Kept, s: tf.Tensor, y: tf.Tensor) -> Kept:
        return Kept((*kept.s[1:], s), (*kept.y[1:], y))

    def first_loop(kept: Kept, rho: tf.Tensor, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        alphas = []
        for s, y, share in zip(*map(reversed, (kept.s, kept.y, tf.unstack(rho))), strict=True):
            alpha = share * tf.reduce_sum(s * q)
            alphas.append(alpha)
            q = q - alpha * y
        return q, tf.stack(alphas[::-1])

    def second_loop(kept: Kept, rho: tf.Tensor, alpha: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        for s, y, share, a in zip(*kept, tf.unstack(rho), tf.unstack(alpha), strict=True):
            q = q + (a - share * tf.reduce_sum(y * q)) * s
        return q

    return Pairs(init, add, first_loop, second_loop)


class Folder:
    """Pairs in files, each written once under a number of its own and never changed.

    So a checkpoint that names the numbers stays good while later pairs are written, as long as
    `hold` keeps their files from being deleted.

    Args:
        path: Made if it is not there; of one run alone, as each begins to count at 1.
        count: Pairs that are kept, m.

    Raises:
        OutputError: The folder cannot be made.
    """

    # Entries that are read at once: 16 MiB in float32.
    CHUNK = 1 << 22

    def __init__(self, path: str | os.PathLike[str], count: int) -> None:
        self.path, self.count = Path(path), count
        with _writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # What an earlier run left may belong to its checkpoints.
        self._held = set(self._numbers())
        self._error: OutputError | None = None

    def hold(self, numbers: Iterable[int]) -> None:
        """Keep the files of these pairs, and of no others, beyond their time."""
        self._held = {int(number) for number in numbers}

    def clear(self) -> None:
        """Delete all files, and the folder if nothing else is in it."""
        for number in self._numbers():
            self._delete(number)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def raise_if_failed(self) -> None:
        """TensorFlow forgets which exception the host raised; this raises it again."""
        if self._error is not None:
            raise self._error

    def require(self, numbers: Iterable[int], entries: int, dtype: str = "float32") -> None:
        """Raises OutputError unless there are whole files for these pairs; 0 stands for none."""
        for number in numbers:
            for kind in "sy":
                file = self._file(int(number), kind)
                size = entries * np.dtype(dtype).itemsize
                if number and not (file.is_file() and file.stat().st_size == size):
                    raise OutputError(
                        f"Expected the pair {file} of the checkpoint. Received: none, or half "
                        "of it. Give the same --memory_folder, or start afresh: without --resume, "
                        "and with another --checkpoint."
                    )

    def pairs(self) -> Pairs:
        """The memory for `optimizers.lbfgs`; what it keeps are the numbers, int64 [m], 0 for none.

        Files are read and written between evaluations, by the host.
        """

        def init(x: tf.Tensor) -> tf.Tensor:
            return tf.zeros([self.count], tf.int64)

        def add(kept: tf.Tensor, s: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            found = tf.numpy_function(self._add, [kept, s, y], tf.int64)
            return tf.ensure_shape(found, [self.count])

        def first_loop(
            kept: tf.Tensor, rho: tf.Tensor, q: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            found, alpha = tf.numpy_function(self._first_loop, [kept, rho, q], [q.dtype, q.dtype])
            return tf.ensure_shape(found, q.shape), tf.ensure_shape(alpha, [self.count])

        def second_loop(
            kept: tf.Tensor, rho: tf.Tensor, alpha: tf.Tensor, q: tf.Tensor
        ) -> tf.Tensor:
            found = tf.numpy_function(self._second_loop, [kept, rho, alpha, q], q.dtype)
            return tf.ensure_shape(found, q.shape)

        return Pairs(init, add, first_loop, second_loop)

    def _add(self, kept: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
        number = int(kept.max()) + 1
        with self._remembered(), _writing(self.path):
            try:
                for kind, array in (("s", s), ("y", y)):
                    with self._file(number, kind).open("wb") as file:
                        np.ascontiguousarray(array).tofile(file)
                        file.flush()
                        os.fsync(file.fileno())
            except OSError:
                self._delete(number)
                raise
        after = np.append(kept[1:], number)
        for old in set(self._numbers()) - self._held - set(after.tolist()):
            self._delete(old)
        return after

    def _first_loop(
        self, kept: np.ndarray, rho: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        found, alpha = q.ravel().copy(), np.zeros(self.count, q.dtype)
        with self._remembered():
            for i in reversed(range(self.count)):
                if rho[i]:
                    alpha[i] = rho[i] * self._dot(kept[i], "s", found)
                    self._add_to(found, -alpha[i], kept[i], "y")
        return found.reshape(q.shape), alpha

    def _second_loop(
        self, kept: np.ndarray, rho: np.ndarray, alpha: np.ndarray, q: np.ndarray
    ) -> np.ndarray:
        found = q.ravel().copy()
        with self._remembered():
            for i in range(self.count):
                if rho[i]:
                    beta = rho[i] * self._dot(kept[i], "y", found)
                    self._add_to(found, alpha[i] - beta, kept[i], "s")
        return found.reshape(q.shape)

    def _dot(self, number: int, kind: str, q: np.ndarray) -> np.floating[Any]:
        parts = [float(np.dot(piece, q[at])) for at, piece in self._read(number, kind, q)]
        return q.dtype.type(sum(parts))

    def _add_to(self, q: np.ndarray, factor: np.floating[Any], number: int, kind: str) -> None:
        for at, piece in self._read(number, kind, q):
            q[at] += factor * piece

    def _read(self, number: int, kind: str, q: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Piece by piece: a mapping's pages would count as this process's memory."""
        place = self._file(int(number), kind)
        try:
            file = place.open("rb")
        except OSError as error:
            raise _unreadable(place, error.strerror or str(error)) from error
        with file:
            for start in range(0, q.size, self.CHUNK):
                at = slice(start, min(start + self.CHUNK, q.size))
                try:
                    piece = np.fromfile(file, q.dtype, at.stop - at.start)
                except OSError as error:
                    raise _unreadable(place, error.strerror or str(error)) from error
                if piece.size < at.stop - at.start:
                    raise _unreadable(place, "only the beginning of it")
                yield at, piece

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        """Remember what goes wrong, for `raise_if_failed`."""
        try:
            yield
        except OutputError as error:
            self._error = error
            raise

    def _file(self, number: int, kind: str) -> Path:
        return self.path / f"pair{number}.{kind}"

    def _delete(self, number: int) -> None:
        for kind in "sy":
            self._file(number, kind).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        return [int(file.stem.removeprefix("pair")) for file in self.path.glob("pair*.s")]


def _writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    return output.writing(folder, "a folder for pairs", "--memory_folder")


def _unreadable(place: Path, what: str) -> OutputError:
    return OutputError(
        f"Expected the pair {place}, which this run wrote. Received: {what}. Let nothing else "
        "change --memory_folder, and run again."
    )
