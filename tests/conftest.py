"""Settings of every test process, before TensorFlow is imported."""

from __future__ import annotations

import os

# pytest runs several processes: more threads would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
