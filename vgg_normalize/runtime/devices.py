"""Which devices to compute on, as `tf.distribute` strategies."""

from __future__ import annotations

import json
import os

import tensorflow as tf

from vgg_normalize.errors import DevicesError, UsageError

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def split_cpu(count: int) -> None:
    """Make several logical devices of the CPU; only before TensorFlow has started.

    Raises:
        DevicesError: TensorFlow has started already.
    """
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError as error:
        raise DevicesError(
            f"Expected to split the CPU before TensorFlow starts. Received: logical_cpus={count} "
            "afterwards. Start a new process."
        ) from error


def describe() -> str:
    """What TensorFlow computes on, in words; starts no device."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    what = ", ".join(f"GPU {name}".strip() for name in names)
    cores = os.cpu_count() or 1
    return f"TensorFlow {tf.__version__} on " + (what or f"the CPU ({cores} cores, no GPU found)")


def strategy(name: str) -> tf.distribute.Strategy | None:
    """The strategy of that name; None for one device.

    Args:
        name: "auto" takes all GPUs if there are several, the workers of TF_CONFIG if it is set,
            else one device.

    Raises:
        DevicesError: There are no such devices.
        UsageError: No such strategy.
    """
    if name not in STRATEGIES:
        raise UsageError(
            f"Expected strategy {', '.join(STRATEGIES)}. Received: {name!r}. Choose one."
        )
    if name == "auto":
        name = "one"
        if _cluster():
            name = "multiworker"
        elif len(tf.config.list_physical_devices("GPU")) > 1:
            name = "mirrored"
    if name == "mirrored":
        # Not before: listing them starts TensorFlow, and then no cluster can be joined.
        gpus = tf.config.list_logical_devices("GPU")
        cpus = tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in gpus or cpus])
    if name == "multiworker":
        return _multiworker()
    return _tpu() if name == "tpu" else None


def _cluster() -> dict[str, object]:
    try:
        return json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    except (ValueError, AttributeError) as error:
        raise DevicesError(
            "Expected TF_CONFIG to be JSON with a cluster and a task. Received: "
            f"{os.environ['TF_CONFIG'][:80]!r}. Correct it or unset it."
        ) from error


def _multiworker() -> tf.distribute.Strategy:
    if not _cluster():
        raise DevicesError(
            "Expected the cluster in TF_CONFIG for --strategy=multiworker. Received: none. Set "
            'TF_CONFIG={"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
            '"index": 0}} on every worker.'
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise DevicesError(
            "Expected all workers of TF_CONFIG to answer. Received: "
            f"{' '.join(str(error).split())[:200]}. Start all of them."
        ) from error


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            "local" if os.environ.get("TPU_NAME") is None else os.environ["TPU_NAME"]
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise DevicesError(
            "Expected a TPU. Received: none found. Install the tensorflow-tpu wheel of your "
            "TensorFlow version on a TPU machine, or use --strategy=auto."
        ) from error


def is_chief(chosen: tf.distribute.Strategy | None) -> bool:
    """Whether this process is the one that writes."""
    resolver = getattr(chosen, "cluster_resolver", None)
    if not isinstance(chosen, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return True
    cluster = resolver.cluster_spec().as_dict()
    return resolver.task_type == "chief" or ("chief" not in cluster and resolver.task_id == 0)
