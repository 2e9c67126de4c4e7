"""How far a measurement is: a value that can be saved, and sent to other workers.

A run that goes on from a saved state ends with the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vgg_normalize.channel_sums import Sums
from vgg_normalize.distributed import Workers
from vgg_normalize.runtime import checkpoint


class State(NamedTuple):
    """How far a measurement is.

    Attributes:
        sums: Sums over all images so far.
        positions: For each worker, the index of the next image of its share.
        skipped: Indices of images that could not be read, ascending.
    """

    sums: Sums
    positions: np.ndarray
    skipped: tuple[int, ...] = ()


def initial_state(channels: Mapping[str, int], workers: int = 1) -> State:
    """The state before the first image.

    Args:
        channels: Layer name to number of channels.
        workers: Number of workers.
    """
    return State(Sums.zeros(channels), np.arange(workers))


def save_state(path: Path, state: State, settings: str) -> None:
    """Write a checkpoint (see `checkpoint.save`)."""
    arrays = {"positions": state.positions, "skipped": np.array(state.skipped, np.int64)}
    checkpoint.save(path, {**arrays, **state.sums._asdict()}, settings)


def load_state(path: Path, settings: str, like: Sums) -> tuple[State | None, list[str]]:
    """The last good checkpoint, or None, and what was wrong (see `checkpoint.load`).

    Args:
        path: Path of the checkpoint.
        settings: A `checkpoint.fingerprint`.
        like: Sums of the same layers, whose shapes the checkpoint must have.
    """
    shapes: dict[str, tuple[int, ...] | None] = {"positions": None, "skipped": None}
    shapes |= {name: np.shape(value) for name, value in like._asdict().items()}
    arrays, complaints = checkpoint.load(path, settings, shapes)
    if arrays is None:
        return None, complaints
    sums = Sums(*(arrays[field] for field in Sums._fields))
    return State(sums, arrays["positions"], tuple(arrays["skipped"].tolist())), complaints


def broadcast_state(
    strategy: tf.distribute.Strategy, state: State | None, channels: Mapping[str, int]
) -> State | None:
    """The state of the chief, on every worker.

    Args:
        strategy: The strategy of all workers.
        state: What the chief read from its disk, or None; None on the other workers.
        channels: Layer name to number of channels.
    """
    workers = Workers.of(strategy)
    if workers.count == 1:
        return state
    header = np.array([0.0, 0.0] if state is None else [1.0, len(state.skipped)])
    present, skipped_count = workers.all_reduce(header)
    if not present:
        return None
    if state is None:  # zeros add nothing to what the chief sends
        state = State(Sums.zeros(channels), np.zeros(workers.count), (0,) * int(skipped_count))
    vector = np.concatenate([state.sums.to_vector(), state.positions, state.skipped])
    sums, rest = Sums.from_vector(workers.all_reduce(vector), channels)
    positions, skipped = np.split(rest.astype(int), [workers.count])
    return State(sums, positions, tuple(skipped.tolist()))
