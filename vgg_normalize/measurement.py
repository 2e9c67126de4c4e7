"""Measuring many images, on any tf.distribute strategy.

Each worker reads its own share of the images (every W-th of W workers) and keeps sums of its own;
only these sums travel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import channel_sums
from vgg_normalize.channel_sums import Sums
from vgg_normalize.data import sources
from vgg_normalize.distributed import Workers, naming_lost_workers
from vgg_normalize.errors import ImagesError
from vgg_normalize.measurement_state import State, initial_state
from vgg_normalize.networks import chain

# Rounds (a batch for every replica) between two exchanges of sums among workers.
ROUNDS = 8
# The smallest number of images that `--target_error` may stop at: with fewer, the standard errors
# themselves are too uncertain.
LEAST_IMAGES = 32
# The share of the living filters that must reach the error of `--target_error`.
QUANTILE = 0.95


class InputOptions(NamedTuple):
    """How images are read.

    Attributes:
        batch_size: Number of images in a batch on one device.
        resize: "squash", "crop" or "none", see `sources.batches`.
        image_size: Side in pixels that images are resized to.
        min_side: Shortest side in pixels of an image that is not skipped.
    """

    batch_size: int = 8
    resize: str = "squash"
    image_size: int = 224
    min_side: int = 1


def worst_error(sums: Sums, channels: Mapping[str, int]) -> float:
    """The relative standard error that 95 % of the living filters do not exceed."""
    if sums.images < 2:
        return float("inf")
    errors = sums.to_means(channels).relative_errors()
    return float(np.quantile(errors, QUANTILE)) if len(errors) else 0.0


def measure(
    model: keras.Model,
    source: sources.Source,
    input_options: InputOptions,
    *,
    state: State | None = None,
    strategy: tf.distribute.Strategy | None = None,
    max_skipped: int = 0,
) -> Generator[State, None, None]:
    """Measure a network on a source; yields the state whenever all workers agree on it.

    The first state is that of the beginning, the last that of the end.

    Args:
        model: A chain of layers.
        source: The images.
        input_options: How they are read.
        state: State to go on from; default: the beginning.
        strategy: A tf.distribute strategy; default: one device.
        max_skipped: Number of unreadable images above which ImagesError is raised.

    Raises:
        ImagesError: Too many images are unreadable, or all of them.
        NetworkError: An activation is not finite.
        DevicesError: A worker was lost.
    """
    strategy = strategy or tf.distribute.get_strategy()
    with _scope(strategy) as distributed:
        network = chain.features(chain.copy(model) if distributed else model)
    channels = channel_sums.channels_of(network)
    workers = Workers.of(strategy)
    state = initial_state(channels, workers.count) if state is None else state
    yield state
    share = np.arange(state.positions[workers.index], source.total, workers.count)
    run = _Run(workers, source, input_options, channels, share, max_skipped)
    batches, step = run.dataset(distributed), run.step(network)
    with naming_lost_workers("`resume`"):
        state = yield from run.rounds(state, batches, step)
    if not state.sums.images:
        raise ImagesError(
            f"Expected readable images. Received: none of the {source.total} under "
            f"{source.name!r} can be read. Check the path."
        )
    yield state


@contextlib.contextmanager
def _scope(strategy: tf.distribute.Strategy) -> Iterator[bool]:
    """The scope of a strategy of several devices; yields whether it is one."""
    distributed = strategy is not tf.distribute.get_strategy()
    with strategy.scope() if distributed else contextlib.nullcontext():
        yield distributed


class _Unshared(NamedTuple):
    """What a worker has read since the last exchange.

    Attributes:
        sums: Sums over the images that could be read.
        indices: Indices of these images.
    """

    sums: Sums
    indices: list[int]


@dataclass(frozen=True)
class _Run:
    """One call of `measure` on one worker.

    Attributes:
        workers: All workers.
        source: The images.
        input_options: How they are read.
        channels: Layer name to number of channels.
        share: Indices of the images that this worker has to read, ascending.
        max_skipped: Number of unreadable images above which ImagesError is raised.
    """

    workers: Workers
    source: sources.Source
    input_options: InputOptions
    channels: Mapping[str, int]
    share: np.ndarray
    max_skipped: int

    def dataset(self, distributed: bool) -> Any:
        """Batches of indices and images of this worker's share."""

        def read(context: Any = None) -> tf.data.Dataset:
            return sources.batches(self.source, self.share, **self.input_options._asdict())

        strategy = self.workers.strategy
        return strategy.distribute_datasets_from_function(read) if distributed else read()

    def step(self, network: keras.Model) -> Callable[[Any], Any]:
        """A graph from a batch to indices, sums and positions, each of them by replica."""
        strategy = self.workers.strategy
        on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        forward = channel_sums.summing_step(network, tf.float32 if on_tpu else tf.float64)

        @tf.function(reduce_retracing=True, autograph=False)
        def step(batch: Any) -> Any:
            index, image = batch
            return index, *strategy.run(forward, (image,))

        return step

    def rounds(
        self, state: State, batches: Any, step: Callable[[Any], Any]
    ) -> Generator[State, None, State]:
        """Sum the share; yields the state after each exchange, and returns the last one."""
        unshared = self.nothing_read()
        for count, batch in enumerate(batches, 1):
            unshared = self.add(unshared, step(batch))
            if self.workers.count == 1 or count % ROUNDS == 0:
                state = self.exchange(state, unshared)
                yield state
                unshared = self.nothing_read()
        return self.exchange(state, unshared, at_end=True)

    def nothing_read(self) -> _Unshared:
        return _Unshared(Sums.zeros(self.channels), [])

    def add(self, unshared: _Unshared, results: Any) -> _Unshared:
        """Add what `step` gave for one batch, on each replica of this worker."""
        local_results = self.workers.strategy.experimental_local_results
        sums, read = unshared
        for index, s, n in zip(*(local_results(result) for result in results), strict=True):
            if not len(index):
                continue
            indices = [int(i) for i in index.numpy()]
            s = s.numpy()
            names = [partial(_name, self.source, i) for i in indices]
            channel_sums.require_finite(s, self.channels, names)
            sums += Sums.from_batch(s, n.numpy(), self.channels)
            read = read + indices
        return _Unshared(sums, read)

    def exchange(self, state: State, unshared: _Unshared, *, at_end: bool = False) -> State:
        """Add the sums of all workers to the state.

        Raises:
            ImagesError: Too many images are unreadable.
        """
        position = int(state.positions[self.workers.index])
        after = self._next_position(position, unshared.indices, at_end)
        missing = np.setdiff1d(np.arange(position, after, self.workers.count), unshared.indices)
        if self.workers.count == 1:
            sums, positions, skipped = unshared.sums, np.array([after]), missing.tolist()
        else:
            sums, positions, skipped = self._gather(unshared.sums, after, missing)
        # One worker skips in ascending order as it is.
        state = State(state.sums + sums, positions, tuple(sorted([*state.skipped, *skipped])))
        self._require_few_skipped(state)
        return state

    def _next_position(self, position: int, read: list[int], at_end: bool) -> int:
        """The index of the image of the share that follows those read, or all of them."""
        if at_end:
            behind = int(self.share[-1]) + self.workers.count if len(self.share) else position
            return max(position, behind)
        return read[-1] + self.workers.count if read else position

    def _gather(
        self, sums: Sums, position: int, skipped: np.ndarray
    ) -> tuple[Sums, np.ndarray, list[int]]:
        """The sums of all workers together, their positions, and what they skipped."""
        # One vector from each worker: its sums, its position and how many images it skipped.
        one_hot = self.workers.one_hot
        vector = np.concatenate([sums.to_vector(), one_hot(position), one_hot(len(skipped))])
        total, rest = Sums.from_vector(self.workers.all_reduce(vector), self.channels)
        positions, counts = np.split(rest, 2)
        # All workers see the same counts, so either all of them gather or none.
        all_skipped = self.workers.gather(skipped.tolist(), counts) if counts.sum() else []
        return total, positions.astype(int), all_skipped

    def _require_few_skipped(self, state: State) -> None:
        """Raises ImagesError if more images were skipped than allowed."""
        if len(state.skipped) <= self.max_skipped:
            return
        last = sources.skip_reason(self.source, state.skipped[-1], self.input_options.min_side)
        raise ImagesError(
            f"Expected at most {self.max_skipped} unreadable images. Received: "
            f"{len(state.skipped)}, the last {last['path']!r}: {last['reason']}. Mend it, or allow "
            "more with `max_skipped`."
        )


def _name(source: sources.Source, index: int) -> str:
    try:
        return source.read(index)[0]
    except OSError:
        return f"image {index}"
