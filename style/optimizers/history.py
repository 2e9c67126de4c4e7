"""The pairs (s, y) that L-BFGS remembers: in memory, or in files where pictures are large.

The two loops of the recursion (see `lbfgs`) are all that reads them, so they stand here; what is
between them, the initial inverse Hessian, does not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from vgg_normalize.errors import OutputError
from vgg_normalize.runtime import staging


class History(Protocol):
    """A memory of the last m pairs (s_i, y_i), as pure functions of `pairs`.

    `pairs` is whatever `init` and `add` return; m pairs are in it from the beginning, and those
    whose rho_i is 0 change nothing.
    """

    @property
    def size(self) -> int:
        """m."""

    def init(self, x: tf.Tensor) -> Any:
        """`pairs` of the shape of x, none of which counts."""

    def add(self, pairs: Any, s: tf.Tensor, y: tf.Tensor) -> Any:
        """`pairs` with one more, the oldest forgotten."""

    def first_loop(self, pairs: Any, rho: tf.Tensor, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """q and alpha [m] after alpha_i = rho_i s_i.q, q <- q - alpha_i y_i, newest pair first."""

    def second_loop(self, pairs: Any, rho: tf.Tensor, alpha: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
        """q after beta_i = rho_i y_i.q, q <- q + (alpha_i - beta_i) s_i, oldest pair first."""


class Pairs(NamedTuple):
    """Differences of x and of the gradient as tensors, oldest first."""

    s: tuple[tf.Tensor, ...]
    y: tuple[tf.Tensor, ...]


class InMemoryHistory:
    """A `History` in memory, whose `pairs` are tensors.

    Args:
        size: How many pairs are kept, m.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def init(self, x: tf.Tensor) -> Pairs:
        """Zeros."""
        zeros = tuple(tf.zeros_like(x) for _ in range(self.size))
        return Pairs(zeros, zeros)

    def add(self, pairs: Pairs, s: tf.Tensor, y: tf.Tensor) -> Pairs:
        """See `History`."""
        return Pairs((*pairs.s[1:], s), (*pairs.y[1:], y))

    def first_loop(self, pairs: Pairs, rho: tf.Tensor, q: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See `History`."""
        alphas = []
        for s, y, rho_i in zip(*map(reversed, (*pairs, tf.unstack(rho))), strict=True):
            alpha = rho_i * tf.reduce_sum(s * q)
            alphas.append(alpha)
            q = q - alpha * y
        return q, tf.stack(alphas[::-1])

    def second_loop(
        self, pairs: Pairs, rho: tf.Tensor, alpha: tf.Tensor, q: tf.Tensor
    ) -> tf.Tensor:
        """See `History`."""
        for s, y, rho_i, alpha_i in zip(*pairs, tf.unstack(rho), tf.unstack(alpha), strict=True):
            q = q + (alpha_i - rho_i * tf.reduce_sum(y * q)) * s
        return q


class DiskHistory:
    """A `History` in files, whose `pairs` are their numbers, int64 [m], 0 for none.

    Each pair is written once under a number of its own and never changed.  So a checkpoint that
    names the numbers stays good while later pairs are written, as long as `hold` keeps their files
    from being deleted.  The host reads and writes them between evaluations.

    Args:
        path: The folder, created if it is missing; of one run alone, as each begins to count at 1.
        size: How many pairs are kept, m.

    Raises:
        OutputError: The folder cannot be created.
    """

    # Entries that are read at once: 16 MiB in float32.
    CHUNK = 1 << 22

    def __init__(self, path: str | os.PathLike[str], size: int) -> None:
        self.path, self.size = Path(path), size
        with _guard_writes(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # What an earlier run left may belong to its checkpoints.
        self._held = set(self._numbers_on_disk())
        self._error: OutputError | None = None

    def init(self, x: tf.Tensor) -> tf.Tensor:
        """No file yet."""
        return tf.zeros([self.size], tf.int64)

    def add(self, pairs: tf.Tensor, s: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """See `History`."""
        numbers = tf.numpy_function(self._write_pair, [pairs, s, y], tf.int64)
        return tf.ensure_shape(numbers, [self.size])

    def first_loop(
        self, pairs: tf.Tensor, rho: tf.Tensor, q: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `History`."""
        after, alpha = tf.numpy_function(self._first_loop, [pairs, rho, q], [q.dtype, q.dtype])
        return tf.ensure_shape(after, q.shape), tf.ensure_shape(alpha, [self.size])

    def second_loop(
        self, pairs: tf.Tensor, rho: tf.Tensor, alpha: tf.Tensor, q: tf.Tensor
    ) -> tf.Tensor:
        """See `History`."""
        after = tf.numpy_function(self._second_loop, [pairs, rho, alpha, q], q.dtype)
        return tf.ensure_shape(after, q.shape)

    def hold(self, numbers: Iterable[int]) -> None:
        """Keep the files of these pairs, and of no others, after they are forgotten."""
        self._held = {int(number) for number in numbers}

    def clear(self) -> None:
        """Delete all files, and the folder if nothing else is in it."""
        for number in self._numbers_on_disk():
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
                        "of it. Give the same `memory_folder`, or start afresh: without `resume`, "
                        "and with another `checkpoint`."
                    )

    def _write_pair(self, numbers: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
        number = int(numbers.max()) + 1
        with self._remember_error(), _guard_writes(self.path):
            try:
                for kind, array in (("s", s), ("y", y)):
                    with self._file(number, kind).open("wb") as file:
                        np.ascontiguousarray(array).tofile(file)
                        file.flush()
                        os.fsync(file.fileno())
            except OSError:
                self._delete(number)
                raise
        after = np.append(numbers[1:], number)
        for old in set(self._numbers_on_disk()) - self._held - set(after.tolist()):
            self._delete(old)
        return after

    def _first_loop(
        self, numbers: np.ndarray, rho: np.ndarray, q: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        flat, alpha = q.ravel().copy(), np.zeros(self.size, q.dtype)
        with self._remember_error():
            for i in reversed(range(self.size)):
                if rho[i]:
                    alpha[i] = rho[i] * self._dot(numbers[i], "s", flat)
                    self._add_to(flat, -alpha[i], numbers[i], "y")
        return flat.reshape(q.shape), alpha

    def _second_loop(
        self, numbers: np.ndarray, rho: np.ndarray, alpha: np.ndarray, q: np.ndarray
    ) -> np.ndarray:
        flat = q.ravel().copy()
        with self._remember_error():
            for i in range(self.size):
                if rho[i]:
                    beta = rho[i] * self._dot(numbers[i], "y", flat)
                    self._add_to(flat, alpha[i] - beta, numbers[i], "s")
        return flat.reshape(q.shape)

    def _dot(self, number: int, kind: str, q: np.ndarray) -> np.floating[Any]:
        products = [float(np.dot(chunk, q[at])) for at, chunk in self._read(number, kind, q)]
        return q.dtype.type(sum(products))

    def _add_to(self, q: np.ndarray, factor: np.floating[Any], number: int, kind: str) -> None:
        for at, chunk in self._read(number, kind, q):
            q[at] += factor * chunk

    def _read(self, number: int, kind: str, q: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Chunk by chunk: a mapping's pages would count as this process's memory."""
        path = self._file(int(number), kind)
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        with file:
            for start in range(0, q.size, self.CHUNK):
                at = slice(start, min(start + self.CHUNK, q.size))
                try:
                    chunk = np.fromfile(file, q.dtype, at.stop - at.start)
                except OSError as error:
                    raise _unreadable(path, error.strerror or str(error)) from error
                if chunk.size < at.stop - at.start:
                    raise _unreadable(path, "only the beginning of it")
                yield at, chunk

    @contextlib.contextmanager
    def _remember_error(self) -> Iterator[None]:
        """Keep the exception for `raise_if_failed`."""
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

    def _numbers_on_disk(self) -> list[int]:
        return [int(file.stem.removeprefix("pair")) for file in self.path.glob("pair*.s")]


def _guard_writes(folder: Path) -> contextlib.AbstractContextManager[None]:
    return staging.guard_writes(folder, "a folder for pairs", "`memory_folder`")


def _unreadable(path: Path, what: str) -> OutputError:
    return OutputError(
        f"Expected the pair {path}, which this run wrote. Received: {what}. Let nothing else "
        "change `memory_folder`, and run again."
    )
