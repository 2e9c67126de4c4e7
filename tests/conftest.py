"""Settings of every test process, before NumPy and TensorFlow are imported."""

from __future__ import annotations

import gc
import os

# pytest runs several processes: more threads would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# NumPy's, which spin as they wait: 5 seconds for what one thread does in 0.02.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through TensorFlow again and again."""
    gc.collect()
    gc.freeze()
