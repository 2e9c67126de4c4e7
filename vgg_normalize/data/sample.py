"""The built-in sample: synthetic images that are made when they are read."""

from __future__ import annotations

import numpy as np

from vgg_normalize.data import synthetic
from vgg_normalize.data.base import Source, dataset_from_reader, digest


def open_sample(max_images: int = 0) -> Source:
    """Open the first `max_images` images of the sample (0: all)."""
    count = min(max_images or synthetic.COUNT, synthetic.COUNT)

    def read(index: int) -> tuple[str, bytes]:
        return _name(index), synthetic.encoded(index)

    entries = ((_name(index), int(np.prod(synthetic.size(index)))) for index in range(count))
    return Source("sample", count, digest(entries), dataset_from_reader(read), read, mixed=True)


def _name(index: int) -> str:
    return f"sample/{index:04d}.png"
