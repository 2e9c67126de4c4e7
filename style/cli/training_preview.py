"""The preview of a training: fixed contents in fixed styles, on one sheet."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from style.cli.training_pictures import TrainingPictures
from style.feedforward.networks import Network
from style.images import writing

# Contents and styles on the sheet, at most.
PREVIEW_COUNT = 3


def save_preview(path: str, network: Network, pictures: TrainingPictures) -> None:
    """Write a sheet of squares: contents (rows) in styles (columns), with both at the margins.

    Args:
        path: The file to write.
        network: The network as trained so far.
        pictures: Its first contents and styles are shown.
    """
    contents, styles = (squares[:PREVIEW_COUNT] for squares in pictures.first_squares())
    if network.code is None:
        count = network.transform.input["code"].shape[-1]
        codes = np.eye(count, dtype=np.float32)[: len(styles)]
    else:
        codes = network.code(styles).numpy()
    columns = []
    for code in codes:
        repeated = np.repeat(code[None], len(contents), 0)
        outputs = network.transform({"content": contents, "code": repeated})
        columns.append(np.asarray(outputs["image"]))
    sheet = lay_out(contents, styles, zip(*columns, strict=True))
    writing.save(path, np.clip(sheet, 0, 1))  # an untrained network is far outside


def lay_out(
    contents: Iterable[np.ndarray],
    styles: Iterable[np.ndarray],
    rows: Iterable[Iterable[np.ndarray]],
) -> np.ndarray:
    """The sheet [H, W, 3] of pictures of one size [h, w, 3]: those of each content in a row after it,
    those of each style in a column below it."""
    header = list(styles)
    lines = [[np.ones_like(header[0]), *header]]
    lines += [[content, *row] for content, row in zip(contents, rows, strict=True)]
    return np.concatenate([np.concatenate(line, 1) for line in lines])
