"""Settings of every test process, before NumPy and TensorFlow are imported."""

from __future__ import annotations

import gc
import os
import sys

import pytest
from processes import settle

# pytest runs several processes: more threads would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# NumPy's, which spin as they wait: 5 seconds for what one thread does in 0.02.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# What XLA compiles runs once or twice here, so that optimising the machine code does not pay.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Imports make objects by the hundred thousand, all of which stay.
gc.disable()


def pytest_collection_finish() -> None:
    """After the last import."""
    settle()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before the fixtures of a test: initial weights and draws without a seed are the same too.

    Else they follow from what ran before, and one time in a thousand a small network is dead.
    """
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)
