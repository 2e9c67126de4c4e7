"""Images of a data set of the package tensorflow-datasets."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from vgg_normalize.data.base import Source, digest
from vgg_normalize.errors import ImagesError


def open_tfds(spec: str, max_images: int = 0) -> Source:
    """Open any TensorFlow data set with a feature "image", in stored order (shuffled by hash).

    Args:
        spec: "tfds:NAME/SPLIT".
        max_images: Number of images to take from the beginning (0: all).

    Raises:
        ImagesError: It cannot be prepared, or holds no images.
    """
    name, _, split = spec.removeprefix("tfds:").rpartition("/")
    if not name or not split:
        raise ImagesError(
            f"Expected tfds:NAME/SPLIT. Received: {spec!r}. "
            "For example tfds:imagenet_v2/test needs no manual download."
        )
    builder, dataset = _prepare(spec, name, split)
    total = int(builder.info.splits[split].num_examples)
    count = min(max_images or total, total)
    if count == 0:
        raise ImagesError(
            f"Expected pictures. Received: no images under {spec!r}. Check the split."
        )
    dataset = dataset.take(count)

    def encoded(indices: np.ndarray) -> tf.data.Dataset:
        return _select(dataset, indices)

    def read(index: int) -> tuple[str, bytes]:
        example = next(iter(dataset.skip(index).take(1)))
        return example["tfds_id"].numpy().decode(), example["image"].numpy()

    return Source(
        spec, count, _digest(builder, split, count), encoded, read, mixed=True, sequential=True
    )


def _prepare(spec: str, name: str, split: str) -> tuple[Any, tf.data.Dataset]:
    """The builder of a data set, and its encoded examples with their identifiers.

    Raises:
        ImagesError: tensorflow-datasets is missing, or it cannot prepare this data set.
    """
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder(name)
        builder.download_and_prepare()
        builder.info.splits[split]  # raises if there is no such split
        features = builder.info.features
        if "image" not in features:
            raise ImagesError(
                f"Expected a data set with a feature 'image'. Received: {name} with "
                f"{', '.join(features)}. Choose another data set."
            )
        return builder, builder.as_dataset(
            split=split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(
                add_tfds_id=True, interleave_cycle_length=1, try_autocache=False
            ),
            shuffle_files=False,
        )
    except ImagesError:
        raise
    except ImportError as error:
        raise ImagesError(
            f"Expected tensorflow-datasets and what it needs. Received: {error}. Run "
            "pip install tensorflow-datasets importlib_resources, or give a folder."
        ) from error
    except (Exception, SystemExit) as error:  # TFDS raises AssertionError, ValueError, ...
        raise ImagesError(
            f"Expected a TensorFlow data set. Received: {spec!r}, which cannot be prepared: "
            f"{' '.join(str(error).split())[:400]}"
        ) from error


def _select(dataset: tf.data.Dataset, indices: np.ndarray) -> tf.data.Dataset:
    """(index, file content) of the examples at these ascending indices."""
    as_it_is = tf.autograph.experimental.do_not_convert
    numbered = dataset.enumerate()
    if len(indices):
        first, last = int(indices[0]), int(indices[-1])
        is_selected = np.zeros(last + 1, bool)
        is_selected[indices] = True
        numbered = numbered.skip(first).take(last + 1 - first)
        numbered = numbered.filter(
            as_it_is(lambda index, _: tf.gather(tf.constant(is_selected), index))
        )
    else:
        numbered = numbered.take(0)
    return numbered.map(as_it_is(lambda index, example: (index, example["image"])))


def _digest(builder: Any, split: str, count: int) -> str:
    """The sum over the data set's name, the number of images and its files."""
    entries = [(f"{builder.info.full_name}/{split}[:{count}]", count)]
    for path in map(str, getattr(builder.info.splits[split], "filepaths", [])):
        size = os.path.getsize(path) if os.path.exists(path) else 0
        entries.append((os.path.basename(path), size))
    return digest(entries)
