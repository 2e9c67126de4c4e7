"""Measuring many images: on any tf.distribute strategy, from and to a checkpoint.

Each worker reads its own share of the images (every W-th of W workers) and keeps sums of its own;
only these sums travel.  A `State` is a value: it can be saved, and a run that goes on from it ends
with the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import chain, checkpoint, images, means
from vgg_normalize.errors import DevicesError, ImagesError

# Rounds (a batch for every replica) between two exchanges of sums among workers.
ROUNDS = 8
# The least number of images that `--target_error` may stop at: with fewer, the standard errors
# themselves are too uncertain.
LEAST_IMAGES = 32
# How many of the living filters `--target_error` wants to reach the error.
SHARE = 0.95


class State(NamedTuple):
    """How far a measurement is.

    Attributes:
        sums: Over all images so far.
        positions: For each worker, the index of the next image of its share.
        skipped: Indices of images that could not be read, ascending.
    """

    sums: means.Sums
    positions: np.ndarray
    skipped: tuple[int, ...] = ()


class Reading(NamedTuple):
    """How images are read: the options of `images.batches`."""

    batch_size: int = 8
    resize: str = "squash"
    image_size: int = 224
    min_side: int = 1


def start(channels: Mapping[str, int], workers: int = 1) -> State:
    """Nothing measured yet."""
    return State(means.zero(channels), np.arange(workers))


def worst_error(sums: means.Sums, channels: Mapping[str, int]) -> float:
    """The relative standard error that 95 % of the living filters do not exceed."""
    if sums.images < 2:
        return float("inf")
    errors = means.finish(sums, channels).relative_errors()
    return float(np.quantile(errors, SHARE)) if len(errors) else 0.0


def measure(
    model: keras.Model,
    source: images.Source,
    reading: Reading,
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
        reading: How they are read.
        state: Where to go on; default: the beginning.
        strategy: Of tf.distribute; default: one device.
        max_skipped: More unreadable images than this raise ImagesError.

    Raises:
        ImagesError: Too many unreadable images, or not one that is readable.
        NetworkError: An activation is not finite.
        DevicesError: A worker was lost.
    """
    strategy = strategy or tf.distribute.get_strategy()
    workers, worker = _workers(strategy)
    with _on_all(strategy) as distributed:
        network = chain.features(chain.copy(model) if distributed else model)
    channels = means.channels_of(network)
    state = start(channels, workers) if state is None else state
    yield state
    shares = [np.arange(position, source.total, workers) for position in state.positions]
    replicas = strategy.num_replicas_in_sync // workers

    def dataset(context: Any = None) -> tf.data.Dataset:
        return images.batches(source, shares[worker], **reading._asdict())

    batches = strategy.distribute_datasets_from_function(dataset) if distributed else dataset()
    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    step = means.summing_step(network, tf.float32 if on_tpu else tf.float64)

    @tf.function(reduce_retracing=True)
    def run(batch: Any) -> Any:
        index, image = batch
        return index, *strategy.run(step, (image,))

    local, rounds = means.zero(channels), 0
    seen: list[int] = []
    try:
        for batch in batches:
            indices, sums, positions = (strategy.experimental_local_results(x) for x in run(batch))
            for index, s, n in zip(indices, sums, positions, strict=True):
                if not len(index):
                    continue
                where = [int(i) for i in index.numpy()]
                s = s.numpy()
                means.require_finite(s, channels, [partial(_name, source, i) for i in where])
                local += means.of_images(s, n.numpy(), channels)
                seen += where
            rounds += 1
            if workers == 1 or rounds % ROUNDS == 0:
                state = _exchange(strategy, state, local, seen, shares, worker, replicas)
                _require_few(state, source, reading, max_skipped)
                yield state
                local, seen = means.zero(channels), []
        state = _exchange(strategy, state, local, seen, shares, worker, replicas, at_end=True)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise DevicesError(
            "Expected all workers to go on. Received: a worker was lost "
            f"({' '.join(str(error.message).split())[:120]}). Start all of them again with "
            "--resume."
        ) from error
    _require_few(state, source, reading, max_skipped)
    if not state.sums.images:
        raise ImagesError(
            f"Expected readable images. Received: none of the {source.total} under "
            f"{source.name!r} can be read. Check --images."
        )
    yield state


@contextlib.contextmanager
def _on_all(strategy: tf.distribute.Strategy) -> Iterator[bool]:
    """The strategy's scope, if it is one of several devices; whether it is."""
    distributed = strategy is not tf.distribute.get_strategy()
    with strategy.scope() if distributed else contextlib.nullcontext():
        yield distributed


def _workers(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    resolver = getattr(strategy, "cluster_resolver", None)
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 1, 0
    cluster = resolver.cluster_spec().as_dict()
    counts = {task: len(addresses) for task, addresses in cluster.items()}
    first = counts.get("chief", 0) if resolver.task_type == "worker" else 0
    return sum(counts.values()) or 1, first + (resolver.task_id or 0)


def _exchange(
    strategy: tf.distribute.Strategy,
    state: State,
    local: means.Sums,
    seen: list[int],
    shares: list[np.ndarray],
    worker: int,
    replicas: int,
    at_end: bool = False,
) -> State:
    """Add the sums of all workers to the state."""
    workers = len(shares)
    position = int(state.positions[worker])
    after = seen[-1] + workers if seen else position
    if at_end:
        after = (
            max(position, int(shares[worker][-1]) + workers) if len(shares[worker]) else position
        )
    due = np.arange(position, after, workers)
    missing = np.setdiff1d(due, seen)
    if workers == 1:
        skipped = (*state.skipped, *missing.tolist())
        return State(state.sums + local, np.array([after]), skipped)
    # One vector from each worker: its sums, its position, how many it skipped and which.
    positions = np.zeros(workers)
    positions[worker] = after
    counts = np.zeros(workers)
    counts[worker] = len(missing)
    vector = np.concatenate([*(np.atleast_1d(part) for part in local), positions, counts])
    total = _all_reduce(strategy, vector, replicas)
    added, rest = _unpack(total, local)
    positions, counts = np.split(rest, 2)
    all_skipped = list(state.skipped)
    if counts.sum():
        table = np.zeros((workers, int(counts.max())))
        table[worker, : len(missing)] = missing
        table = _all_reduce(strategy, table.ravel(), replicas).reshape(table.shape)
        for row, count in zip(table, counts, strict=True):
            all_skipped += [int(index) for index in row[: int(count)]]
    return State(state.sums + added, positions.astype(int), tuple(sorted(all_skipped)))


def _unpack(vector: np.ndarray, like: means.Sums) -> tuple[means.Sums, np.ndarray]:
    """The sums that a vector begins with, in these shapes, and the rest of it."""
    *parts, rest = np.split(vector, np.cumsum([np.size(part) for part in like]))
    shaped = (part.reshape(np.shape(old)) for part, old in zip(parts, like, strict=True))
    return means.Sums(*shaped), rest


def _all_reduce(strategy: tf.distribute.Strategy, vector: np.ndarray, replicas: int) -> np.ndarray:
    """The sum of one float64 vector from each worker."""

    def give(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        mine = context.replica_id_in_sync_group % replicas == 0
        return tf.constant(vector if mine else np.zeros_like(vector))

    values = strategy.experimental_distribute_values_from_function(give)
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
    return np.asarray(total)


def _name(source: images.Source, index: int) -> str:
    try:
        return source.read(index)[0]
    except OSError:
        return f"image {index}"


def _require_few(state: State, source: images.Source, reading: Reading, max_skipped: int) -> None:
    if len(state.skipped) <= max_skipped:
        return
    example = images.reason(source, state.skipped[-1], reading.min_side)
    raise ImagesError(
        f"Expected at most {max_skipped} unreadable images. Received: {len(state.skipped)}, the "
        f"last {example['path']!r}: {example['reason']}. Mend it, or allow more with --max_skipped."
    )


def save_state(path: Path, state: State, settings: str) -> None:
    """Write a checkpoint (see `checkpoint.save`)."""
    arrays = {"positions": state.positions, "skipped": np.array(state.skipped, np.int64)}
    checkpoint.save(path, {**arrays, **state.sums._asdict()}, settings)


def load_state(path: Path, settings: str, like: means.Sums) -> tuple[State | None, list[str]]:
    """The last good checkpoint, or None, and what was wrong (see `checkpoint.load`).

    Args:
        path: Of the checkpoint.
        settings: A `checkpoint.fingerprint`.
        like: Sums of the same layers, whose shapes the checkpoint must have.
    """
    shapes: dict[str, tuple[int, ...] | None] = {"positions": None, "skipped": None}
    shapes |= {name: np.shape(value) for name, value in like._asdict().items()}
    arrays, complaints = checkpoint.load(path, settings, shapes)
    if arrays is None:
        return None, complaints
    sums = means.Sums(*(arrays[field] for field in means.Sums._fields))
    return State(sums, arrays["positions"], tuple(arrays["skipped"].tolist())), complaints


def share(
    strategy: tf.distribute.Strategy, state: State | None, channels: Mapping[str, int]
) -> State | None:
    """Give every worker the state that the chief (the one that has one) read from its disk."""
    workers, _ = _workers(strategy)
    if workers == 1:
        return state
    replicas = strategy.num_replicas_in_sync // workers
    known = np.array([0.0, 0.0] if state is None else [1.0, len(state.skipped)])
    present, count = _all_reduce(strategy, known, replicas)
    if not present:
        return None
    fresh = start(channels, workers)
    blank = fresh._replace(positions=fresh.positions * 0) if state is None else state
    skipped = np.zeros(int(count)) if state is None else np.array(state.skipped, float)
    parts = [*blank.sums, blank.positions, skipped]
    vector = np.concatenate([np.ravel(part).astype(float) for part in parts])
    sums, rest = _unpack(_all_reduce(strategy, vector, replicas), fresh.sums)
    positions, skipped = np.split(rest.astype(int), [workers])
    return State(sums, positions, tuple(skipped.tolist()))
