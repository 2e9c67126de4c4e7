"""Settings of every test process, before TensorFlow is imported."""

from __future__ import annotations

import gc
import os

# pytest runs several processes: more threads would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through TensorFlow again and again."""
    gc.collect()
    gc.freeze()
