"""The files that keras.applications downloads, from Keras' cache or the network.

Not by way of its networks, which it builds first, with weights that are drawn at random.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import keras

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications"
MD5 = {
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5": "64373286793e3c8b2b4e3219cbf3544b",
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5": "6d6bbae143d832006294945121d1f1fc",
    "vgg19_weights_tf_dim_ordering_tf_kernels.h5": "cbe5617147190e668d6c5d5026f83318",
    "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5": "253f8cb515780f3b799900260a226db6",
}
# Seconds without an answer after which a download counts as failed.
TIMEOUT = 20.0


def name_of(architecture: str, *, include_top: bool) -> str:
    """The name of a file, for "vgg16" or "vgg19" with or without its classifier."""
    return f"{architecture}_weights_tf_dim_ordering_tf_kernels{'' if include_top else '_notop'}.h5"


def fetch(name: str) -> Path:
    """Where a file is, after a download if it was not there.

    Raises:
        Exception: The download failed; Keras raises the bare class.
    """
    origin = f"{ADDRESS}/{name.partition('_')[0]}/{name}"
    with _download_timeout():
        return Path(keras.utils.get_file(name, origin, cache_subdir="models", file_hash=MD5[name]))


@contextlib.contextmanager
def _download_timeout() -> Iterator[None]:
    """Downloads fail after `TIMEOUT` seconds without data: Keras would wait for ever."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
