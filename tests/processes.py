"""What makes a process of the tests cheaper once its imports are done."""

from __future__ import annotations

import gc
import sys


def settle() -> None:
    """Collect garbage less often, and keep no stack with each operation of a graph."""
    # What is imported stays: the collector need not look through TensorFlow again and again.
    gc.collect()
    gc.freeze()
    # Nor so often through graphs, which are cycles of a hundred thousand objects.
    gc.set_threshold(10_000, 20, 50)
    gc.enable()
    if "tensorflow" in sys.modules:
        _share_one_stack()


def _share_one_stack() -> None:
    """One stack for all operations of graphs, which else keep the one that made each of them.

    It is for messages of TensorFlow that no test reads, and under pytest it is long.
    """
    from tensorflow.python.util import tf_stack

    stack = tf_stack.extract_stack()
    tf_stack.extract_stack = lambda stacklevel=1: stack
