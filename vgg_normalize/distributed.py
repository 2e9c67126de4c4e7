"""The workers of a tf.distribute strategy, and sums over all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from vgg_normalize.errors import DevicesError


@contextlib.contextmanager
def naming_lost_workers(flags: str) -> Iterator[None]:
    """Make what TensorFlow raises where another process has gone a DevicesError.

    Args:
        flags: With which all of them can go on.
    """
    try:
        yield
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise DevicesError(
            "Expected all workers to go on. Received: a worker was lost "
            f"({' '.join(str(error.message).split())[:120]}). Start all of them again with {flags}."
        ) from error


@dataclass(frozen=True)
class Workers:
    """The processes of a strategy, seen from one of them.

    Attributes:
        strategy: The strategy.
        count: Number of workers.
        index: Which of them this process is, from 0.
    """

    strategy: tf.distribute.Strategy
    count: int
    index: int

    @classmethod
    def of(cls, strategy: tf.distribute.Strategy) -> Workers:
        """The workers of a strategy: one, unless it is multi-worker."""
        resolver = getattr(strategy, "cluster_resolver", None)
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
            return cls(strategy, 1, 0)
        cluster = resolver.cluster_spec().as_dict()
        counts = {task: len(addresses) for task, addresses in cluster.items()}
        # The chief comes before the workers, whose own numbers begin at 0.
        first = counts.get("chief", 0) if resolver.task_type == "worker" else 0
        return cls(strategy, sum(counts.values()) or 1, first + (resolver.task_id or 0))

    @property
    def replicas_each(self) -> int:
        return self.strategy.num_replicas_in_sync // self.count

    def all_reduce(self, vector: np.ndarray) -> np.ndarray:
        """The sum of one float64 vector from each worker.

        All workers must call this, with vectors of the same length.
        """

        def replica_value(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            # The first replica of a worker carries its vector, the others zeros.
            first = context.replica_id_in_sync_group % self.replicas_each == 0
            return tf.constant(vector if first else np.zeros_like(vector))

        values = self.strategy.experimental_distribute_values_from_function(replica_value)
        return np.asarray(self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None))

    def one_hot(self, value: float) -> np.ndarray:
        """A value at the index of this worker and zeros elsewhere: summed, they list all values."""
        values = np.zeros(self.count)
        values[self.index] = value
        return values

    def gather(self, items: Sequence[int], counts: np.ndarray) -> list[int]:
        """The items of all workers, in the order of the workers.

        Args:
            items: Those of this worker.
            counts: Number of items of each worker, [count].
        """
        table = np.zeros((self.count, int(counts.max())))
        table[self.index, : len(items)] = items
        table = self.all_reduce(table.ravel()).reshape(table.shape)
        return [
            int(item)
            for row, count in zip(table, counts, strict=True)
            for item in row[: int(count)]
        ]
