"""The preview of a training: fixed contents in fixed styles, on one sheet."""

from __future__ import annotations

import numpy as np

from style.cli.training_pictures import TrainingPictures
from style.feedforward.networks import Network
from style.images import writing

# Contents and styles on the sheet, at most.
PREVIEW_COUNT = 3


def save_preview(path: str, network: Network, pictures: TrainingPictures, size: int) -> None:
    """Write a sheet of squares: contents (rows) in styles (columns), with both at the margins.

    Args:
        path: The file to write.
        network: The network as trained so far.
        pictures: Its first contents and styles are shown.
        size: Side of each square, in pixels.
    """
    contents, styles = (squares[:PREVIEW_COUNT] for squares in pictures.first_squares())
    if network.code is None:
        count = network.transform.input["code"].shape[-1]
        codes = np.eye(count, dtype=np.float32)[: len(styles)]
    else:
        codes = network.code(styles).numpy()
    columns = [contents]
    for code in codes:
        repeated = np.repeat(code[None], len(contents), 0)
        outputs = network.transform({"content": contents, "code": repeated})
        columns.append(np.asarray(outputs["image"]))
    header = np.concatenate([np.ones((1, size, size, 3)), styles])
    rows = [header, *(np.stack(row) for row in zip(*columns, strict=True))]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
    writing.save(path, np.clip(sheet, 0, 1))  # an untrained network is far outside
